"""torch.compile, half precision and gradient checkpointing change neither what is computed nor what is kept."""

from __future__ import annotations

import copy

import pytest
import timm
import torch

import dynaconv
from dynaconv.convert import config_types
from dynaconv.errors import DynaconvError
from dynaconv.training import EmaConfig, LoaderConfig, RunConfig, ScheduleConfig, fit
from dynaconv.training.engine.activation_checkpointing import checkpoint_activations
from tests.training.tiny import BACKBONE, BATCH, IMAGES, tiny_recipe


def network(backbone: str, method: str | None) -> torch.nn.Module:
    torch.manual_seed(0)
    options = {"channels": BACKBONE["channels"]} if backbone == "resnet18" else {}
    model = timm.create_model(backbone, num_classes=10, drop_path_rate=0.2, **options)
    if method is not None:
        dynaconv.convert(model, dynaconv.config_from_dict({"method": method}))
        dynaconv.schedule_temperature(model, 0.5)
    return model.double().train()


@pytest.mark.filterwarnings("ignore::dynaconv.errors.PlanWarning")
@pytest.mark.parametrize("method", [None, *config_types()])
@pytest.mark.parametrize("backbone", ["resnet18", "test_efficientnet"])
def test_checkpointed_activations_change_nothing(backbone, method):
    model = network(backbone, method)
    lean = copy.deepcopy(model)
    checkpoint_activations(lean)
    images = torch.randn(3, 3, 40, 40, dtype=torch.float64)
    kept = []
    for each in (model, lean):
        torch.manual_seed(1)  # drop path
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):  # noqa: B023
            loss = each(images).square().mean()
        loss.backward()
        kept.append(sum(sizes))
    assert kept[1] < 0.7 * kept[0]
    for (name, one), two in zip(model.named_parameters(), lean.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-12, atol=1e-14, msg=name)
    for (name, one), two in zip(model.named_buffers(), lean.buffers(), strict=True):
        torch.testing.assert_close(two, one, rtol=0, atol=0, msg=name)


def test_a_network_that_can_not_compute_again():
    with pytest.raises(DynaconvError, match="expected one of timm's networks that can"):
        checkpoint_activations(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)))


def test_compiled_or_checkpointed(tmp_path):
    plain, compiled, lean = (
        fit(
            tiny_recipe(
                model="test_resnet",
                backbone={},
                run=RunConfig(accelerator="cpu", **options),
                schedule=ScheduleConfig(epochs=1, warmup_epochs=0),
                ema=EmaConfig(decay=0.9),
            ),
            tmp_path / name,
        )
        for name, options in {
            "plain": {},
            "compiled": {"compile": "eager"},
            "lean": {"checkpoint_activations": True},
        }.items()
    )
    for other in (compiled, lean):
        for row, expected in zip(other.rows, plain.rows, strict=True):
            assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)
            assert row["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-3)


def test_one_of_both():
    with pytest.raises(DynaconvError, match="expected false beside run"):
        RunConfig(compile=True, checkpoint_activations=True)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(tmp_path, precision):
    recipe = tiny_recipe(
        loader=LoaderConfig(image_size=64, batch_size=BATCH, limit=IMAGES),
        schedule=ScheduleConfig(epochs=1),
        run=RunConfig(accelerator="cpu", precision=precision),
    )
    assert 0 < fit(recipe, tmp_path).rows[0]["train_loss"] < 10


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options",
    [
        {"precision": "16-mixed"},
        {"precision": "bf16-mixed", "channels_last": True},
        {"compile": True},
        {"checkpoint_activations": True},
    ],
    ids=str,
)
def test_on_a_gpu(tmp_path, options):
    recipe = tiny_recipe(schedule=ScheduleConfig(epochs=1), run=RunConfig(accelerator="gpu", devices=1, **options))
    assert 0 < fit(recipe, tmp_path).rows[0]["train_loss"] < 10
