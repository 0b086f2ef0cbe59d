"""Scenes: handwritten digits at random place, scale, turn and colour on crops of real photographs, without limit.

The digits are those of ``mnist5k`` with its split, the photographs are the two that scikit-learn ships; training and
validation see different digits and disjoint parts of the photographs. Every scene is a function of its seed, which
for training follows from (run, epoch, digit), so no two epochs show the same scene and a resumed run sees what an
uninterrupted one sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.errors import require
from dynaconv.training.data.augment import LUMA
from dynaconv.training.data.memory_images import MemoryImages

TRAIN_SHARE = 0.62
"""Upper part of each photograph, for training; the rest is for validation."""
SCENES_PER_DIGIT = 2
"""Validation scenes of every validation digit."""
DIGIT_SIDE = (0.6, 0.9)
"""Smallest and largest side of the digit's frame, relative to the scene's."""
TURN_DEGREES = 30.0
CONTRAST = (0.3, 0.7)
"""Smallest and largest difference in brightness between a digit and its surroundings, of 1."""
TINT = 0.3
"""Largest deviation of a colour channel of the digit from its gray."""
CROP_SIDE = (24.0, 72.0)
"""Smallest and largest side of the crop in pixels of a photograph at half its size."""


@dataclass(frozen=True)
class SceneImages(MemoryImages):
    """Digits, and the photographs that they are put on.

    Args:
        images: digits, shape ``(N, 1, h, w)``, uint8; a scene is made of each in every epoch.
        labels: shape ``(N,)``, int64.
        photos: shape ``(P, 3, H, W)``, float32 between 0 and 1.
    """

    photos: Tensor

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """One fixed scene as PIL, of the default size."""
        from torchvision.transforms.functional import to_pil_image

        return to_pil_image(self.render(torch.tensor([index]), [index], 32)[0]), int(self.labels[index])

    def statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of the pixels of one scene a digit, of at most 1,000."""
        count = min(len(self), 1000)
        pixels = self.render(torch.arange(count), range(count), 32).double()
        return round(pixels.mean().item(), 4), round(pixels.std().item(), 4)

    def pixels(self, size: int, in_chans: int) -> Tensor:
        """One scene of every digit, always the same ones; shape ``(N, in_chans, size, size)``, between 0 and 1."""
        return self.render(torch.arange(len(self)), range(len(self)), size, in_chans)

    def render(self, digits: Tensor, seeds: Sequence[int], size: int, in_chans: int = 3) -> Tensor:
        """Make scenes.

        Args:
            digits: which, shape ``(B,)``.
            seeds: of every scene.
            size: side in pixels.
            in_chans: 3, or 1 for gray.

        Returns:
            Shape ``(B, in_chans, size, size)``, float32 between 0 and 1.
        """
        draws = torch.stack([torch.rand(14, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        place, look = draws[:, :9], draws[:, 9:]
        ground = self._crops(place[:, :4], size)
        ink = self._digits(digits, place[:, 4:8], size)
        # Ink differs in brightness from where it lies, towards where there is more room.
        lies_on = (ground * ink).sum((2, 3)) / ink.sum((2, 3)).clamp(min=1e-6)
        luma = lies_on @ torch.tensor(LUMA)
        contrast = CONTRAST[0] + (CONTRAST[1] - CONTRAST[0]) * look[:, 0]
        gray = luma + torch.where(luma < 0.5, contrast, -contrast)
        tint = TINT * (look[:, 1:4] - look[:, 1:4] @ torch.tensor(LUMA).view(3, 1))
        colour = (gray.view(-1, 1) + tint).clamp(0, 1)
        scene = ground + ink * (colour.view(-1, 3, 1, 1) - ground)
        if in_chans == 1:
            scene = (scene * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
        return scene

    def _crops(self, draws: Tensor, size: int) -> Tensor:
        """A square of a photograph for every scene, shape ``(B, 3, size, size)``."""
        count, _, height, width = self.photos.shape
        photo = (draws[:, 0] * count).floor()
        side = CROP_SIDE[0] + (CROP_SIDE[1] - CROP_SIDE[0]) * draws[:, 1]
        left, top = draws[:, 2] * (width - side), draws[:, 3] * (height - side)
        steps = (torch.arange(size) + 0.5) / size
        # Photographs stand side by side in one image, so that one call of grid_sample samples them all.
        x = (photo * width + left).view(-1, 1) + side.view(-1, 1) * steps
        y = top.view(-1, 1) + side.view(-1, 1) * steps
        grid = torch.stack(
            [
                (2 * x / (count * width) - 1).view(-1, 1, size).expand(-1, size, size),
                (2 * y / height - 1).view(-1, size, 1).expand(-1, size, size),
            ],
            dim=-1,
        ).reshape(1, -1, size, 2)
        row = self.photos.permute(1, 2, 0, 3).reshape(1, 3, height, count * width)
        sampled = F.grid_sample(row, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return sampled.view(3, -1, size, size).transpose(0, 1)

    def _digits(self, digits: Tensor, draws: Tensor, size: int) -> Tensor:
        """How much ink lies on every pixel, shape ``(B, 1, size, size)``, 0 to 1."""
        side = DIGIT_SIDE[0] + (DIGIT_SIDE[1] - DIGIT_SIDE[0]) * draws[:, 0]
        angle = math.radians(TURN_DEGREES) * (2 * draws[:, 1] - 1)
        x, y = ((1 - side) * (2 * draws[:, i] - 1) for i in (2, 3))  # the whole frame stays within the scene
        cos, sin = torch.cos(angle) / side, torch.sin(angle) / side
        theta = torch.stack([cos, -sin, -(cos * x - sin * y), sin, cos, -(sin * x + cos * y)], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(theta, [len(digits), 1, size, size], align_corners=False)
        ink = self.images[digits].float() / 255
        return F.grid_sample(ink, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def read_photos() -> tuple[np.ndarray, np.ndarray]:
    """The photographs' parts for training and validation, each ``(P, H, W, 3)``, uint8."""
    photos = np.stack(require("sklearn.datasets", "train").load_sample_images().images)
    cut = round(TRAIN_SHARE * photos.shape[1])
    return photos[:, :cut], photos[:, cut:]


def cut_photos() -> tuple[Tensor, Tensor]:
    """The same at half their size, each ``(P, 3, H, W)``, float32 between 0 and 1."""
    train, val = map(_halved, read_photos())
    return train, val


def _halved(photos: np.ndarray) -> Tensor:
    pixels = torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 255
    return F.interpolate(pixels, scale_factor=0.5, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
