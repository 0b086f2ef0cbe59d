"""Runs that start from a trained network."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import dynaconv
from dynaconv.checkpoints.native import load_checkpoint
from dynaconv.errors import CheckpointError, DynaconvError
from dynaconv.training import EmaConfig, LoaderConfig, Recipe, RunConfig, ScheduleConfig, TuneConfig, fit, resume
from dynaconv.training.config import OptimizerConfig
from dynaconv.training.data.datamodule import ImageDataModule
from dynaconv.training.engine.groups import parameter_groups, roles
from dynaconv.training.engine.tuning import judge, open_source_network, settle, start_from
from dynaconv.training.engine.tuning_module import TuningModule
from tests.training.test_resume import Interrupted, Trace
from tests.training.tiny import BACKBONE, static_recipe, tiny_recipe

HALF = {"budget": 0.5, "cell_scale": 1.0, "branch_limit": 1e9}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A static network of a run of two epochs."""
    return fit(static_recipe(), tmp_path_factory.mktemp("static") / "run").best


def tuning(source, method=None, **changes) -> Recipe:
    options = {key: changes.pop(key) for key in list(changes) if key in TuneConfig.__dataclass_fields__}
    return tiny_recipe(
        method=method,
        schedule=ScheduleConfig(epochs=2, warmup_epochs=0, temperature_epochs=0),
        optimizer=OptimizerConfig(lr=1e-3),
        tune=TuneConfig(source=str(source), calibration=2, **options),
        **changes,
    )


def begin(recipe):
    source = open_source_network(recipe)
    recipe = settle(recipe, source)
    images = ImageDataModule.from_recipe(recipe)
    images.setup()
    return recipe, start_from(recipe, source, images)


def test_an_exact_start_judges_as_the_trained_network(trained, tmp_path):
    seen = []
    result = fit(tuning(trained, {"budget": 2}), tmp_path / "run", before=seen.append)
    assert seen == [result.start]
    start = result.start
    assert start["exact"]
    assert (
        start["converted_top1"]
        == start["source_top1"]
        == json.loads(trained.with_suffix(".json").read_text())["metrics"]["val_top1"]
    )
    assert start["parameters"] == result.parameters > start["parameters_before"]
    loaded, description = load_checkpoint(result.best)
    assert sum(p.numel() for p in loaded.parameters()) == result.parameters
    assert description["model"]["config"]["budget"] == 2
    assert description["mean"] == load_checkpoint(trained)[1]["mean"]


def test_learning_goes_on_in_training_mode(trained):
    recipe, start = begin(tuning(trained, {"budget": 1}))
    assert all(module.training for module in start.model.modules())
    assert not start.teacher.training
    assert not any(p.requires_grad for p in start.teacher.parameters())
    module = TuningModule(start, recipe, 10)
    x, labels = torch.randn(4, 1, 16, 16), torch.randint(0, 10, (4,))
    module.eval()  # the same statistics as the teacher
    logits = module.model(x)
    cross = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    # Where the student is the teacher, the loss is the teacher-free share of it alone.
    torch.testing.assert_close(module.loss(x, logits, labels, 0.1), 0.5 * cross, rtol=1e-4, atol=1e-4)
    other = logits + torch.tensor([1.0] + [0.0] * 9)
    taught, heat = start.teacher(x), 2.0
    p, q = (taught / heat).softmax(1), (other / heat).softmax(1)
    expected = 0.5 * nn.functional.cross_entropy(other, labels) + 0.5 * heat**2 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(module.loss(x, other, labels, 0.0), expected)


def test_what_is_lost_is_fitted_to_the_data(trained):
    """Running statistics that the approximated kernels no longer fit are estimated anew."""
    figures = {}
    for calibration in (0, 2):
        recipe = tuning(trained, HALF)
        recipe = Recipe.from_dict(recipe.to_dict() | {"tune": recipe.to_dict()["tune"] | {"calibration": calibration}})
        _, start = begin(recipe)
        assert not start.summary["exact"]
        assert max(start.summary["errors"].values()) < (1 if calibration else 10)
        figures[calibration] = start
    fitted, plain = (figures[n].model.layer4[0].bn2 for n in (2, 0))
    source = open_source_network(recipe).model.layer4[0].bn2
    assert torch.equal(plain.running_var, source.running_var)
    assert not torch.equal(fitted.running_var, source.running_var)
    assert torch.equal(fitted.weight, source.weight)


def test_a_resumed_run_equals_an_uninterrupted_one(trained, tmp_path):
    recipe = tuning(trained, HALF, ema=EmaConfig(decay=0.9), run=RunConfig(accelerator="cpu", checkpoint_every=1))
    whole, part, rest = Trace(), Trace((1, 1)), Trace()
    fit(recipe, tmp_path / "whole", callbacks=(whole,))
    with pytest.raises(Interrupted):
        fit(recipe, tmp_path / "part", callbacks=(part,))
    resume(tmp_path / "part", callbacks=(rest,))
    assert whole.seen[: len(part.seen)] == part.seen
    assert whole.seen[len(part.seen) :] == rest.seen
    states = [load_checkpoint(tmp_path / name / "last")[0].state_dict() for name in ("whole", "part")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_other_classes_get_a_fresh_classifier(tmp_path):
    torch.manual_seed(0)
    source = timm.create_model("resnet18", num_classes=7, in_chans=1, **BACKBONE)
    save_file(source.state_dict(), tmp_path / "seven.safetensors")
    torch.save({"state_dict": source.state_dict()}, tmp_path / "seven.pth")
    loader = LoaderConfig(image_size=16, batch_size=16, limit=48, in_chans=1)
    for name in ("seven.safetensors", "seven.pth"):
        recipe, start = begin(tuning(tmp_path / name, {"budget": 1}, loader=loader))
        assert start.summary["source_top1"] is None
        assert start.teacher is None
        assert start.model.fc.out_features == 10
        assert {key for key, role in start.roles.items() if role == "head"} == {"fc.weight", "fc.bias"}
        assert torch.equal(start.model.conv1.weight, source.conv1.weight)
        kernel = start.model.layer1[0].conv1.kernels(torch.randn(1, 64, 4, 4))[0]
        torch.testing.assert_close(kernel, source.layer1[0].conv1.weight)
        assert TuningModule(start, recipe, 10).distill == 0


def test_a_network_may_stay_as_it_is(trained, tmp_path):
    result = fit(tuning(trained, None), tmp_path / "run")
    assert result.start["parameters"] == result.start["parameters_before"] == result.parameters
    assert "errors" not in result.start
    assert load_checkpoint(result.best)[1]["model"].get("config") is None


@pytest.mark.parametrize("config", [dynaconv.KernelWarehouseConfig(), dynaconv.ODConvConfig(), dynaconv.SEConfig()])
def test_every_parameter_has_a_role_and_a_pace(config):
    model = dynaconv.convert(timm.create_model("resnet18", num_classes=3, **BACKBONE), config)
    found = roles(model, ("fc",))
    assert found.keys() == dict(model.named_parameters()).keys()
    assert found["conv1.weight"] == found["layer1.0.bn1.weight"] == "static"
    assert found["fc.weight"] == "head"
    kernels = {name for name, role in found.items() if role == "kernel"}
    branches = {name for name, role in found.items() if role == "branch"}
    if config.method == "se":
        assert not kernels
        assert all(".gate." in name for name in branches)
    else:
        assert all(name.startswith("warehouses.") or name.endswith(".kernel") for name in kernels)
        assert all(".attention." in name for name in branches)
    assert branches
    tune = TuneConfig(source="x", static_lr=0.1, kernel_lr=0.5, branch_lr=2.0)
    groups = parameter_groups(model, found, tune, OptimizerConfig(lr=1.0, weight_decay=0.3))
    held = [p for group in groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    pace = {"static": 0.1, "kernel": 0.5, "branch": 2.0, "head": 1.0}
    for group in groups:
        assert group["lr"] == pace[group["role"]]
        assert {p.dim() > 1 for p in group["params"]} == {group["weight_decay"] > 0}


def test_frozen_layers_stand_still_at_first(trained, tmp_path):
    class Watch(Trace):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            weights = (pl_module.model.conv1.weight, pl_module.model.layer1[0].conv1.cells)
            self.seen.append(tuple(w.detach().clone() for w in weights))

    watch = Watch()
    fit(tuning(trained, {"budget": 1}, freeze_epochs=1.0), tmp_path / "run", callbacks=(watch,))
    stem, cells = zip(*watch.seen, strict=True)
    still = [torch.equal(a, b) for a, b in pairwise(stem)]
    assert still == [True, True, False, False, False]  # three iterations an epoch; the difference is seen one later
    assert not any(torch.equal(a, b) for a, b in pairwise(cells))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "nowhere/best"}, "no file and no checkpoint; expected runs/NAME/TIME/best"),
        ({"loader": LoaderConfig(in_chans=3)}, "loader.in_chans=3; the trained network takes 1 channels"),
    ],
)
def test_errors(trained, changes, message):
    recipe = tuning(changes.pop("source", trained), {"budget": 1}, **changes)
    with pytest.raises(DynaconvError, match=message):
        settle(recipe, open_source_network(recipe))


def test_dynamic_sources_and_foreign_weights(trained, tmp_path):
    dynamic = fit(tiny_recipe(), tmp_path / "dynamic").best
    with pytest.raises(DynaconvError, match="is dynamic already; expected a static network"):
        begin(tuning(dynamic, {"budget": 1}))
    _, start = begin(tuning(dynamic))
    assert start.summary["source_top1"] == start.summary["converted_top1"]
    save_file({"stem.weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="does not fit ResNet"):
        open_source_network(tuning(tmp_path / "foreign.safetensors"))


@pytest.mark.parametrize("values", [{"noise": -1}, {"distill": 1.5}, {"distill_temperature": 0}, {"branch_lr": -1}])
def test_values_out_of_their_domain(values):
    with pytest.raises(DynaconvError, match=f"tune.{next(iter(values))}"):
        TuneConfig(source="x", **values)


def test_judging_leaves_the_network_as_it_was(trained):
    recipe, start = begin(tuning(trained))
    images = ImageDataModule.from_recipe(recipe)
    images.setup()
    before = {key: value.clone() for key, value in start.model.state_dict().items()}
    assert 0 <= judge(start.model, recipe, images) <= 1
    assert all(torch.equal(before[key], value) for key, value in start.model.state_dict().items())
