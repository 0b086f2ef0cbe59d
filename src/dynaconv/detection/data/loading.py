"""What runs in a worker, and how batches are put together: wide images with wide ones, tall with tall."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from dynaconv.detection.config import DetectionAugmentConfig
from dynaconv.detection.data.images import CocoImages
from dynaconv.detection.data.vary import vary
from dynaconv.training.data.reading import ATTEMPTS, first_readable
from dynaconv.training.data.sampling import EpochBatches
from dynaconv.training.data.unreadable import Sample


class ShapeBatches(EpochBatches):
    """Batches of images of one shape each, but for at most one batch an epoch, in which two shapes meet.

    Args:
        shapes: number of the shape of every image, shape ``(N,)``.
        options: those of :class:`EpochBatches`, but its length.
    """

    def __init__(self, shapes: np.ndarray, *args: Any, **options: Any) -> None:
        super().__init__(len(shapes), *args, **options)
        self.shapes = shapes

    def cut(self) -> dict[str, int]:
        """Batches of one shape are other images in another size, or on another number of processes."""
        return {"batch_size": self.batch_size, "processes": self.world_size}

    def _parts(self, order: np.ndarray) -> list[np.ndarray]:
        """All processes' batches: cut from the shuffled images, shape after shape, and shuffled themselves."""
        draw = np.random.default_rng([self.seed, self.epoch, 1])  # 1: unrelated to the draw of the order
        order = np.resize(order, self.share * self.world_size)
        _, shapes = np.unique(self.shapes, return_inverse=True)
        first = draw.permutation(int(shapes.max()) + 1)  # which shape's batch is the last and incomplete one
        order = order[np.argsort(first[shapes[order]], kind="stable")]
        full, rest = divmod(self.share, self.batch_size)
        whole = order[: full * self.batch_size * self.world_size].reshape(-1, self.batch_size)
        ends = np.split(order[whole.size :], self.world_size) if rest else []
        return [*draw.permutation(whole), *ends][self.rank :: self.world_size]


class CocoDataset(Dataset[Any]):
    """Images and targets as tensors, varied by the seed that comes with a number.

    Args:
        images: by number.
        augment: how they vary; None for not at all.
        replace: take the next readable image where one can not be read; otherwise the sample has none.
    """

    def __init__(self, images: CocoImages, augment: DetectionAugmentConfig | None, replace: bool) -> None:
        self.images, self.augment, self.replace = images, augment, replace

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        index, seed = key
        tried = range(index, index + min(ATTEMPTS, len(self))) if self.replace else (index,)
        return first_readable(lambda turn: self.images[turn % len(self)], tried, self._vary, seed, self.replace)

    def _vary(self, image: Any, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        return vary(image, target, self.augment)


def join(samples: list[tuple[Tensor, dict[str, Any]]]) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """A batch: images have sizes of their own, so they stay a list, as do the targets."""
    return [image for image, _ in samples], [target for _, target in samples]
