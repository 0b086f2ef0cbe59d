"""Augmentation: a light batched one for images in memory, timm's transforms for files, mixup and cutmix for both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.errors import DynaconvError, require
from dynaconv.training.config import AugmentConfig

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in gray (ITU-R 601)."""


def random_affine(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Shift, turn and zoom every image of a batch by its own draw; what comes into view is 0.

    Args:
        images: shape ``(B, C, H, W)``, float.
        config: ``shift``, ``rotate_degrees``, ``zoom``.
        generator: source of the draws, on the CPU.
    """
    draws = torch.rand(len(images), 4, generator=generator) * 2 - 1
    angle = draws[:, 0] * math.radians(config.rotate_degrees)
    scale = 1 / (1 + draws[:, 1] * config.zoom)
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    # The sampling grid spans -1 ... 1, so a shift by a share of the side is twice that.
    theta = torch.stack([cos, -sin, 2 * config.shift * draws[:, 2], sin, cos, 2 * config.shift * draws[:, 3]], dim=1)
    grid = F.affine_grid(theta.view(-1, 2, 3).to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def random_flip(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Mirror some images of a batch; shape ``(B, C, H, W)``."""
    chosen = torch.rand(len(images), generator=generator) < probability
    return torch.where(chosen.to(images.device).view(-1, 1, 1, 1), images.flip(-1), images)


def random_erase(images: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Fill a random rectangle of some images with noise (random erasing, arXiv 1708.04896).

    Args:
        images: shape ``(B, C, H, W)``, normalised.
        probability: share of images to erase from.
        generator: source of the draws, on the CPU.
    """
    batch, channels, height, width = images.shape
    chosen, area, ratio, top, left = torch.rand(5, batch, generator=generator)
    area = 0.02 + area * (1 / 3 - 0.02)
    aspect = torch.exp((ratio * 2 - 1) * math.log(1 / 0.3))
    tall = (area * aspect).sqrt().mul(height).round().clamp(max=height - 1)
    wide = (area / aspect).sqrt().mul(width).round().clamp(max=width - 1)
    first_row, first_column = (top * (height - tall + 1)).floor(), (left * (width - wide + 1)).floor()
    row, column = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)

    def span(position: Tensor, first: Tensor, length: Tensor) -> Tensor:
        return (position >= first.view(-1, 1, 1)) & (position < (first + length).view(-1, 1, 1))

    inside = span(row, first_row, tall) & span(column, first_column, wide)
    inside &= (chosen < probability).view(-1, 1, 1)
    noise = torch.randn(batch, channels, height, width, generator=generator).to(images)
    return torch.where(inside.unsqueeze(1).to(images.device), noise, images)


class FileTransform:
    """From a PIL image to a normalised tensor; picklable, so that workers can hold it.

    Every image becomes RGB first, as timm's colour operations need three channels, and gray at the end if asked for.

    Args:
        steps: from an RGB image to a uint8 tensor ``(3, H, W)``.
        mean: per channel, of images between 0 and 1; one value for gray, three for RGB.
        std: likewise.
        erase: applied to the normalised tensor.
    """

    def __init__(
        self,
        steps: Callable[[Any], Tensor],
        mean: Sequence[float],
        std: Sequence[float],
        erase: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.steps, self.erase = steps, erase
        self.mean, self.std = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)

    def __call__(self, image: Any) -> Tensor:
        """Transform one PIL image of any mode; returns shape ``(len(mean), H, W)``, float32."""
        tensor = self.steps(image.convert("RGB")).float() / 255
        if len(self.mean) == 1:
            tensor = tensor.mul(torch.tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)
        tensor = (tensor - self.mean) / self.std
        return tensor if self.erase is None else self.erase(tensor)


def train_transform(
    config: AugmentConfig, image_size: int, mean: Sequence[float], std: Sequence[float]
) -> FileTransform:
    """Random crop, flip, colour or RandAugment, and erasing: timm's, for one image at a time.

    Args:
        config: what to do how strongly.
        image_size: side of the result in pixels.
        mean: per channel, see :class:`FileTransform`.
        std: per channel.

    Raises:
        DynaconvError: if timm does not understand ``config.rand_augment``.
    """
    steps = require("timm.data", "train").create_transform(
        image_size,
        is_training=True,
        scale=config.crop_scale,
        hflip=0.5 if config.flip is None else config.flip,
        color_jitter=None if config.rand_augment else config.color_jitter,
        interpolation=config.crop_interpolation,
        normalize=False,
    )
    if config.rand_augment:
        fill = tuple(round(255 * value) for value in (mean if len(mean) == 3 else (*mean, *mean, *mean)))
        # Before the last step, which makes the tensor.
        steps.transforms.insert(-1, _rand_augment(config.rand_augment, image_size, fill))
    erase = None
    if config.erasing:
        erasing = require("timm.data.random_erasing", "train").RandomErasing
        erase = erasing(config.erasing, mode="pixel", device="cpu")
    return FileTransform(steps, mean, std, erase)


def eval_transform(
    image_size: int, mean: Sequence[float], std: Sequence[float], crop_pct: float, interpolation: str
) -> FileTransform:
    """Resize the shorter side, crop the centre, normalise: what an image gets at evaluation and prediction.

    Args:
        image_size: side of the result in pixels.
        mean: per channel, see :class:`FileTransform`.
        std: per channel.
        crop_pct: share of the resized side that the crop keeps.
        interpolation: bilinear, bicubic, ...
    """
    steps = require("timm.data", "train").create_transform(
        image_size, crop_pct=crop_pct, interpolation=interpolation, normalize=False
    )
    steps.transforms.insert(0, _cut_strip)
    return FileTransform(steps, mean, std)


def _cut_strip(image: Any) -> Any:
    """The middle of an image longer than 16 times its width: the crop keeps no more, and the whole could fill memory.

    1 x 100,000 pixels, resized to a shorter side of 236, would be 16 GB.
    """
    width, height = image.size
    longest = 16 * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


def _rand_augment(name: str, image_size: int, fill: tuple[int, ...]) -> Callable[[Any], Any]:
    timm = require("timm.data.auto_augment", "train")
    if not name.startswith("rand"):
        raise DynaconvError(f"augment.rand_augment={name!r}; expected something like rand-m9-mstd0.5-inc1")
    try:
        transform = timm.rand_augment_transform(name, {"translate_const": int(image_size * 0.45), "img_mean": fill})
    except (AssertionError, KeyError, ValueError) as error:
        raise DynaconvError(
            f"augment.rand_augment={name!r} is not understood by timm ({error!r}); expected something like "
            "rand-m9-mstd0.5-inc1"
        ) from error
    for op in transform.ops:
        if op.aug_fn is timm.posterize:
            op.aug_fn = _posterize
    return transform


def _posterize(image: Any, bits: int, **options: Any) -> Any:
    """Posterize as timm does, which at full strength asks for 0 bits; Pillow 13 refuses that."""
    return require("timm.data.auto_augment", "train").posterize(image, max(1, bits), **options)


class LabelMixer:
    """Mixup (arXiv 1710.09412) and cutmix (1905.04899) for batches of any size, by timm.

    Args:
        config: ``mixup``, ``mixup_epochs``, ``cutmix`` and ``label_smoothing``.
        num_classes: length of the mixed targets.
    """

    def __init__(self, config: AugmentConfig, num_classes: int) -> None:
        self.config = config
        mixup = require("timm.data.mixup", "train")
        self.smoothing, self.num_classes = config.label_smoothing, num_classes
        self._soft_targets = mixup.mixup_target
        self._mix = mixup.Mixup(
            mixup_alpha=config.mixup,
            cutmix_alpha=config.cutmix,
            label_smoothing=config.label_smoothing,
            num_classes=num_classes,
        )

    def set_epoch(self, epoch: int) -> None:
        """Let mixup's alpha be that of an epoch, counted from 0; timm can not draw from an alpha of 0."""
        length = self.config.mixup_epochs
        self._mix.mixup_alpha = self.config.mixup * (min(1.0, epoch / length) if length else 1.0)
        self._mix.mixup_enabled = self._mix.mixup_alpha > 0 or self._mix.cutmix_alpha > 0

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix each image with its mirror place in the batch; the odd one out stays as it is.

        Args:
            images: shape ``(B, C, H, W)``; left unchanged.
            labels: shape ``(B,)``, class numbers.

        Returns:
            Images, and targets of shape ``(B, num_classes)`` whose rows sum to 1.
        """
        even = len(images) // 2 * 2
        if even == 0:
            return images, self._targets(labels)
        mixed, targets = self._mix(images[:even].clone(), labels[:even])
        if even == len(images):
            return mixed, targets
        return torch.cat([mixed, images[even:]]), torch.cat([targets, self._targets(labels[even:])])

    def _targets(self, labels: Tensor) -> Tensor:
        return self._soft_targets(labels, self.num_classes, 1.0, self.smoothing)


def make_mixer(config: AugmentConfig, num_classes: int) -> LabelMixer | None:
    """A mixer, if the config asks for mixup or cutmix."""
    return LabelMixer(config, num_classes) if config.mixup > 0 or config.cutmix > 0 else None
