from __future__ import annotations

import pytest
import torch
from torch import nn

import dynaconv
from dynaconv.checkpoints.native import load_checkpoint
from dynaconv.training import EmaConfig, fit
from dynaconv.training._lightning import Callback
from dynaconv.training.engine.ema import EmaCallback, copy_state_buffers
from tests.training.tiny import tiny_recipe


class Follow(Callback):
    """Averages the weights a second time, by the definition."""

    def __init__(self, decay: float):
        self.decay, self.average, self.live = decay, None, None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        weights = {name: p.detach().clone() for name, p in pl_module.model.named_parameters()}
        if self.average is None:
            self.average = weights
        else:
            for name, value in weights.items():
                self.average[name] = self.decay * self.average[name] + (1 - self.decay) * value
        self.live = pl_module.model


def test_average_is_what_is_evaluated_and_saved(tmp_path):
    follow = Follow(0.8)
    result = fit(tiny_recipe(ema=EmaConfig(decay=0.8, warmup=False)), tmp_path, callbacks=(follow,))
    saved, _ = load_checkpoint(tmp_path / "last")
    live = dict(follow.live.named_parameters())
    for name, value in saved.named_parameters():
        torch.testing.assert_close(value, follow.average[name], rtol=1e-4, atol=1e-6)
    assert any(not torch.allclose(value, live[name], rtol=1e-3) for name, value in saved.named_parameters())
    assert dynaconv.get_temperature(saved) == dynaconv.get_temperature(follow.live) == 0.0
    raw = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(raw["model.conv1.weight"], live["conv1.weight"])
    assert len(result.rows) == 2


def test_accumulation_averages_once_a_step(tmp_path):
    callback = EmaCallback(EmaConfig(decay=0.5, warmup=False))
    recipe = tiny_recipe()
    recipe = type(recipe).from_dict({**recipe.to_dict(), "run": {"accelerator": "cpu", "accumulate": 3}})
    fit(recipe, tmp_path, callbacks=(callback,))
    assert callback.updates == 2  # three iterations an epoch, one step


def test_buffers_that_are_state_are_copied():
    def network() -> nn.Module:
        layer = nn.BatchNorm2d(2)
        holder = nn.Module()
        holder.register_buffer("temperature", torch.tensor(1.0))
        return nn.Sequential(layer, holder)

    source, target = network(), network()
    source[0].running_mean.fill_(3.0)
    source[1].temperature.fill_(0.25)
    copy_state_buffers(source, target)
    assert target[1].temperature == 0.25
    assert torch.equal(target[0].running_mean, torch.zeros(2))


@pytest.mark.parametrize("warmup", [True, False])
def test_first_update_takes_the_weights(warmup):
    callback = EmaCallback(EmaConfig(decay=0.99, warmup=warmup))
    from timm.utils import ModelEmaV3

    model = nn.Linear(1, 1)
    average = ModelEmaV3(nn.Linear(1, 1), decay=callback.config.decay, use_warmup=callback.config.warmup)
    average.update(model, step=1)
    assert torch.equal(average.module.weight, model.weight)
