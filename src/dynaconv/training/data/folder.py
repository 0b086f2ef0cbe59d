"""Images in ImageNet's layout: ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``, folders within a class allowed."""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from dynaconv.errors import DynaconvError
from dynaconv.training.data.images import ENDINGS, load_image

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "eval", "test"),
}
SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db"})
SYSTEM_FOLDERS = frozenset({"__macosx", "$recycle.bin", "system volume information"})

_logger = logging.getLogger(__name__)


class FolderImages:
    """Images by number, sorted by class and path.

    Args:
        root: holds a folder a class. Hidden files and folders, and those of operating systems, are passed over.

    Raises:
        DynaconvError: if there are no classes, a class has no image, or a folder can not be read.
    """

    def __init__(self, root: Path) -> None:
        folders = [Path(entry.path) for entry in _entries(root) if entry.is_dir() and not _hidden(entry.name)]
        if not folders:
            raise DynaconvError(f"{root} has no folders; expected one a class, {root}/CLASS/*.jpg")
        self.classes = tuple(sorted(folder.name for folder in folders))
        self.samples: list[tuple[str, int]] = []
        others: Counter[str] = Counter()
        empty = []
        for label, name in enumerate(self.classes):
            files = files_below(root / name)
            images = [path for path in files if os.path.splitext(path)[1].lower() in ENDINGS]  # noqa: PTH122
            others.update(Path(path).suffix for path in set(files).difference(images))
            self.samples += [(path, label) for path in images]
            if not images:
                empty.append(f"{name} ({f'{len(files)} other files' if files else 'empty'})")
        if empty:
            raise DynaconvError(
                f"{root} has classes without images: {', '.join(empty[:8])}{', ...' if len(empty) > 8 else ''}; "
                f"expected files that end in {', '.join(sorted(ENDINGS))}: put some there, or take the folders away"
            )
        if others:
            kinds = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in others.most_common(5))
            _logger.warning("%s: left out %s files that are no images by name (%s)", root, others.total(), kinds)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """One image as PIL of mode RGB, and its label; ImageError if it can not be read."""
        path, label = self.samples[index]
        return load_image(path), label


def find_splits(root: Path) -> tuple[Path, Path]:
    """The folders of training and validation images.

    Raises:
        DynaconvError: if there is no such folder, it can not be read, or one of the two is missing.
    """
    try:
        folder = stat.S_ISDIR(root.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DynaconvError(f"data folder {root} does not exist or is no folder") from error
    except OSError as error:
        _refuse(error)
    if not folder:
        hint = f"; for a WebDataset shard: wds:{root}" if root.suffix == ".tar" else ""
        raise DynaconvError(f"data folder {root} is a file; expected a folder with train/ and val/{hint}")
    found = sorted(entry.name for entry in _entries(root) if entry.is_dir())
    splits = {kind: next((root / name for name in names if name in found), None) for kind, names in SPLITS.items()}
    if missing := [kind for kind, path in splits.items() if path is None]:
        raise DynaconvError(
            f"{root} has no {' and no '.join(f'{kind}/' for kind in missing)}; found the folders "
            f"{found[:8]}{' ...' if len(found) > 8 else ''}. Expected {root}/train/CLASS/*.jpg and "
            f"{root}/val/CLASS/*.jpg; move some images of each class to val/ if there is no split yet"
        )
    train, val = splits.values()
    assert train is not None  # none is missing
    assert val is not None
    return train, val


def open_splits(root: Path) -> tuple[FolderImages, FolderImages]:
    """Training and validation images under one list of classes.

    Raises:
        DynaconvError: as :class:`FolderImages` and :func:`find_splits`, and if the classes differ.
    """
    train, val = map(FolderImages, find_splits(root))
    if train.classes != val.classes:
        only = {
            "train/": sorted(set(train.classes) - set(val.classes)),
            "val/": sorted(set(val.classes) - set(train.classes)),
        }
        differing = " and ".join(f"{names[:8]} only in {where}" for where, names in only.items() if names)
        raise DynaconvError(
            f"train/ and val/ of {root} hold different classes: {differing}; expected the same class folders in both, "
            "each with at least one image"
        )
    return train, val


def files_below(folder: Path) -> list[str]:
    """Paths of files below a folder in order, links followed; a folder that was seen already (a circle) is not again.

    Hidden files and those of operating systems are passed over.

    Raises:
        DynaconvError: if a folder can not be read.
    """
    found: list[tuple[str, list[str]]] = []
    seen: set[tuple[int, int]] = set()
    for path, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        status = os.stat(path)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = [name for name in sorted(folders) if not _hidden(name)]
        found.append((path, sorted(name for name in files if not _hidden(name))))
    return [os.path.join(path, name) for path, names in sorted(found) for name in names]  # noqa: PTH118


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_FILES | SYSTEM_FOLDERS


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    raise DynaconvError(f"the folder {error.filename} can not be read: {error.strerror}") from error
