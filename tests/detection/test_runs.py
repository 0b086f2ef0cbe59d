"""Runs of detection: they learn, resume exactly, take what data come, and leave a detector that others can load."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings

import pytest
import torch

import dynaconv
from dynaconv.checkpoints.native import load_checkpoint, save_checkpoint
from dynaconv.cli.main import main
from dynaconv.detection import (
    CocoLoaderConfig,
    DetectionAugmentConfig,
    DetectionRecipe,
    DetectorConfig,
    evaluate,
    fit,
    load_detector,
    resume,
)
from dynaconv.detection.data.datamodule import DetectionDataModule
from dynaconv.detection.evaluation.scorer import CocoScorer
from dynaconv.detection.runs import COLUMNS, begin, settled
from dynaconv.errors import CheckpointError, DynaconvError, RunWarning
from dynaconv.training import EmaConfig, RunConfig, ScheduleConfig
from dynaconv.training._lightning import Callback
from tests.detection.shapes import TINY, TINY_BACKBONE, make_shapes, shapes_loader, shapes_recipe
from tests.training import test_resume
from tests.training.likeness import differences, run_differences


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("shapes") / "data", repeats=3, empty=1)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A run that knows its four rectangles by heart."""
    folder = tmp_path_factory.mktemp("learned")
    data = make_shapes(folder / "data", repeats=40)
    schedule = ScheduleConfig(epochs=7, kind="cosine", warmup_epochs=0.5, temperature_epochs=2)
    # Norms stand still: statistics of two images are not those that the detector is judged with.
    detector = dataclasses.replace(TINY, norms="eval")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        return fit(shapes_recipe(data, schedule=schedule, detector=detector), folder / "run")


class Trace(test_resume.Trace):
    """Notes what iterations of a detector depend on; interrupts the run before a given one."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        images = [target["image_id"] for target in batch[1]]
        tau = dynaconv.get_temperature(pl_module)
        self.seen.append((trainer.current_epoch, batch_idx, tau, images, outputs["loss"].item()))


def test_a_few_images_are_learned_by_heart(learned):
    last = learned.rows[-1]
    assert learned.best_score > 0.9
    assert last["val_box_ap"] > 0.9
    assert last["val_mask_ap"] > 0.9
    assert last["train_loss"] == pytest.approx(sum(v for k, v in last.items() if k.startswith("train_loss_")), rel=1e-5)
    assert last["train_loss"] < learned.rows[0]["train_loss"] / 4
    assert list(last) == list(COLUMNS)


def test_the_saved_detector_is_the_one_that_was_judged(learned):
    detector, description = load_detector(learned.best)
    assert description["classes"] == ["red", "green"]
    assert description["category_ids"] == [3, 7]
    assert not detector.training
    data = DetectionDataModule.from_recipe(shapes_recipe(description["data"]))
    data.setup()
    scorer = CocoScorer(data.val_truth, masks=True)
    with torch.inference_mode():
        for images, targets in data.val_dataloader():
            scorer.add([target["image_id"] for target in targets], detector(images))
    metrics = scorer.scores().metrics()
    best = max(learned.rows, key=lambda row: row["val_box_ap"])
    for name in ("val_box_ap", "val_mask_ap", "val_box_ap75"):
        assert metrics[name] == pytest.approx(best[name], abs=1e-6)
    assert description["metrics"]["val_box_ap"] == pytest.approx(learned.best_score)


@pytest.mark.parametrize("every", [None, 1], ids=["from the epoch's start", "within the epoch"])
def test_resumed_equals_uninterrupted(tmp_path, shapes, every):
    recipe = shapes_recipe(
        shapes,
        backbone={**TINY_BACKBONE, "drop_path_rate": 0.2},
        augment=DetectionAugmentConfig(flip=0.5, sizes=(48, 64)),
        loader=shapes_loader(empty_images=True),
        ema=EmaConfig(decay=0.9),
        run=RunConfig(accelerator="cpu", checkpoint_every=every),
    )
    whole, before, after = Trace(), Trace((1, 2)), Trace()
    expected = fit(recipe, tmp_path / "whole", callbacks=(whole,))
    with pytest.raises(test_resume.Interrupted):
        fit(recipe, tmp_path / "broken", callbacks=(before,))
    result = resume(tmp_path / "broken", callbacks=(after,))
    assert after.seen[0][:2] == ((1, 0) if every is None else (1, 2))
    assert before.seen == whole.seen[: len(before.seen)]
    assert after.seen == whole.seen[-len(after.seen) :]
    assert run_differences(tmp_path / "whole", tmp_path / "broken") == []
    assert [differences(a, b) for a, b in zip(result.rows, expected.rows, strict=True)] == [[]] * 2


def test_one_image_a_batch_and_images_without_objects(tmp_path, shapes):
    loader = shapes_loader(batch_size=1, empty_images=True)
    result = fit(shapes_recipe(shapes, loader=loader, schedule=ScheduleConfig(epochs=1)), tmp_path / "run")
    assert result.rows[0]["step"] == 7  # two images three times, and an empty one
    assert all(math.isfinite(value) for name, value in result.rows[0].items() if name.startswith("train_"))


def test_boxes_alone(tmp_path, shapes):
    detector = dataclasses.replace(TINY, kind="faster_rcnn")
    row = fit(shapes_recipe(shapes, detector=detector, method=None), tmp_path / "run").rows[-1]
    assert row["val_box_ap"] is not None
    assert row["val_mask_ap"] is row["train_loss_mask"] is row["tau"] is None


def test_training_sizes_are_not_those_of_judging(shapes, tmp_path):
    sizes = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, *rest):
            sizes.append(pl_module.model.transform.min_size)

        def on_validation_batch_end(self, trainer, pl_module, *rest):
            sizes.append(pl_module.evaluated.transform.min_size)

    recipe = shapes_recipe(shapes, augment=DetectionAugmentConfig(sizes=(48, 96)), schedule=ScheduleConfig(epochs=1))
    fit(recipe, tmp_path / "run", callbacks=(Watch(),))
    assert sizes == [(48, 96)] * 3 + [(64,)] * 2


def test_the_temperature_of_a_trained_backbone_is_at_its_end(tmp_path, shapes):
    network = dynaconv.create_model(
        "resnet10t", config=dynaconv.KernelWarehouseConfig(), num_classes=5, **TINY_BACKBONE
    )
    torch.save(network.state_dict(), tmp_path / "trained.pth")
    detector = dataclasses.replace(TINY, weights=str(tmp_path / "trained.pth"))
    asked = shapes_recipe(shapes, detector=detector, schedule=ScheduleConfig(epochs=2))
    assert settled(asked).schedule.temperature_length == 0
    assert settled(dataclasses.replace(asked, schedule=ScheduleConfig(epochs=2, temperature_epochs=1))).schedule == (
        ScheduleConfig(epochs=2, temperature_epochs=1)
    )
    start = begin(asked, None)
    trained = start.module.model.backbone.body.state_dict()
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in trained.items() if "weight" in name)
    assert start.description["detector"]["weights"] is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"classes": ["red"]}, "another number of category_ids"),
        ({"classes": "red"}, "classes='red'; expected a list of str"),
        ({"image_mean": [None]}, "image_mean=.*expected a list of float"),
        ({"detector": {"kind": "yolo"}}, "describes no detector that can be built.*faster_rcnn or mask_rcnn"),
        ({"detector": {"masks": 3}}, "unknown fields"),
    ],
)
def test_a_description_that_is_no_detectors(learned, tmp_path, change, text):
    detector, description = load_detector(learned.best)
    base = {
        key: description[key] for key in ("model", "detector", "classes", "category_ids", "image_mean", "image_std")
    }
    save_checkpoint(tmp_path / "odd", detector, {**base, **change})
    with pytest.raises(CheckpointError, match=text):
        load_detector(tmp_path / "odd")


def test_a_detector_is_no_classifier_and_a_classifier_no_detector(learned, tmp_path):
    with pytest.raises(CheckpointError, match=r"holds a detector.*load_detector"):
        load_checkpoint(learned.best)
    network = dynaconv.create_model("resnet10t", num_classes=2, **TINY_BACKBONE)
    model = {"name": "resnet10t", "num_classes": 2, "backbone_kwargs": TINY_BACKBONE}
    save_checkpoint(tmp_path / "network", network, {"model": model})
    with pytest.raises(CheckpointError, match=r"no detector.*--detector\.weights"):
        load_detector(tmp_path / "network")


def test_the_command_trains_and_resumes(tmp_path, shapes, capsys):
    recipe = shapes_recipe(shapes, method=None, schedule=ScheduleConfig(epochs=1))
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe.to_dict()))
    flags = ["--recipe", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path), "--name", "run", "--run-id", "1"]
    assert main(["detect", "train", *flags]) == 0
    printed = capsys.readouterr().out
    assert "training Mask R-CNN on resnet10t" in printed
    assert "box AP" in printed
    assert main(["detect", "train", "--resume", str(tmp_path / "run" / "1")]) == 0
    assert "had finished already" in capsys.readouterr().out
    assert main(["train", "--resume", str(tmp_path / "run" / "1")]) == 2
    assert "dynaconv detect train --resume" in capsys.readouterr().err
    (tmp_path / "run" / "1" / "config.yaml").write_text("model: resnet18\ndata: digits\n")
    assert main(["detect", "train", "--resume", str(tmp_path / "run" / "1")]) == 2
    assert "`dynaconv train --resume` goes on" in capsys.readouterr().err
    assert main(["detect", "train", "--data", str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_settings_outside_their_domain():
    for change, text in (
        ({"image_size": 0}, "detector.image_size=0; expected at least 1"),
        ({"max_size": 100}, "at least detector.image_size, 800"),
        ({"freeze_stages": 5}, "0 to 4"),
        ({"nms_threshold": 2.0}, "0 to 1"),
    ):
        with pytest.raises(DynaconvError, match=text):
            DetectorConfig(**change)
    with pytest.raises(DynaconvError, match="ddp or auto for detectors"):
        DetectionRecipe(run=RunConfig(strategy="fsdp"))
    assert DetectionRecipe.from_dict(DetectionRecipe().to_dict()) == DetectionRecipe()


def test_a_run_goes_on_without_the_weights_it_began_with(tmp_path, shapes):
    network = dynaconv.create_model("resnet10t", num_classes=5, **TINY_BACKBONE)
    weights = tmp_path / "trained.pth"
    torch.save(network.state_dict(), weights)
    detector = dataclasses.replace(TINY, weights=str(weights))
    recipe = shapes_recipe(shapes, method=None, detector=detector)
    with pytest.raises(test_resume.Interrupted):
        fit(recipe, tmp_path / "run", callbacks=(Trace((1, 1)),))
    weights.unlink()
    assert [row["epoch"] for row in resume(tmp_path / "run").rows] == [1, 2]


def test_what_stands_still_from_a_random_start_is_told(shapes):
    still = dataclasses.replace(TINY, norms="eval", freeze_stages=1)
    with pytest.warns(RunWarning, match=r"freeze_stages=1, detector\.norms='eval' keep as it is"):
        begin(shapes_recipe(shapes, detector=still, method=None), None)


def test_activations_are_computed_again_and_nothing_changes(tmp_path, shapes):
    schedule = ScheduleConfig(epochs=1)
    runs = [RunConfig(accelerator="cpu"), RunConfig(accelerator="cpu", checkpoint_activations=True)]
    usual, again = (
        fit(shapes_recipe(shapes, schedule=schedule, run=run), tmp_path / str(number)).rows[0]
        for number, run in enumerate(runs)
    )
    for name in ("train_loss", "train_loss_mask"):
        assert again[name] == pytest.approx(usual[name], rel=1e-4)


def test_places_are_exact_in_mixed_precision(learned):
    detector, _ = load_detector(learned.best)
    seen = []
    detector.roi_heads.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs[1]))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = detector([torch.rand(3, 64, 80)])[0]
    assert [boxes.dtype for boxes in (*seen, found["boxes"])] == [torch.float32] * 2


def test_saved_detectors_know_where_their_images_lie(learned):
    scores = evaluate(learned.best, loader=CocoLoaderConfig(workers=0), accelerator="cpu")
    assert scores.images == 2
    assert scores.box_ap == pytest.approx(learned.best_score, abs=1e-6)


def test_its_backbone_with_the_pyramid_is_exported(learned, tmp_path, capsys):
    flags = ["--format", "torch-export", "--dynamic-batch", "--image-size", "64", "--no-check", "--json"]
    assert main(["export", str(learned.best), str(tmp_path / "backbone"), *flags]) == 0
    told = capsys.readouterr()
    assert "is a detector: its backbone and pyramid are exported" in told.err
    report = json.loads(told.out)
    assert report["inputs"] == {"images": "float32 (batch, 3, 64, 64)"}
    x = torch.rand(3, 3, 64, 64)
    levels = load_detector(learned.best)[0].get_submodule("backbone")(x)
    assert report["outputs"] == [f"output_{name}" if name.isdigit() else name for name in levels]
    found = torch.export.load(report["path"]).module()(x)
    for y, expected in zip(found.values() if isinstance(found, dict) else found, levels.values(), strict=True):
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
