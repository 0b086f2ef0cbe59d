"""The LightningDataModule: from a source's name to batches of (images, labels).

Embedded sets are resized once and stay in memory as tensors, with augmentation a batch at a time: on two cores that is
many times faster than decoding. Files go through timm's transforms in worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dynaconv.errors import DynaconvError
from dynaconv.training._lightning import LightningDataModule
from dynaconv.training.augment import (
    eval_transform,
    random_affine,
    random_erase,
    random_flip,
    train_transform,
)
from dynaconv.training.config import AugmentConfig, LoaderConfig, Recipe
from dynaconv.training.memory_images import MemoryImages
from dynaconv.training.sampling import EpochBatches, ResumableLoader, SeededDataset
from dynaconv.training.scenes import SceneImages
from dynaconv.training.sources import ImageSource, open_source

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class MemoryLoader:
    """Batches straight from tensors in memory.

    Args:
        images: shape ``(N, C, H, W)``, float32 between 0 and 1, at the size the network sees.
        labels: shape ``(N,)``.
        batches: the order.
        mean: per channel.
        std: per channel.
        augment: None for evaluation.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batches: EpochBatches,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augment: AugmentConfig | None = None,
    ) -> None:
        self.images, self.labels, self.batches, self.augment = images, labels, batches, augment
        self.mean, self.std = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.batches:
            chosen = torch.tensor([index for index, _ in batch])
            # The first image's seed stands for the batch: it, too, is a function of run, epoch and place.
            generator = torch.Generator().manual_seed(batch[0][1])
            images = self.draw(chosen, [seed for _, seed in batch], generator)
            if self.augment is not None and self.augment.flip:
                images = random_flip(images, self.augment.flip, generator)
            images = (images - self.mean) / self.std
            if self.augment is not None and self.augment.erasing:
                images = random_erase(images, self.augment.erasing, generator)
            yield images, self.labels[chosen]

    def draw(self, chosen: Tensor, seeds: Sequence[int], generator: torch.Generator) -> Tensor:
        """The chosen images, shifted, turned and zoomed for training."""
        images = self.images[chosen]
        return images if self.augment is None else random_affine(images, self.augment, generator)


class SceneLoader(MemoryLoader):
    """Batches of scenes, each made from the seed of its image: they have place, turn and scale of their own.

    Args:
        scenes: digits and photographs.
        size: side of a scene in pixels.
        in_chans: 1 or 3.
        options: the other arguments of :class:`MemoryLoader`.
    """

    def __init__(self, scenes: SceneImages, size: int, in_chans: int, **options: Any) -> None:
        super().__init__(scenes.images, scenes.labels, **options)
        self.scenes, self.size, self.in_chans = scenes, size, in_chans

    def draw(self, chosen: Tensor, seeds: Sequence[int], generator: torch.Generator) -> Tensor:
        """A scene of every chosen digit."""
        return self.scenes.render(chosen, seeds, self.size, self.in_chans)


class ImageDataModule(LightningDataModule):
    """Training and validation batches of a recipe's data.

    After :meth:`setup`: ``classes``, ``in_chans``, ``image_size``, ``mean``, ``std``, ``crop_pct``.

    Args:
        data: name of the source, see :func:`dynaconv.training.sources.open_source`.
        loader: reading and batching.
        augment: augmentation of the training images.
        seed: of the run.
    """

    def __init__(
        self,
        data: str,
        loader: LoaderConfig | None = None,
        augment: AugmentConfig | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.data, self.seed = data, seed
        self.loader, self.augment = loader or LoaderConfig(), augment or AugmentConfig()
        self.source: ImageSource | None = None

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> ImageDataModule:
        """The data of a recipe."""
        return cls(recipe.data, recipe.loader, recipe.augment, recipe.run.seed)

    def setup(self, stage: str | None = None) -> None:
        """Open the source once, whatever the stage."""
        if self.source is not None:
            return
        source = open_source(self.data, self.loader)
        self.classes = source.classes
        self.in_chans = self.loader.in_chans or source.in_chans
        self.image_size = self.loader.image_size or source.image_size
        self.crop_pct = self.loader.crop_pct or (1.0 if source.in_memory else 0.95)
        self.interpolation = "bilinear" if source.in_memory else self.loader.interpolation
        if source.in_memory:
            value_mean, value_std = source.train.statistics()
            self.mean, self.std = (value_mean,) * self.in_chans, (value_std,) * self.in_chans
        elif self.in_chans == 1:
            self.mean, self.std = (0.449,), (0.226,)
        else:
            self.mean, self.std = IMAGENET_MEAN, IMAGENET_STD
        self.source = source

    def preprocessing(self) -> dict[str, Any]:
        """What a checkpoint must know to treat an image as this module does at evaluation; plain types."""
        return {
            "classes": list(self.classes),
            "mean": list(self.mean),
            "std": list(self.std),
            "image_size": self.image_size,
            "crop_pct": self.crop_pct,
            "interpolation": self.interpolation,
        }

    @property
    def iterations_per_epoch(self) -> int:
        """Training batches of an epoch, of this process."""
        return len(self._batches(len(self._opened().train), training=True))

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled, augmented batches that a run can resume within."""
        images = self._opened().train
        batches = self._batches(len(images), training=True)
        loader: Any
        if isinstance(images, SceneImages):
            if self.augment.rand_augment is not None:
                raise DynaconvError("scenes are made a batch at a time and vary by themselves; drop rand_augment")
            options = {"batches": batches, "mean": self.mean, "std": self.std, "augment": self.augment}
            loader = SceneLoader(images, self.image_size, self.in_chans, **options)
        elif isinstance(images, MemoryImages) and self.augment.rand_augment is None:
            pixels = images.pixels(self.image_size, self.in_chans)
            loader = MemoryLoader(pixels, images.labels, batches, self.mean, self.std, self.augment)
        else:
            transform = train_transform(self.augment, self.image_size, self.mean, self.std)
            loader = self._from_files(images, transform, batches)
        return ResumableLoader(loader, batches)

    def val_dataloader(self) -> Any:
        """Every validation image once, in order, over all devices together."""
        images = self._opened().val
        batches = self._batches(len(images), training=False)
        if isinstance(images, MemoryImages):
            pixels = images.pixels(self.image_size, self.in_chans)
            return MemoryLoader(pixels, images.labels, batches, self.mean, self.std)
        transform = eval_transform(self.image_size, self.mean, self.std, self.crop_pct, self.interpolation)
        return ResumableLoader(self._from_files(images, transform, batches), batches)

    def _opened(self) -> ImageSource:
        if self.source is None:
            raise DynaconvError("the data module is not set up; call setup() first, or give it to a Trainer")
        return self.source

    def _batches(self, length: int, *, training: bool) -> EpochBatches:
        trainer = self.trainer
        return EpochBatches(
            length,
            self.loader.batch_size,
            shuffle=training,
            drop_last=training and self.loader.drop_last,
            seed=self.seed,
            rank=trainer.global_rank if trainer is not None else 0,
            world_size=trainer.world_size if trainer is not None else 1,
        )

    def _from_files(self, images: Any, transform: Any, batches: EpochBatches) -> DataLoader[Any]:
        workers = 0 if isinstance(images, MemoryImages) else self.loader.workers
        return DataLoader(
            SeededDataset(images, transform),
            batch_sampler=batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
