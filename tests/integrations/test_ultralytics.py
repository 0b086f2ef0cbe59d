"""The mixin for ultralytics' trainers, on a stand-in of them: the library needs nothing of ultralytics."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import dynaconv
from dynaconv.integrations.ultralytics import ConvertingTrainer, set_temperatures


class Net(nn.Sequential):
    def load(self, weights):
        self.load_state_dict(weights.state_dict(), strict=False)


def network():
    return Net(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 3))


class Base:
    """As ultralytics' trainers: a new network every time, then the weights."""

    def __init__(self, epochs):
        self.callbacks, self.epochs, self.epoch, self.model, self.ema = {}, epochs, 0, None, None

    def add_callback(self, event, function):
        self.callbacks[event] = function

    def get_model(self, cfg=None, weights=None, verbose=True):
        model = network()
        if weights is not None:
            model.load(weights)
        return model


class Trainer(ConvertingTrainer, Base):
    dynamic = dynaconv.KernelWarehouseConfig(cell_scale=1)
    where = "!4"


x = torch.randn(2, 3, 9, 9)


def trained():
    model = network()
    model.train()(torch.randn(8, 3, 12, 12))
    return model.eval()


def test_it_starts_from_trained_weights():
    weights = trained()
    model = Trainer(10).get_model(weights=weights).eval()
    assert [name for name, m in model.named_modules() if isinstance(m, dynaconv.KWConv2d)] == ["2"]
    torch.testing.assert_close(model(x), weights(x), rtol=1e-4, atol=1e-5)
    assert dynaconv.warm_start_report(model).exact


def test_where_may_be_a_function():
    class Chosen(Trainer):
        def where(name, module):
            return name == "4" and isinstance(module, nn.Conv2d)

    model = Chosen(10).get_model()
    assert [name for name, m in model.named_modules() if isinstance(m, dynaconv.KWConv2d)] == ["4"]


def test_without_weights_it_starts_afresh():
    with pytest.raises(dynaconv.DynaconvError, match="no layer of Net started from a trained kernel"):
        dynaconv.warm_start_report(Trainer(10).get_model())


def test_weights_of_a_converted_network_are_loaded_after_conversion():
    first = Trainer(10).get_model(weights=trained()).eval()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    again = Trainer(10).get_model(weights=first).eval()
    torch.testing.assert_close(again(x), first(x))


@pytest.mark.parametrize(
    ("length", "expected"), [(None, [0.75, 0.25, 0, 0]), (4, [0.875, 0.625, 0.375, 0.125]), (0, [0] * 4)]
)
def test_the_temperature_falls_in_the_network_and_its_average(length, expected):
    class Timed(Trainer):
        temperature_epochs = length

    trainer = Timed(20)
    trainer.model = trainer.get_model()
    trainer.ema = SimpleNamespace(ema=copy.deepcopy(trainer.model))
    assert trainer.callbacks["on_train_epoch_start"] is set_temperatures
    for trainer.epoch, value in enumerate(expected):
        set_temperatures(trainer)
        for model in (trainer.model, trainer.ema.ema):
            assert dynaconv.get_temperature(model) == pytest.approx(value)
