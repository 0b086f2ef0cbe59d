"""The LightningDataModule: from a source's name to batches of (images, labels).

Embedded sets stay in memory as tensors; files and streams go through timm's transforms in worker processes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dynaconv.errors import DynaconvError
from dynaconv.training._lightning import LightningDataModule
from dynaconv.training.config import AugmentConfig, LoaderConfig, Recipe
from dynaconv.training.data.augment import eval_transform, train_transform
from dynaconv.training.data.image_source import ImageSource
from dynaconv.training.data.memory_images import MemoryImages
from dynaconv.training.data.memory_loader import MemoryLoader, SceneLoader
from dynaconv.training.data.reading import SeededDataset
from dynaconv.training.data.sampling import EpochBatches, ResumableLoader, any_number_of_workers
from dynaconv.training.data.scenes import SceneImages
from dynaconv.training.data.sources import open_source
from dynaconv.training.data.streams import Stream, StreamBatches, StreamDataset
from dynaconv.training.data.unreadable import Ledger, collate

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ImageDataModule(LightningDataModule):
    """Training and validation batches of a recipe's data.

    After :meth:`setup`: ``classes``, ``in_chans``, ``image_size``, ``mean``, ``std``, ``crop_pct``. Loaders of files
    and streams put what they could not read into ``ledgers``: ``unreadable`` (training) and ``val_unreadable``.

    Args:
        data: name of the source, see :func:`dynaconv.training.data.sources.open_source`.
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
        self.ledgers: dict[str, Ledger] = {}

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
        return len(self._batches(self._opened().train, training=True, shuffle=True))

    def summary(self) -> dict[str, Any]:
        """What the data are, to be compared with another time: classes, and numbers of images."""
        source = self._opened()
        return {"classes": list(source.classes), "train": len(source.train), "val": len(source.val)}

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled, augmented batches that a run can resume within."""
        images = self._opened().train
        if isinstance(images, SceneImages) and self.augment.rand_augment is not None:
            raise DynaconvError("scenes are made a batch at a time and vary by themselves; drop rand_augment")
        if not isinstance(images, MemoryImages) or self.augment.rand_augment is not None:
            transform = train_transform(self.augment, self.image_size, self.mean, self.std)
            return self._from_files(images, transform, training=True, shuffle=True)
        batches = self._batches(images, training=True, shuffle=True)
        options: Any = {"batches": batches, "mean": self.mean, "std": self.std, "augment": self.augment}
        if isinstance(images, SceneImages):
            return ResumableLoader(SceneLoader(images, self.image_size, self.in_chans, **options), batches)
        pixels = images.pixels(self.image_size, self.in_chans)
        return ResumableLoader(MemoryLoader(pixels, images.labels, **options), batches)

    def val_dataloader(self) -> Any:
        """Every validation image once, in order, over all devices together."""
        return self._validation(shuffle=False)

    def shuffled_val_dataloader(self) -> Any:
        """Every validation image once, in an order that the seed alone decides, as data lie sorted by class.

        Shards are mixed as in training: their order, and images within the loader's buffer.
        """
        return self._validation(shuffle=True)

    def _validation(self, *, shuffle: bool) -> Any:
        images = self._opened().val
        if isinstance(images, MemoryImages):
            pixels = images.pixels(self.image_size, self.in_chans)
            batches = self._batches(images, training=False, shuffle=shuffle)
            return MemoryLoader(pixels, images.labels, batches, self.mean, self.std)
        transform = eval_transform(self.image_size, self.mean, self.std, self.crop_pct, self.interpolation)
        return self._from_files(images, transform, training=False, shuffle=shuffle)

    def val_sample(self, count: int, seed: int = 0) -> tuple[Tensor, Tensor] | None:
        """Validation images drawn at random, the same ones for a seed, whatever the process; in order.

        Args:
            count: images at most.
            seed: of the draw; not the run's, so that runs on the same data share the images.

        Returns:
            Images ``(N, C, H, W)`` as the network sees them and labels ``(N,)``, without those that can not be read;
            None if there are none, and of a stream, which has no images by number.
        """
        images = self._opened().val
        if isinstance(images, Stream):
            return None
        chosen = sorted(np.random.default_rng(seed).permutation(len(images))[:count].tolist())
        if isinstance(images, MemoryImages):
            loader = self.val_dataloader()
            return (loader.images[chosen] - loader.mean) / loader.std, loader.labels[chosen]
        transform = eval_transform(self.image_size, self.mean, self.std, self.crop_pct, self.interpolation)
        dataset = SeededDataset(images, transform, len(self.classes), replace=False)
        found, labels, _ = collate([dataset[index, seed] for index in chosen])
        return None if found is None else (found, labels)

    def _opened(self) -> ImageSource:
        if self.source is None:
            raise DynaconvError("the data module is not set up; call setup() first, or give it to a Trainer")
        return self.source

    def _batches(self, images: Any, *, training: bool, shuffle: bool) -> EpochBatches:
        trainer = self.trainer
        options: dict[str, Any] = {
            "shuffle": shuffle,
            "drop_last": training and self.loader.drop_last,
            "seed": self.seed,
            "rank": trainer.global_rank if trainer is not None else 0,
            "world_size": trainer.world_size if trainer is not None else 1,
        }
        if isinstance(images, Stream):
            lanes = max(1, self.loader.workers)
            return StreamBatches(len(images), self.loader.batch_size, lanes=lanes, **options)
        return EpochBatches(len(images), self.loader.batch_size, **options)

    def _from_files(self, images: Any, transform: Any, *, training: bool, shuffle: bool) -> ResumableLoader:
        batches, classes = self._batches(images, training=training, shuffle=shuffle), len(self.classes)
        dataset: Any
        if isinstance(batches, StreamBatches):
            buffer = self.loader.shuffle_buffer
            dataset = StreamDataset(images, batches, transform, classes, buffer, replace=training)
        else:
            dataset = SeededDataset(images, transform, classes, replace=training)
        workers = 0 if isinstance(images, MemoryImages) else self.loader.workers
        kind = "training" if training else "validation"
        ledger = Ledger(kind, batches.share, self.loader.max_bad)
        self.ledgers["unreadable" if training else "val_unreadable"] = ledger
        with any_number_of_workers():
            loader = DataLoader(
                dataset,
                batch_sampler=batches,
                num_workers=workers,
                collate_fn=collate,
                persistent_workers=workers > 0,
                pin_memory=torch.cuda.is_available(),
            )
        return ResumableLoader(loader, batches, ledger)
