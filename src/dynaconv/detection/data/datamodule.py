"""The LightningDataModule of detectors: from a folder in COCO's format to batches of (images, targets).

Images come at their own sizes. The detector resizes them (torchvision's GeneralizedRCNNTransform), also to one of
``augment.sizes``: it draws from torch's generator, which is seeded anew at every iteration
(:class:`~dynaconv.training.engine.callbacks.IterationSeed`), so multi-scale training resumes exactly without help.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from dynaconv.detection.config import CocoLoaderConfig, DetectionAugmentConfig, DetectionRecipe
from dynaconv.detection.data.annotations import CocoAnnotations, read_annotations
from dynaconv.detection.data.images import CocoImages
from dynaconv.detection.data.loading import CocoDataset, ShapeBatches, join
from dynaconv.errors import DynaconvError
from dynaconv.training._lightning import LightningDataModule
from dynaconv.training.data.sampling import EpochBatches, ResumableLoader, any_number_of_workers
from dynaconv.training.data.unreadable import Ledger, collate

_logger = logging.getLogger(__name__)


class DetectionDataModule(LightningDataModule):
    """Training and validation batches of a data set in COCO's format.

    A batch is a list of images, float32 of shape ``(3, H, W)`` between 0 and 1, and a list of targets, see
    :class:`~dynaconv.detection.data.images.CocoImages`. After :meth:`setup`: ``classes`` and ``category_ids`` in the
    order of the labels, and ``val_truth``. Loaders put what they could not read into ``ledgers``: ``unreadable``
    (training) and ``val_unreadable``.

    Args:
        data: the folder.
        loader: files in it, and batching.
        augment: augmentation of the training images; ``sizes`` is the detector's.
        masks: objects have masks.
        seed: of the run.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __init__(
        self,
        data: str,
        loader: CocoLoaderConfig | None = None,
        augment: DetectionAugmentConfig | None = None,
        *,
        masks: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.data, self.masks, self.seed = data, masks, seed
        self.loader, self.augment = loader or CocoLoaderConfig(), augment or DetectionAugmentConfig()
        self.ledgers: dict[str, Ledger] = {}
        self._train: CocoImages | None = None
        self._val: CocoImages | None = None
        self._truth: CocoAnnotations | None = None

    @classmethod
    def from_recipe(cls, recipe: DetectionRecipe) -> DetectionDataModule:
        """The data of a recipe."""
        return cls(recipe.data, recipe.loader, recipe.augment, masks=recipe.detector.masks, seed=recipe.run.seed)

    def setup(self, stage: str | None = None) -> None:
        """Read the annotations once; with the stage "validate" those of validation alone.

        Raises:
            DynaconvError: if a file can not be used, or the two have different classes.
        """
        if self._truth is None:
            self._truth = self._read("val")
            self._val = CocoImages(self._truth, masks=self.masks)
            self.classes, self.category_ids = self._truth.classes, self._truth.category_ids
        if self._train is None and stage != "validate":
            train = self._read("train")
            check_classes(train, self._truth)
            options: Any = {"empty": self.loader.empty_images, "limit": self.loader.limit}
            self._train = CocoImages(train, masks=self.masks, **options)

    @property
    def val_truth(self) -> CocoAnnotations:
        """What detections are judged by."""
        if self._truth is None:
            raise DynaconvError("the data module is not set up; call setup() first, or give it to a Trainer")
        return self._truth

    def preprocessing(self) -> dict[str, Any]:
        """What a checkpoint must know to name what a detector finds; plain types."""
        return {"classes": list(self.classes), "category_ids": list(self.category_ids)}

    @property
    def iterations_per_epoch(self) -> int:
        """Training batches of an epoch, of this process."""
        return len(self._batches(self._opened(self._train), training=True))

    def summary(self) -> dict[str, Any]:
        """What the data are, to be compared with another time: classes, and numbers of images."""
        train, val = self._opened(self._train), self._opened(self._val)
        return {"classes": list(self.classes), "train": len(train), "val": len(val)}

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled, augmented batches that a run can resume within."""
        return self._loader(self._opened(self._train), training=True)

    def val_dataloader(self) -> ResumableLoader:
        """Every validation image once, in order, over all devices together."""
        return self._loader(self._opened(self._val), training=False)

    def _read(self, split: str) -> CocoAnnotations:
        path, images = split_paths(self.data, self.loader, split)
        annotations = read_annotations(path, images, self.masks)
        if annotations.report.faults:
            _logger.warning("%s; `dynaconv detect check` tells more", annotations.report)
        return annotations

    def _opened(self, images: CocoImages | None) -> CocoImages:
        if images is None:
            raise DynaconvError("the data module is not set up; call setup() first, or give it to a Trainer")
        return images

    def _batches(self, images: CocoImages, *, training: bool) -> EpochBatches:
        trainer = self.trainer
        options: dict[str, Any] = {
            "shuffle": training,
            "drop_last": False,
            "seed": self.seed,
            "rank": trainer.global_rank if trainer is not None else 0,
            "world_size": trainer.world_size if trainer is not None else 1,
        }
        if training and self.loader.group_shapes:
            return ShapeBatches(images.wide, self.loader.batch_size, **options)
        size = self.loader.batch_size if training else self.loader.val_batch_size
        return EpochBatches(len(images), size, **options)

    def _loader(self, images: CocoImages, *, training: bool) -> ResumableLoader:
        batches, workers = self._batches(images, training=training), self.loader.workers
        ledger = Ledger("training" if training else "validation", batches.share, self.loader.max_bad)
        self.ledgers["unreadable" if training else "val_unreadable"] = ledger
        with any_number_of_workers():
            loader = DataLoader(
                CocoDataset(images, self.augment if training else None, replace=training),
                batch_sampler=batches,
                num_workers=workers,
                collate_fn=partial(collate, join=join),
                persistent_workers=workers > 0,
                pin_memory=torch.cuda.is_available(),
            )
        return ResumableLoader(loader, batches, ledger)


def split_paths(data: str, loader: CocoLoaderConfig, split: str) -> tuple[Path, Path]:
    """The annotations and the folder of images of a split, ``train`` or ``val``.

    Raises:
        DynaconvError: if the folder of the data, or that of the images, is none.
    """
    root = Path(data).expanduser()
    if not os.path.isdir(root):  # noqa: PTH112  (Path.is_dir may raise)
        raise DynaconvError(f"data={data!r} is no folder; expected one of COCO's layout, or `dynaconv detect digits`'")
    path = root / getattr(loader, f"{split}_annotations")
    images = root / getattr(loader, f"{split}_images")
    if not os.path.isdir(images):  # noqa: PTH112
        raise DynaconvError(f"there is no folder {images}; say where the images lie with loader.{split}_images")
    return path, images


def check_classes(train: CocoAnnotations, val: CocoAnnotations) -> None:
    """Training and validation need the same labels.

    Raises:
        DynaconvError: if ids or names of their categories differ.
    """
    pairs = [dict(zip(split.category_ids, split.classes, strict=True)) for split in (train, val)]
    if pairs[0] != pairs[1]:
        differing = [key for key in sorted(pairs[0] | pairs[1]) if pairs[0].get(key) != pairs[1].get(key)]
        listed = ", ".join(f"{key}: {pairs[0].get(key)!r} and {pairs[1].get(key)!r}" for key in differing[:5])
        raise DynaconvError(
            f"{train.path} and {val.path} have different categories: {listed}{', ...' if len(differing) > 5 else ''}; "
            "expected the same ids and names in both"
        )
