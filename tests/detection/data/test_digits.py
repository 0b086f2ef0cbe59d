"""The digits: what is written is what is drawn, the same every time, and its splits share nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pycocotools.mask as coco
import pytest
from PIL import Image

from dynaconv.cli.main import main
from dynaconv.detection import DigitsConfig, make_digits, read_annotations
from dynaconv.detection.data.digits import LEAST_VISIBLE, _Placed, digit_scenes
from dynaconv.detection.data.inspection import check_images, check_masks, check_unlisted, summarise
from dynaconv.errors import DynaconvError, StorageError

CONFIG = DigitsConfig(train=40, val=10, size=96)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "set"
    told = []
    assert make_digits(folder, CONFIG, lambda: told.append(None))
    assert len(told) == 50
    assert [path.name for path in folder.parent.iterdir()] == ["set"]
    return folder


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read(folder, split):
    return read_annotations(folder / "annotations" / f"instances_{split}2017.json", folder / f"{split}2017", True)


@pytest.mark.parametrize(("split", "count"), [("train", 40), ("val", 10)])
def test_it_passes_the_check(folder, split, count):
    annotations = read(folder, split)
    check_images(annotations, lambda: None, decode=True)
    check_masks(annotations, lambda: None)
    check_unlisted([annotations])
    assert annotations.report.faults == 0
    assert set(annotations.report.counts) <= {"image_empty", "category_empty"}
    assert summarise(annotations)["images"] == count
    assert annotations.classes == tuple("0123456789")


def test_masks_boxes_and_areas_agree(folder):
    content = json.loads((folder / "annotations/instances_train2017.json").read_text())
    for entry in content["annotations"]:
        rows, columns = np.nonzero(coco.decode(entry["segmentation"]))
        left, top = columns.min(), rows.min()
        assert entry["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
        assert entry["area"] == len(rows) >= 20
    shapes = {(image["width"] > image["height"]) for image in content["images"]}
    assert shapes == {True, False}
    assert all(max(image["width"], image["height"]) == 96 for image in content["images"])
    per_image = np.bincount([entry["image_id"] for entry in content["annotations"]], minlength=41)[1:]
    assert per_image.min() == 0
    assert 3 <= per_image.max() <= 8


def test_what_is_masked_was_painted():
    scenes = digit_scenes()["train"]
    for number in range(8):
        pixels, digits = scenes.draw(160, np.random.default_rng([5, number]))
        stacked = np.sum([digit.mask for digit in digits] or [np.zeros(pixels.shape[:2])], axis=0)
        assert stacked.max() <= 1  # of two digits, one is seen
        for digit in digits:
            if digit.mask.sum() < 200:
                continue
            inside = pixels[digit.mask].astype(float)
            # one colour but for soft edges, unlike the photograph
            middle = np.median(inside, axis=0)
            assert (np.abs(inside - middle).max(1) < 30).mean() > 0.6


def test_the_same_to_the_byte(folder, tmp_path):
    make_digits(tmp_path / "again", CONFIG)
    assert digest(tmp_path / "again") == digest(folder)
    other = DigitsConfig(train=3, val=1, size=96, seed=1)
    make_digits(tmp_path / "other", other)
    assert digest(tmp_path / "other")["train2017/000000000001.jpg"] != digest(folder)["train2017/000000000001.jpg"]
    # a larger set begins with the smaller one
    few = DigitsConfig(train=3, val=1, size=96)
    make_digits(tmp_path / "few", few)
    images = {name: value for name, value in digest(tmp_path / "few").items() if name.endswith(".jpg")}
    assert images.items() <= digest(folder).items()


def test_splits_share_no_digit_and_no_place():
    train, val = digit_scenes().values()
    digits = [{digit.tobytes() for digit in scenes.digits} for scenes in (train, val)]
    assert [len(scenes.labels) for scenes in (train, val)] == [4000, 1000]
    assert not digits[0] & digits[1]
    from sklearn.datasets import load_sample_images

    height = load_sample_images().images[0].shape[0]
    assert train.photos.shape[1] + val.photos.shape[1] == height
    assert all(np.bincount(scenes.labels).min() > 90 for scenes in (train, val))


def test_all_of_cocos_sizes():
    areas = {}
    for size in (160, 480):
        drawn = [digit_scenes()["train"].draw(size, np.random.default_rng(i))[1] for i in range(12)]
        areas[size] = np.array([digit.mask.sum() for digits in drawn for digit in digits])
    assert (areas[160] < 32**2).any()
    assert (areas[160] > 32**2).any()
    assert (areas[480] > 96**2).any()
    assert ((areas[480] > 32**2) & (areas[480] < 96**2)).any()


def test_enough_stays_visible():
    scenes = digit_scenes()["val"]
    drawn = []

    class Scenes(type(scenes)):
        def _place(self, ink, placed, size, draw):
            place = super()._place(ink, placed, size, draw)
            if place is not None:
                drawn[-1].append((ink >= 128).sum())
            return place

    for number in range(15):
        drawn.append([])
        _, digits = Scenes(scenes.digits, scenes.labels, scenes.photos).draw(128, np.random.default_rng(number))
        for digit, whole in zip(digits, drawn[-1], strict=True):
            assert digit.mask.sum() >= LEAST_VISIBLE * whole


def test_which_places_leave_room():
    mask, place = np.zeros((20, 20), dtype=bool), (slice(0, 10), slice(0, 10))
    mask[:10, :10] = True
    below = _Placed(3, mask, 100, place)
    for corner, room in ((5, True), (4, False), (10, True), (15, True)):
        ink = np.ones((20 - corner, 20 - corner), dtype=bool)[:10, :10]
        over = slice(corner, corner + len(ink)), slice(corner, corner + len(ink))
        assert below.leaves_room(over, ink) == room
    for corner in (4, 5):  # without ink, boxes count alone
        assert below.leaves_room((slice(corner, 19),) * 2, np.zeros((19 - corner,) * 2, dtype=bool)) == (corner == 5)
    mask[6:10] = False  # as if another had covered it
    assert not below.leaves_room((slice(10, 20), slice(10, 20)), np.ones((10, 10), dtype=bool))


def test_again_and_other_settings(folder, capsys):
    command = ["detect", "digits", str(folder), "--train", "40", "--val", "10", "--size"]
    before = digest(folder)
    assert main([*command, "96"]) == 0
    assert capsys.readouterr().out.endswith("they were there already\n")
    assert main([*command, "97"]) == 2
    assert 'holds digits of other settings, {"version": 1, "train": 40' in capsys.readouterr().err
    assert digest(folder) == before


def test_folders_that_hold_something_else(tmp_path):
    few = DigitsConfig(train=1, val=1, size=64)
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(DynaconvError, match="holds something else than digits"):
        make_digits(tmp_path / "a", few)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DynaconvError, match="holds something else than digits"):
        make_digits(tmp_path / "file", few)
    assert make_digits(tmp_path / "a" / "b", few)  # an empty folder
    assert make_digits(tmp_path / "new" / "deep", few)
    with pytest.raises(StorageError, match="can not be written"):
        make_digits(tmp_path / "file" / "set", few)


def test_all_or_nothing(tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        make_digits(tmp_path / "set", DigitsConfig(train=1, val=1, size=64))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change", [{"train": 0}, {"val": -1}, {"size": 63}, {"size": 4000}, {"seed": -1}, {"train": 1.5}]
)
def test_settings(change):
    with pytest.raises(DynaconvError, match=f"^{next(iter(change))}="):
        DigitsConfig(**change)
