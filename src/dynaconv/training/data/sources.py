"""Where images come from, by name: embedded sets, folders, streams, and what timm's dataset factory reads."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynaconv.errors import DynaconvError, ImageError, require
from dynaconv.training.config import LoaderConfig
from dynaconv.training.data.embedded import EMBEDDED, SPLIT_SEED
from dynaconv.training.data.folder import open_splits
from dynaconv.training.data.image_source import ImageSource
from dynaconv.training.data.images import load_image
from dynaconv.training.data.memory_images import MemoryImages
from dynaconv.training.data.parquet import open_parquet
from dynaconv.training.data.shards import open_webdataset
from dynaconv.training.data.streams import Stream


def open_source(name: str, loader: LoaderConfig) -> ImageSource:
    """Open a source by name.

    Args:
        name: ``digits``, ``mnist5k``, ``scenes``, ``folder:PATH`` or a path, ``wds:PATH``, ``timm:NAME``.
        loader: where a timm dataset lies, which splits, how many classes, and how many training images to keep.

    Raises:
        DynaconvError: if the name is none of these, or what lies there is no data set.
        MissingExtraError: if the package that reads the images is not installed.
    """
    source = _open(name, loader)
    if loader.num_classes not in (None, len(source.classes)):
        raise DynaconvError(
            f"loader.num_classes={loader.num_classes}, but {name} has {len(source.classes)} classes; leave it out"
        )
    return source if loader.limit is None else replace(source, train=_first(source.train, loader.limit))


def _open(name: str, loader: LoaderConfig) -> ImageSource:
    kind, _, rest = name.partition(":")
    if name in EMBEDDED:
        return EMBEDDED[name]()
    if kind == "wds":
        return open_webdataset(rest, loader)
    if kind == "timm":
        reader = rest.partition("/")[0].lower()
        if reader == "wds":
            return open_webdataset(loader.root or rest.partition("/")[2], loader)
        return open_parquet(rest, loader) if reader == "hfids" else _open_timm(rest, loader)
    if kind == "folder" or "/" in name or (name and os.path.exists(name)):  # noqa: PTH110  (Path.exists may raise)
        root = Path(rest if kind == "folder" else name).expanduser()
        train, val = open_splits(root)
        return ImageSource(f"folder:{root}", train.classes, 3, 224, train, val)
    raise DynaconvError(
        f"data={name!r} is neither a set nor a folder; expected one of {', '.join(EMBEDDED)}, folder:PATH (with "
        "train/ and val/, a folder a class in each), wds:PATH (shards of WebDataset), or timm:NAME"
    )


def _first(images: Any, count: int) -> Any:
    """The first images of a fixed shuffle, so that a small limit still holds every class; of a stream the first."""
    if isinstance(images, Stream):
        return images.first(count)
    chosen = np.random.default_rng(SPLIT_SEED).permutation(len(images))[:count]
    if isinstance(images, MemoryImages):
        keep = torch.from_numpy(chosen)
        return replace(images, images=images.images[keep], labels=images.labels[keep])
    return torch.utils.data.Subset(images, chosen.tolist())


def _open_timm(name: str, loader: LoaderConfig) -> ImageSource:
    create_dataset = require("timm.data", "train").create_dataset
    # timm defaults a missing folder to the dataset's own cache (hub sets) or fails deep inside (local ones).
    options = {"root": loader.root, "download": loader.download}
    try:
        train, val = (
            create_dataset(name, split=split, is_training=split == loader.train_split, **options)
            for split in (loader.train_split, loader.val_split)
        )
    except Exception as error:  # of many packages, some of which raise classes of their own
        raise DynaconvError(
            f"timm can not open the dataset {name!r} (root={loader.root!r}, splits {loader.train_split!r} and "
            f"{loader.val_split!r}): {type(error).__name__}: {error}"
        ) from error
    if isinstance(train, torch.utils.data.IterableDataset):
        raise DynaconvError(
            f"{name!r} is a stream that a run can not be resumed in exactly; expected shards of WebDataset (wds:PATH), "
            "Parquet files (timm:hfids/NAME), or images by number (folder:PATH, timm:torch/..., timm:hfds/...)"
        )
    classes = class_names(train)
    if classes is None:
        if loader.num_classes is None:
            raise DynaconvError(f"the dataset {name!r} does not name its classes; say how many with loader.num_classes")
        classes = tuple(str(i) for i in range(loader.num_classes))
    return ImageSource(f"timm:{name}", classes, 3, 224, TimmImages(train, name), TimmImages(val, name))


class TimmImages:
    """A dataset of timm's factory by number, whose unreadable images are ImageErrors.

    timm's own ``ImageDataset`` takes a neighbour in their place and only logs it, so its reader is used instead.

    Args:
        dataset: timm's or torchvision's.
        name: for errors.
    """

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset, self.name = dataset, name
        if hasattr(dataset, "loader"):  # torchvision's folders
            dataset.loader = load_image

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """One image as PIL, and its label."""
        name, reader = f"{self.name}[{index}]", getattr(self.dataset, "reader", None)
        try:
            if reader is None:
                return self.dataset[index]
            file, label = reader[index]
            with file:
                return load_image(file, name), label
        except ImageError:
            raise
        except Exception as error:  # of many packages: whatever it is, this image can not be had
            raise ImageError(name, f"{type(error).__name__}: {error}") from error


def class_names(dataset: Any) -> tuple[str, ...] | None:
    """Class names in the order of the labels, if the dataset knows them."""
    mapping = getattr(getattr(dataset, "reader", dataset), "class_to_idx", None)
    if mapping:
        return tuple(str(name) for name, _ in sorted(mapping.items(), key=lambda item: item[1]))
    names = getattr(dataset, "classes", None)
    return tuple(map(str, names)) if names else None
