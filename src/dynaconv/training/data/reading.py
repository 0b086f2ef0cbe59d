"""What runs in a worker: from a place in the order to a transformed image, whatever becomes of its file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import Dataset

from dynaconv.errors import DynaconvError, ImageError
from dynaconv.training.data.sampling import seeded
from dynaconv.training.data.unreadable import Fault, Sample

ATTEMPTS = 32
"""Images tried in one place before training stops: so many in a row are no accident."""


class SeededDataset(Dataset[Any]):
    """Images by number, whose random transform draws from the seed that comes with the number.

    Args:
        images: anything with ``len`` and items (PIL image, label) that raises ImageError where there is no image.
        transform: from PIL image to tensor.
        num_classes: labels are below it.
        replace: take the next readable image where one can not be read; otherwise the sample has none.
    """

    def __init__(self, images: Any, transform: Callable[[Any], Any], num_classes: int, replace: bool = True) -> None:
        self.images, self.transform, self.num_classes, self.replace = images, transform, num_classes, replace

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index, seed = key
        tried = range(index, index + min(ATTEMPTS, len(self))) if self.replace else (index,)
        return first_readable(self._read, tried, on_image(self.transform), seed, self.replace)

    def _read(self, index: int) -> tuple[Any, int]:
        index %= len(self)
        image, label = self.images[index]
        check_label(int(label), self.num_classes, f"image number {index}")
        return image, int(label)


def check_label(label: int, num_classes: int, name: str) -> None:
    """Raise a DynaconvError if a label is none of the classes'."""
    if not 0 <= label < num_classes:
        raise DynaconvError(
            f"{name} has the label {label}; expected 0 to {num_classes - 1}, as there are {num_classes} classes"
        )


def on_image(transform: Callable[[Any], Any]) -> Callable[[Any, Any], tuple[Any, Any]]:
    """A transform of image and label that leaves the label alone."""
    return lambda image, label: (transform(image), label)


def first_readable(
    read: Callable[[int], tuple[Any, Any]],
    turns: Sequence[int],
    transform: Callable[[Any, Any], tuple[Any, Any]],
    seed: int,
    replace: bool,
) -> Sample:
    """The first image that can be read, transformed. Only the first fault counts: the others have places of their own.

    Args:
        read: from a turn to PIL image and label.
        turns: what to read, one after the other.
        transform: from PIL image and label to tensor and label, drawing from ``seed``.
        seed: of the place, not of the image.
        replace: there must be an image; without, the sample may have none.
    """
    faults: list[Fault] = []
    for turn in turns:
        try:
            image, label = read(turn)
        except ImageError as error:
            faults.append(Fault(error.name, error.cause))
            continue
        except DynaconvError as error:  # carried to the main process, which can say it in one line
            return Sample(None, 0, [Fault("", str(error), fatal=True)])
        with seeded(seed):
            return Sample(*transform(image, label), faults[:1])
    if not replace:
        return Sample(None, 0, faults)
    text = f"{len(faults)} images in a row can not be read: {faults[0].name} ({faults[0].cause}) to {faults[-1].name}"
    return Sample(None, 0, [Fault("", text, fatal=True)])
