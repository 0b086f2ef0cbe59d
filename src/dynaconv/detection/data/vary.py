"""How training images vary: a random window, a flip; boxes and masks go with the pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynaconv.detection.config import DetectionAugmentConfig
from dynaconv.errors import require

BEFORE = (400, 500, 600)
"""Shorter sides in pixels, one of which an image has before a window is cut from it; mmdetection's, after DETR."""
WINDOW = (384, 600)
"""Smallest and largest side of a window, in pixels; an image that is smaller gives what it has."""
LONGEST = 1333


def vary(
    image: Any, target: dict[str, Any], augment: DetectionAugmentConfig | None = None
) -> tuple[Tensor, dict[str, Any]]:
    """An image as float32 of shape ``(3, H, W)`` between 0 and 1, varied with its objects.

    Args:
        image: PIL, of mode RGB.
        target: its objects, see :class:`dynaconv.detection.data.images.CocoImages`; ``size`` stays the file's.
        augment: probabilities, drawn from torch's generator; None for no variation.
    """
    pixels = require("torchvision.transforms.v2.functional", "detection").pil_to_tensor(image)
    if augment is not None and (augment.flip or augment.crop):
        tensors, transforms = (require(f"torchvision.{name}", "detection") for name in ("tv_tensors", "transforms.v2"))
        typed = {"image": tensors.Image(pixels), "labels": target["labels"]}
        typed["boxes"] = tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=target["size"])
        if "masks" in target:
            typed["masks"] = tensors.Mask(target["masks"])
        if augment.crop and float(torch.rand(())) < augment.crop:
            typed = _window(tensors, transforms, typed)
        varied = transforms.RandomHorizontalFlip(augment.flip)(typed)
        plain = {name: value.as_subclass(torch.Tensor) for name, value in varied.items()}
        pixels, target = plain.pop("image"), target | plain
    return pixels.float() / 255, target


def _window(tensors: Any, transforms: Any, typed: dict[str, Any]) -> dict[str, Any]:
    """A random window of a resized image, with what of the objects is in it."""
    typed = transforms.RandomShortestSize(BEFORE, max_size=LONGEST)(typed)
    low, high = WINDOW
    sides = [_draw(min(low, side), min(high, side)) for side in typed["image"].shape[-2:]]
    typed = transforms.ClampBoundingBoxes()(transforms.RandomCrop(sides)(typed))
    typed = transforms.SanitizeBoundingBoxes()(typed)
    if "masks" in typed:  # a box may reach into the window where its object does not
        seen = typed["masks"].flatten(1).any(1).bool()
        for name in ("boxes", "masks"):
            typed[name] = tensors.wrap(typed[name][seen], like=typed[name])
        typed["labels"] = typed["labels"][seen]
    return typed


def _draw(low: int, high: int) -> int:
    """A whole number, both ends included."""
    return int(torch.randint(low, high + 1, ()))
