"""Tensors that follow from a layer's sizes."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor


class Constant:
    """A tensor that follows from a layer's sizes and never changes.

    It is neither parameter nor buffer: loaders that fill a network module by module (transformers' ``from_pretrained``)
    leave memory as they find it wherever a file has nothing for a buffer. Copies share it.

    Args:
        value: the tensor, on the CPU, also for a layer that is made without memory.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self._moved = value

    def on(self, device: torch.device) -> Tensor:
        """The tensor on a device, where it is kept for the next time."""
        if device == self._moved.device:
            return self._moved
        with torch.inference_mode(False):  # an inference tensor could not be trained with later
            moved = self.value.to(device)
        if type(moved) is Tensor and not moved.is_meta:  # a traced tensor is nobody else's
            self._moved = moved
        return moved

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"value": self.value, "_moved": self.value}
