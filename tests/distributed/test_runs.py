"""Whole runs of two processes under torchrun are runs of one process with twice the batch."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dynaconv.detection import CocoLoaderConfig, DetectionRecipe, evaluate
from dynaconv.training import AugmentConfig, LoaderConfig, OptimizerConfig, Recipe, RunConfig, ScheduleConfig, fit
from dynaconv.training.config import TuneConfig
from dynaconv.training.runs.fitting import save_recipe
from dynaconv.training.runs.history import read_csv
from dynaconv.training.runs.sealed import read_sealed
from tests.detection.shapes import make_shapes, shapes_loader, shapes_recipe
from tests.distributed.processes import free_port, run_python
from tests.training.test_resume import Interrupted, Trace
from tests.training.tiny import BACKBONE, BATCH, IMAGES, METHOD, static_recipe, tiny_recipe

pytestmark = pytest.mark.xdist_group("processes")

TOLERANCE = {"fresh": 1e-10, "interrupted": 1e-6}
"""Of a tensor's largest value, after six steps in float64; Lightning rounds what it resumes from to float32."""


def on(processes: int, recipe: Recipe) -> Recipe:
    """The recipe with the same images in a step, whatever the number of processes, and nothing drawn by batch."""
    return dataclasses.replace(
        recipe,
        backbone=BACKBONE,
        augment=AugmentConfig(shift=0, rotate_degrees=0, zoom=0),
        loader=LoaderConfig(image_size=16, batch_size=BATCH // processes, limit=IMAGES),
        optimizer=OptimizerConfig(name="sgd", lr=0.02),
        run=RunConfig(
            accelerator="cpu",
            devices=processes,
            strategy="ddp" if processes > 1 else "auto",
            precision="64-true",
            sync_batchnorm=True,
        ),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A static network to start from, and the recipe of a fine-tuning."""
    source = fit(static_recipe(schedule=ScheduleConfig(epochs=1)), tmp_path_factory.mktemp("static") / "run").best
    return tiny_recipe(
        method={**METHOD, "budget": 0.5},
        schedule=ScheduleConfig(epochs=1, warmup_epochs=0),
        tune=TuneConfig(source=str(source), calibration=2),
    )


def detection(folder) -> DetectionRecipe:
    """A detector on two processes with a batch of one image each; its images come three times, and one is empty."""
    return shapes_recipe(
        make_shapes(folder / "data", repeats=3, empty=1),
        loader=shapes_loader(batch_size=1, empty_images=True),
        schedule=ScheduleConfig(epochs=1),
        run=RunConfig(accelerator="cpu", devices=2, strategy="ddp", sync_batchnorm=True),
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory, trained):
    """Folder of the runs of two processes, what they printed, and the result of one process."""
    folder = tmp_path_factory.mktemp("runs")
    expected = fit(on(1, tiny_recipe()), folder / "expected")
    with pytest.raises(Interrupted):
        fit(on(1, tiny_recipe()), folder / "interrupted", callbacks=(Trace((1, 0)),))
    save_recipe(on(2, tiny_recipe()), folder / "interrupted" / "config.yaml")
    save_recipe(on(2, tiny_recipe()), folder / "fresh.yaml")
    save_recipe(on(2, trained), folder / "tuned.yaml")
    save_recipe(detection(folder), folder / "shapes.yaml")
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", 2, "--master-port", free_port())
    text = run_python(*torchrun, "-m", "tests.distributed.runs", folder)
    return folder, text, expected


def weights(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("name", ["fresh", "interrupted"])
def test_two_processes_are_one(runs, name):
    folder, _, expected = runs
    (found,) = (folder / name).iterdir() if name == "fresh" else (folder / name,)
    wanted, got = weights(expected.run_dir), weights(found)
    assert wanted.keys() == got.keys()
    for key, value in wanted.items():
        gap = (got[key].double() - value.double()).abs().max()
        assert gap <= TOLERANCE[name] * value.double().abs().max().clamp(min=1e-3), key
    for row, right in zip(read_csv(found / "metrics.csv"), expected.rows, strict=True):
        for column in ("train_loss", "val_loss"):
            assert row[column] == pytest.approx(right[column], rel=1e-6)
        # 359 images judged: none is counted twice, though they do not divide.
        for column in ("epoch", "step", "lr", "tau", "train_top1", "val_top1", "val_top5"):
            assert row[column] == right[column]


def test_one_process_speaks_and_one_folder_is_made(runs):
    folder, text, expected = runs
    (made,) = (folder / "fresh").iterdir()
    assert text.count("everything goes to") == 2  # of this run, and of the detector's
    assert f"everything goes to {made}" in text
    assert "sync_dist" not in text
    for line in ("epoch 1/2", "epoch 2/2", "best validation accuracy"):
        assert text.count(line) == {"epoch 1/2": 1, "epoch 2/2": 2, "best validation accuracy": 2}[line]
    assert {path.name for path in made.iterdir()} == {path.name for path in expected.run_dir.iterdir()}


def test_fine_tuning_starts_equal_everywhere(runs):
    first, second = (torch.load(runs[0] / f"start-{rank}.pt", weights_only=True) for rank in range(2))
    for part in ("network", "teacher"):
        assert first[part].keys() == second[part].keys()
        assert all(torch.equal(value, second[part][key]) for key, value in first[part].items())
    assert (runs[0] / "tuned" / "best.safetensors").is_file()


def test_a_signal_to_one_process_stops_all_after_the_same_step(runs):
    assert read_sealed(runs[0] / "stopped" / "last.ckpt")["global_step"] == 2


def test_two_processes_train_a_detector_and_judge_every_image(runs):
    (made,) = (runs[0] / "shapes").iterdir()
    (row,) = read_csv(made / "metrics.csv")
    assert row["step"] == 4  # seven images, one of them twice
    loader = CocoLoaderConfig(workers=0, val_images="images", val_annotations="val.json")
    scores = evaluate(made / "best", loader=loader, accelerator="cpu")
    assert scores.images == 2
    for name in ("box_ap", "box_ap50", "mask_ap"):
        assert row[f"val_{name}"] == pytest.approx(getattr(scores, name), abs=1e-6)
