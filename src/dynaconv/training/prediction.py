"""Classes and probabilities of image files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynaconv.checkpoints.native import load_checkpoint
from dynaconv.errors import DynaconvError, ImageError
from dynaconv.training.data.augment import eval_transform
from dynaconv.training.data.images import load_image
from dynaconv.training.devices import place


@dataclass(frozen=True)
class Prediction:
    """What a network sees in an image.

    Args:
        image: path of the file.
        classes: (name, probability), most probable first; none if the file could not be read.
        error: why it could not be read.
    """

    image: str
    classes: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def predict(
    checkpoint: str | Path,
    images: Sequence[str | Path],
    *,
    top: int = 1,
    device: str = "cpu",
    batch_size: int = 32,
) -> list[Prediction]:
    """Classify image files.

    Args:
        checkpoint: name of the pair of files, such as ``runs/<name>/<time>/best``.
        images: paths of image files, see :func:`dynaconv.training.data.images.load_image`.
        top: how many classes to name.
        device: where to run, such as ``cuda``.
        batch_size: images at once.

    Returns:
        One prediction an image, in the order given; a file that can not be read has an error instead of classes.

    Raises:
        CheckpointError: if the checkpoint can not be loaded.
        DynaconvError: if ``top`` is below 1, or there is no such device.
    """
    if top < 1:
        raise DynaconvError(f"top={top}; expected at least 1")
    model, recipe = load_checkpoint(checkpoint)
    classes = recipe["classes"]
    transform = eval_transform(
        recipe["image_size"], recipe["mean"], recipe["std"], recipe["crop_pct"], recipe["interpolation"]
    )
    place(model, device)
    predictions: list[Prediction] = []
    for start in range(0, len(images), batch_size):
        paths = images[start : start + batch_size]
        read = [_read(path, transform) for path in paths]
        tensors = [image for image in read if isinstance(image, Tensor)]
        rows: Iterator[tuple[list[float], list[int]]] = iter(())
        if tensors:
            with torch.inference_mode():
                probabilities = model(torch.stack(tensors).to(device)).float().softmax(dim=1).cpu()
            values, indices = probabilities.topk(min(top, len(classes)), dim=1)
            rows = zip(values.tolist(), indices.tolist(), strict=True)
        for path, image in zip(paths, read, strict=True):
            if isinstance(image, str):
                predictions.append(Prediction(str(path), error=image))
                continue
            named = tuple((classes[number], value) for value, number in zip(*next(rows), strict=True))
            predictions.append(Prediction(str(path), named))
    return predictions


def _read(path: str | Path, transform: Callable[[Any], Tensor]) -> Tensor | str:
    """The image as the network sees it, or why there is none."""
    try:
        return transform(load_image(path))
    except ImageError as error:
        return str(error)
