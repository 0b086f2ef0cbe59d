"""What every kind of data is opened as: training and validation images under one list of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dynaconv.training.data.memory_images import MemoryImages


@dataclass(frozen=True)
class ImageSource:
    """Images to train on and to be judged by.

    Args:
        name: as the user gave it.
        classes: names, in the order of the labels.
        in_chans: channels that images are served with unless the user says otherwise.
        image_size: side in pixels that images are served with unless the user says otherwise.
        train: :class:`MemoryImages`, images by number (``len``, and items of PIL image and label that raise ImageError
            where there is no image), or a :class:`~dynaconv.training.data.streams.Stream`.
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
