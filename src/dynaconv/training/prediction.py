"""Classes and probabilities of image files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dynaconv.checkpoints.native import load_checkpoint
from dynaconv.errors import DynaconvError, require
from dynaconv.training.augment import eval_transform


@dataclass(frozen=True)
class Prediction:
    """What a network sees in an image.

    Args:
        image: path of the file.
        classes: (name, probability), most probable first.
    """

    image: str
    classes: tuple[tuple[str, float], ...]


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
        images: paths of image files, any format and mode Pillow reads.
        top: how many classes to name.
        device: where to run, such as ``cuda``.
        batch_size: images at once.

    Returns:
        One prediction an image, in the order given.

    Raises:
        CheckpointError: if the checkpoint can not be loaded.
        DynaconvError: if a file is missing or no image, or ``top`` is below 1.
    """
    if top < 1:
        raise DynaconvError(f"top={top}; expected at least 1")
    model, recipe = load_checkpoint(checkpoint)
    classes = recipe["classes"]
    transform = eval_transform(
        recipe["image_size"], recipe["mean"], recipe["std"], recipe["crop_pct"], recipe["interpolation"]
    )
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise DynaconvError(f"device {device!r} can not be used here: {error}; cpu always can") from error
    predictions: list[Prediction] = []
    for start in range(0, len(images), batch_size):
        paths = images[start : start + batch_size]
        batch = torch.stack([transform(_open(path)) for path in paths])
        with torch.inference_mode():
            probabilities = model(batch.to(device)).float().softmax(dim=1).cpu()
        values, indices = probabilities.topk(min(top, len(classes)), dim=1)
        for path, row_values, row_indices in zip(paths, values.tolist(), indices.tolist(), strict=True):
            named = tuple((classes[i], value) for i, value in zip(row_indices, row_values, strict=True))
            predictions.append(Prediction(str(path), named))
    return predictions


def _open(path: str | Path) -> Any:
    pillow = require("PIL.Image", "train")
    try:
        with pillow.open(path) as image:
            image.load()
            return image
    except FileNotFoundError as error:
        raise DynaconvError(f"there is no image at {path}") from error
    except (OSError, ValueError) as error:
        raise DynaconvError(f"{path} can not be read as an image: {error}") from error
