"""Images held in memory, with their labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class MemoryImages:
    """Images held in memory.

    Args:
        images: shape ``(N, C, H, W)``, uint8, 0 to 255.
        labels: shape ``(N,)``, int64.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """One image as PIL, for transforms that work on files."""
        from torchvision.transforms.functional import to_pil_image

        return to_pil_image(self.images[index]), int(self.labels[index])

    def pixels(self, size: int, in_chans: int) -> Tensor:
        """All images at the size that a network sees, shape ``(N, in_chans, size, size)``, between 0 and 1."""
        pixels = self.images.float() / 255
        if pixels.shape[-2:] != (size, size):
            pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        return pixels.expand(-1, in_chans, -1, -1).contiguous()

    def statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of pixels between 0 and 1."""
        pixels = self.images.double() / 255
        return round(pixels.mean().item(), 4), round(pixels.std().item(), 4)
