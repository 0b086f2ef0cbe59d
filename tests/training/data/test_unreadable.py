"""Training goes on over images that can not be read, counts them, and stops where they are too many."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from dynaconv.errors import DynaconvError
from dynaconv.training import ImageDataModule, LoaderConfig, RunConfig, ScheduleConfig, evaluate, fit, predict, resume
from dynaconv.training._lightning import Callback
from dynaconv.training.data.reading import SeededDataset
from dynaconv.training.data.unchanged import DATA_FILE
from tests.training.data.test_sources import make_folder
from tests.training.likeness import run_differences
from tests.training.test_resume import Interrupted, Trace
from tests.training.tiny import static_recipe

SPLITS = {"train": {"cat": 12, "dog": 12}, "val": {"cat": 4, "dog": 3}}


def recipe(root: Path, **options):
    every = options.pop("every", None)
    values = {"image_size": 16, "batch_size": 8, "workers": 0, "max_bad": 0.2, **options}
    return static_recipe(
        data=f"folder:{root}",
        loader=LoaderConfig(**values),
        schedule=ScheduleConfig(epochs=2),
        run=RunConfig(accelerator="cpu", checkpoint_every=every),
    )


def break_some(root: Path) -> Path:
    make_folder(root, SPLITS)
    (root / "train" / "cat" / "3.png").write_bytes(b"")
    (root / "train" / "dog" / "5.png").write_bytes(b"no image")
    whole = (root / "train" / "dog" / "11.png").read_bytes()  # the last one: the next is the first
    (root / "train" / "dog" / "11.png").write_bytes(whole[: len(whole) // 2])
    (root / "val" / "cat" / "1.png").write_bytes(b"")
    return root


def test_training_goes_on_and_counts(tmp_path, caplog):
    root = break_some(tmp_path / "data")
    result = fit(recipe(root), tmp_path / "run")
    assert [(row["unreadable"], row["val_unreadable"]) for row in result.rows] == [(3, 1), (3, 1)]
    assert (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].endswith("unreadable,val_unreadable,seconds")
    told = [record.getMessage() for record in caplog.records if "could not be read" in record.getMessage()]
    assert len(told) == 2  # not again in the second epoch
    assert told[0].startswith("epoch 1: 3 training images could not be read: ")
    assert f"{root}/train/cat/3.png (it is empty)" in told[0]
    assert told[1] == f"epoch 1: 1 validation image could not be read: {root}/val/cat/1.png (it is empty)"


def test_a_resumed_run_replaces_and_counts_alike(tmp_path):
    root = break_some(tmp_path / "data")
    whole, before, after = Trace(), Trace((0, 2)), Trace()
    expected = fit(recipe(root, every=1), tmp_path / "whole", callbacks=(whole,))
    with pytest.raises(Interrupted):
        fit(recipe(root, every=1), tmp_path / "broken", callbacks=(before,))
    result = resume(tmp_path / "broken", callbacks=(after,))
    assert [*before.seen, *after.seen] == whole.seen
    assert [row["unreadable"] for row in result.rows] == [row["unreadable"] for row in expected.rows] == [3, 3]
    assert run_differences(tmp_path / "whole", tmp_path / "broken") == []


def test_batches_keep_their_size_and_do_not_depend_on_workers(tmp_path):
    root = break_some(tmp_path / "data")
    epochs = []
    for workers in (0, 2):
        module = ImageDataModule(str(root), LoaderConfig(image_size=8, batch_size=8, workers=workers, max_bad=0.2))
        module.setup()
        epochs.append(list(module.train_dataloader()))
        assert len(module.ledgers["unreadable"].faults) == 3
    assert [images.shape for images, _ in epochs[0]] == [(8, 3, 8, 8)] * 3
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(*epochs, strict=True))


def test_too_many_stop_training(tmp_path):
    root = break_some(tmp_path / "data")
    text = (
        r"^[23] training images could not be read: .*png \(.*\), .*png \(.*\); loader.max_bad=0.01 allows 1 of 24: "
        "mend or remove them, or raise loader.max_bad$"
    )
    with pytest.raises(DynaconvError, match=text):
        fit(recipe(root, max_bad=0.01), tmp_path / "run")


def test_nothing_that_can_be_read_stops_training_whatever_is_allowed(tmp_path):
    root = make_folder(tmp_path / "data", SPLITS)
    for path in (root / "train").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DynaconvError, match=r"24 images in a row can not be read: .*png \(it is empty\) to .*png$"):
        fit(recipe(root, max_bad=1.0), tmp_path / "run")


def test_images_that_disappear_while_training(tmp_path):
    root = make_folder(tmp_path / "data", SPLITS)

    class Remove(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            (root / "train" / "cat" / "7.png").unlink(missing_ok=True)
            shutil.rmtree(root / "val" / "dog", ignore_errors=True)

    result = fit(recipe(root, max_bad=0.5), tmp_path / "run", callbacks=(Remove(),))
    assert [(row["unreadable"], row["val_unreadable"]) for row in result.rows] == [(0, 0), (1, 3)]


def test_evaluation_says_of_how_many_images(tmp_path, caplog):
    root = break_some(tmp_path / "data")
    best = fit(recipe(root), tmp_path / "run").best
    caplog.clear()
    bad = evaluate(best, loader=LoaderConfig(batch_size=1, workers=0, max_bad=0.2), accelerator="cpu")
    assert (bad["val_images"], bad["val_unreadable"]) == (6, 1)
    assert "1 validation image could not be read" in caplog.text
    (root / "val" / "cat" / "1.png").unlink()
    good = evaluate(best, loader=LoaderConfig(workers=0), accelerator="cpu")
    assert (good["val_images"], good["val_unreadable"]) == (6, 0)
    assert bad["val_top1"] == pytest.approx(good["val_top1"])
    assert bad["val_loss"] == pytest.approx(good["val_loss"], rel=1e-4)
    for path in (root / "val").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DynaconvError, match="validation images could not be read"):
        evaluate(best, loader=LoaderConfig(workers=0, max_bad=0.5), accelerator="cpu")
    with pytest.raises(DynaconvError, match="no validation image could be read"):
        evaluate(best, loader=LoaderConfig(workers=0, max_bad=1.0), accelerator="cpu")


def test_predictions_go_on_over_bad_files(tmp_path):
    root = break_some(tmp_path / "data")
    best = fit(recipe(root), tmp_path / "run").best
    paths = [root / "train" / "cat" / name for name in ("2.png", "3.png", "4.png")]
    found = predict(best, [*paths, tmp_path / "none.png"], batch_size=2)
    assert [prediction.image for prediction in found] == [*map(str, paths), str(tmp_path / "none.png")]
    assert [bool(prediction.classes) for prediction in found] == [True, False, True, False]
    assert found[1].error == f"{paths[1]} can not be read as an image: it is empty"
    assert found[2] == predict(best, [paths[2]])[0] or found[2].classes[0][1] == pytest.approx(
        predict(best, [paths[2]])[0].classes[0][1], abs=1e-5
    )


def test_labels_outside_the_classes_are_told(tmp_path):
    sample = SeededDataset([("a", 3)], len, 3)[(0, 1)]
    assert sample.image is None
    assert sample.faults[0].fatal
    assert sample.faults[0].cause == "image number 0 has the label 3; expected 0 to 2, as there are 3 classes"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda root: (root / "train" / "cat" / "0.png").unlink(), "24 training images then, 23 now"),
        (lambda root: [(root / s / "cat").rename(root / s / "cow") for s in ("train", "val")],
         r"classes that are gone: \['cat'\]; classes that are new: \['cow'\]"),
        (lambda root: [shutil.copytree(root / s / "cat", root / s / "cow") for s in ("train", "val")],
         r"24 training images then, 36 now; 7 validation images then, 11 now; classes that are new: \['cow'\]"),
    ],
)  # fmt: skip
def test_other_data_are_not_resumed_on(tmp_path, change, text):
    root = make_folder(tmp_path / "data", SPLITS)
    with pytest.raises(Interrupted):
        fit(recipe(root, every=1), tmp_path / "run", callbacks=(Trace((0, 1)),))
    change(root)
    with pytest.raises(DynaconvError, match=rf"is not what the run in .*run began with: {text}\. Bring the data back"):
        resume(tmp_path / "run")
    (tmp_path / "run" / DATA_FILE).write_text("{")
    with pytest.raises(DynaconvError, match=r"data.json can not be read"):
        resume(tmp_path / "run")


def test_classes_are_the_datas(tmp_path):
    root = make_folder(tmp_path / "data", SPLITS)
    import dataclasses

    other = dataclasses.replace(recipe(root), backbone={"channels": [8, 8, 8, 8], "num_classes": 5})
    with pytest.raises(DynaconvError, match=r"backbone.num_classes=5, but the data have 2; leave it out"):
        fit(other, tmp_path / "run")
