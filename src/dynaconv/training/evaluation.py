"""`evaluate` as a plain function: a saved network on the validation images of a source."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dynaconv.checkpoints.native import load_checkpoint
from dynaconv.errors import DynaconvError
from dynaconv.training._lightning import quiet_lightning
from dynaconv.training.config import LoaderConfig, Recipe, RunConfig
from dynaconv.training.data.datamodule import ImageDataModule
from dynaconv.training.engine.module import ClassificationModule
from dynaconv.training.engine.trainer import make_judge

_logger = logging.getLogger(__name__)

Counting = Callable[[str, int | None], AbstractContextManager[Callable[[], None]]]
"""A progress bar: is given a text and a number of steps, if that is known, and gives what to call after each."""


def evaluate(
    checkpoint: str | Path,
    data: str | None = None,
    *,
    loader: LoaderConfig | None = None,
    accelerator: str = "auto",
    precision: str = "32-true",
    progress_bar: bool = False,
) -> dict[str, float]:
    """Judge a saved network on the validation images of a data source.

    Args:
        checkpoint: name of the pair of files, such as ``runs/<name>/<time>/best``.
        data: a source, see :func:`dynaconv.training.data.sources.open_source`; the one it was trained on if None.
        loader: batch size, workers, splits; how an image is prepared comes from the checkpoint.
        accelerator: Lightning's.
        precision: Lightning's.
        progress_bar: show Lightning's progress bar.

    Returns:
        ``val_loss``, ``val_top1`` and, with more than five classes, ``val_top5``; accuracies are shares of 1, of
        ``val_images``. ``val_unreadable`` images were left out, and are named in the log.

    Raises:
        CheckpointError: if the checkpoint can not be loaded.
        DynaconvError: if the data have other classes than the network.
    """
    model, images, _ = open_saved(checkpoint, data, loader)
    return validate(model, images, RunConfig(accelerator=accelerator, precision=precision), progress_bar)


def open_saved(
    checkpoint: str | Path, data: str | None = None, loader: LoaderConfig | None = None
) -> tuple[nn.Module, ImageDataModule, dict[str, Any]]:
    """A saved network, data whose images are prepared for it, and its description.

    Args:
        checkpoint: name of the pair of files.
        data: a source; the one it was trained on if None.
        loader: batch size, workers, splits; how an image is prepared comes from the checkpoint.

    Raises:
        CheckpointError: if the checkpoint can not be loaded.
        DynaconvError: if the data have other classes than the network.
    """
    model, description = load_checkpoint(checkpoint)
    classes = list(description["classes"])
    options = replace(
        loader or LoaderConfig(),
        image_size=description["image_size"],
        in_chans=description["model"]["in_chans"],
        crop_pct=description["crop_pct"],
        interpolation=description["interpolation"],
    )
    images = ImageDataModule(data or description["data"], options)
    images.setup()
    if list(images.classes) != classes:
        raise DynaconvError(
            f"{images.data} has {len(images.classes)} classes ({_shorten(images.classes)}) and {checkpoint} knows "
            f"{len(classes)} ({_shorten(classes)}); expected the same names in the same order"
        )
    images.mean, images.std = tuple(description["mean"]), tuple(description["std"])
    return model, images, description


def validate(
    model: nn.Module, images: ImageDataModule, run: RunConfig | None = None, progress_bar: bool = False
) -> dict[str, float]:
    """Judge a network on validation images that are set up.

    Args:
        model: images to logits; it is left in evaluation mode.
        images: set up.
        run: accelerator and precision.
        progress_bar: show Lightning's progress bar.

    Returns:
        As :func:`evaluate`.

    Raises:
        DynaconvError: if Lightning refuses accelerator or precision.
    """
    run = run or RunConfig()
    module = ClassificationModule(model, Recipe(run=run), len(images.classes))
    with quiet_lightning():
        trainer = make_judge(run.accelerator, run.precision, progress_bar)
        metrics = trainer.validate(module, datamodule=images, verbose=False)[0]
    ledger = images.ledgers.get("val_unreadable")
    unreadable = 0 if ledger is None else len(ledger.faults)
    if unreadable == images.summary()["val"]:
        raise DynaconvError(f"no validation image could be read; {ledger}")
    if ledger is not None and (text := ledger.report()):
        _logger.warning("%s", text)
    counts = {"val_images": images.summary()["val"] - unreadable, "val_unreadable": unreadable}
    return {name: float(value) for name, value in metrics.items()} | counts


def first_batches(
    batches: Iterable[tuple[Tensor, Tensor]], limit: int | None, done: Callable[[], None]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images and labels up to so many images; no batch beyond them is asked for.

    Args:
        batches: of a loader.
        limit: images at most; all if None.
        done: called after each batch, for a progress bar.

    Example:
        >>> import torch
        >>> pairs = [(torch.zeros(4, 1), torch.arange(4))] * 3
        >>> [len(labels) for _, labels in first_batches(pairs, 6, lambda: None)]
        [4, 2]
    """
    left = math.inf if limit is None else limit
    for images, labels in batches:
        taken = int(min(left, len(labels)))
        yield images[:taken], labels[:taken]
        left -= taken
        done()
        if left <= 0:
            return


def check_limit(limit: int | None) -> None:
    """Refuse a number of images that leaves none.

    Raises:
        DynaconvError: if it is below one.
    """
    if limit is not None and limit < 1:
        raise DynaconvError(f"limit={limit}; expected at least one image")


def _shorten(names: Any) -> str:
    return ", ".join(list(names)[:4]) + (", ..." if len(names) > 4 else "")
