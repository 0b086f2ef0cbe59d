"""Batches of loaders, and to which of their images the samples belong that a layer sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynaconv.errors import DynaconvError


def images_and_classes(batch: Any, wanted: bool) -> tuple[Tensor, Tensor | None]:
    """Images of a batch, and their classes if they are wanted.

    Args:
        batch: images ``(B, ...)``, or a sequence of these and, if they are wanted, class numbers ``(B,)``.
        wanted: whether classes are.

    Raises:
        DynaconvError: if the batch is something else.

    Example:
        >>> images, classes = images_and_classes([torch.zeros(2, 3)], wanted=False)
        >>> images.shape, classes
        (torch.Size([2, 3]), None)
    """
    parts = list(batch) if isinstance(batch, tuple | list) else [batch]
    if not parts or not isinstance(parts[0], Tensor):
        got = type(parts[0] if parts else batch).__name__
        raise DynaconvError(f"a batch begins with {got}; expected images as a tensor, alone or before class numbers")
    images = parts[0]
    if not wanted:
        return images, None
    if len(parts) < 2:
        raise DynaconvError("averages by class need batches of (images, class numbers); got images alone")
    labels = torch.as_tensor(parts[1])
    if labels.shape != images.shape[:1]:
        raise DynaconvError(
            f"class numbers of shape {tuple(labels.shape)} for {len(images)} images; expected ({len(images)},)"
        )
    return images, labels


def by_image(attention: Tensor, images: int, layer: str) -> Tensor:
    """Put together what belongs to an image, where a layer sees parts as samples, one image's after another's.

    Args:
        attention: shape ``(k B, ...)``.
        images: B.
        layer: name of the layer, for the error.

    Returns:
        Shape ``(B, k, ...)``, a view where that is possible.

    Raises:
        DynaconvError: if the number of samples is no multiple of B.
    """
    if not images or not len(attention) or len(attention) % images:
        raise DynaconvError(
            f"layer '{layer}' sees {len(attention)} samples in a batch of {images} images; expected as many, or a "
            "multiple where an image is seen in parts"
        )
    return attention.unflatten(0, (images, -1))
