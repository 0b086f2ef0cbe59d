from __future__ import annotations

import csv
import dataclasses
import json

import pytest
import torch
import yaml

from dynaconv.checkpoints.native import load_checkpoint, read_recipe
from dynaconv.errors import CheckpointError, DynaconvError
from dynaconv.training import (
    AugmentConfig,
    LoaderConfig,
    OptimizerConfig,
    Recipe,
    RunConfig,
    ScheduleConfig,
    evaluate,
    fit,
)
from dynaconv.training.engine.optimizer import make_optimizer
from dynaconv.training.runs.history import COLUMNS
from dynaconv.training.schedule import learning_rate_factor
from tests.training.data.test_sources import make_folder
from tests.training.tiny import BATCH, IMAGES, METHOD, static_recipe, tiny_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    reported = []
    return fit(tiny_recipe(), folder, report=reported.append), reported


def test_what_a_run_leaves(run):
    result, reported = run
    folder = result.run_dir
    names = {path.name for path in folder.iterdir()}
    pairs = {f"{name}.{kind}" for name in ("best", "last") for kind in ("safetensors", "json")}
    resuming = {"config.yaml", "data.json", "last.ckpt", "previous.ckpt"}
    assert names == pairs | resuming | {"metrics.csv", "curves.png", "tensorboard"}
    assert any((folder / "tensorboard").iterdir())
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert Recipe.from_dict(yaml.safe_load((folder / "config.yaml").read_text())) == tiny_recipe()
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [float(row["val_loss"]) for row in rows] == [row["val_loss"] for row in result.rows]
    assert reported == result.rows
    assert result.best_score == max(row["val_top1"] for row in result.rows)


def test_description_of_a_checkpoint(run):
    description = read_recipe(run[0].best)
    assert description["model"]["name"] == "resnet18"
    assert description["model"]["config"]["partition"] == "channel"
    assert (description["model"]["num_classes"], description["model"]["in_chans"]) == (10, 1)
    assert description["image_size"] == 16
    assert description["metrics"]["val_top1"] == run[0].best_score
    assert json.dumps(description)


def test_evaluation_repeats_the_validation(run):
    result = run[0]
    best = max(result.rows, key=lambda row: row["val_top1"])
    metrics = evaluate(result.best, loader=LoaderConfig(batch_size=50), accelerator="cpu")
    assert metrics["val_top1"] == pytest.approx(best["val_top1"])
    assert metrics["val_loss"] == pytest.approx(best["val_loss"], rel=1e-4)
    assert metrics["val_top5"] == pytest.approx(best["val_top5"])


def test_evaluation_on_other_images_of_the_same_classes(run):
    assert 0 <= evaluate(run[0].best, "mnist5k", accelerator="cpu")["val_top1"] <= 1


def test_evaluation_on_other_classes(run, tmp_path):
    make_folder(tmp_path, {"train": {"cat": 1, "dog": 1}, "val": {"cat": 1, "dog": 1}})
    with pytest.raises(DynaconvError, match=r"has 2 classes \(cat, dog\) and .* knows 10"):
        evaluate(run[0].best, str(tmp_path), accelerator="cpu")


def test_evaluation_without_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        evaluate(tmp_path / "best")


def test_it_learns(tmp_path):
    recipe = static_recipe(
        loader=LoaderConfig(image_size=16, batch_size=16, limit=512),
        schedule=ScheduleConfig(epochs=4, warmup_epochs=0.5),
    )
    result = fit(recipe, tmp_path)
    assert result.best_score > 0.5
    assert result.rows[-1]["train_loss"] < result.rows[0]["train_loss"]


@pytest.mark.parametrize("make", [tiny_recipe, static_recipe])
def test_a_batch_of_one_is_left_over(tmp_path, make):
    recipe = make(
        loader=LoaderConfig(image_size=32, batch_size=16, limit=33),
        augment=AugmentConfig(mixup=0.8, cutmix=1.0),
        schedule=ScheduleConfig(epochs=1),
    )
    assert fit(recipe, tmp_path).rows[0]["step"] == 2


def test_a_dynamic_network_trains_on_a_batch_of_one_if_asked(tmp_path):
    recipe = tiny_recipe(
        loader=LoaderConfig(image_size=48, batch_size=8, limit=9, drop_last=False),
        augment=AugmentConfig(mixup=0.8, cutmix=1.0),
        schedule=ScheduleConfig(epochs=1),
    )
    assert fit(recipe, tmp_path).rows[0]["step"] == 2


def test_folder_end_to_end(tmp_path):
    make_folder(tmp_path / "images", {"train": {"a": 4, "b": 4}, "val": {"a": 1, "b": 2}})
    recipe = dataclasses.replace(
        static_recipe(),
        data=f"folder:{tmp_path / 'images'}",
        loader=LoaderConfig(image_size=32, batch_size=4, workers=0),
        schedule=ScheduleConfig(epochs=1),
    )
    result = fit(recipe, tmp_path / "run")
    assert result.rows[0]["val_top5"] is None  # two classes have no top-5
    model, description = load_checkpoint(result.best)
    assert description["classes"] == ["a", "b"]
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 2)


@pytest.mark.parametrize("options", [{"precision": "bf16-mixed"}, {"channels_last": True}], ids=str)
def test_precision_layout_and_clipping(tmp_path, options):
    # 64 pixels: on 1x1 maps torch 2.14 leaves bfloat16 weight gradients uninitialised on CPUs, static networks' too.
    recipe = tiny_recipe(
        loader=LoaderConfig(image_size=64, batch_size=BATCH, limit=IMAGES),
        schedule=ScheduleConfig(epochs=1),
        optimizer=OptimizerConfig(name="sgd", lr=0.1, clip_norm=1.0),
        run=RunConfig(accelerator="cpu", **options),
    )
    assert 0 < fit(recipe, tmp_path).rows[0]["train_loss"] < 10


def test_a_caller_keeps_its_random_numbers(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    fit(static_recipe(schedule=ScheduleConfig(epochs=1)), tmp_path)
    assert torch.rand(1) == expected


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model": "resnet1800"}, "neither a preset"),
        ({"method": {"budget": -1}}, "budget=-1"),
        ({"method": {"method": "magic"}}, "method='magic'"),
        ({"optimizer": OptimizerConfig(name="adamx")}, "optimizer.name='adamx'"),
        ({"run": RunConfig(precision="7-bit")}, "7-bit"),
        ({"data": "nowhere"}, "data='nowhere'"),
        ({"augment": AugmentConfig(rand_augment="x")}, "rand-m9"),
    ],
)
def test_recipes_that_can_not_be_carried_out(tmp_path, changes, text):
    with pytest.raises(DynaconvError, match=text):
        fit(tiny_recipe(**changes), tmp_path)


def test_no_weight_decay_on_parameters_of_one_dimension():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    groups = make_optimizer(model, OptimizerConfig(weight_decay=0.1)).param_groups
    decayed = {group["weight_decay"]: sum(p.numel() for p in group["params"]) for group in groups}
    assert decayed == {0.1: 18, 0.0: 6}


def test_learning_rate_without_warmup_and_beyond_the_end():
    cold = ScheduleConfig(epochs=1, warmup_epochs=0, min_lr_ratio=0.1)
    assert learning_rate_factor(0, cold, per_epoch=4) == 1
    assert learning_rate_factor(4, cold, per_epoch=4) == pytest.approx(0.1)
    assert learning_rate_factor(9, cold, per_epoch=4) == pytest.approx(0.1)
    assert learning_rate_factor(4, ScheduleConfig(epochs=1, warmup_epochs=1), per_epoch=4) == pytest.approx(1.0)


def test_learning_rate_moves_every_step(tmp_path):
    rates = []

    from dynaconv.training._lightning import Callback

    class Rates(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    recipe = static_recipe(
        optimizer=OptimizerConfig(lr=1.0, name="sgd"), schedule=ScheduleConfig(epochs=2, warmup_epochs=1)
    )
    fit(recipe, tmp_path, callbacks=(Rates(),))
    assert rates == pytest.approx([learning_rate_factor(step, recipe.schedule, 3) for step in range(6)])


def test_method_is_described_in_full(run):
    assert read_recipe(run[0].best)["model"]["config"]["method"] == METHOD["method"]
