"""Small detectors and targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import dynaconv
from dynaconv.detection import DetectorConfig, create_detector

TINY = {"image_size": 64, "max_size": 96, "pyramid_channels": 16, "box_channels": 16, "mask_channels": 16}
KW = dynaconv.KernelWarehouseConfig(cell_scale=0.5)
METHODS: dict[str, Any] = {
    "static": None,
    "kernel_warehouse": KW,
    "odconv": dynaconv.ODConvConfig(num_kernels=2),
    "dyconv": dynaconv.DYConvConfig(num_kernels=2),
    "condconv": dynaconv.CondConvConfig(num_experts=2),
    "dcd": dynaconv.DCDConfig(),
    "weightnet": dynaconv.WeightNetConfig(),
    "cgc": dynaconv.CGCConfig(),
    "fdconv": dynaconv.FDConvConfig(num_kernels=4),
    "se": dynaconv.SEConfig(),
    "cbam": dynaconv.CBAMConfig(),
    "eca": dynaconv.ECAConfig(),
}


def settings(**changes: Any) -> DetectorConfig:
    return DetectorConfig(**{**TINY, **changes})


def tiny_detector(
    model: Any = "test_resnet", num_classes: int = 3, detector: Any = None, **arguments: Any
) -> nn.Module:
    made = {} if isinstance(model, nn.Module) else {"backbone_classes": 7}
    return create_detector(model, num_classes=num_classes, detector=detector or settings(), **{**made, **arguments})


def batch(count: int = 1) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images of odd sizes with one object each, but for the last of several, which has none."""
    images, targets = [], []
    for number in range(count):
        height, width = 45 + 4 * number, 61 - 3 * number
        objects = 0 if number and number == count - 1 else 1
        images.append(torch.rand(3, height, width))
        targets.append(
            {
                "boxes": torch.tensor([[4.0, 5.0, 40.0, 42.0]])[:objects],
                "labels": torch.tensor([2])[:objects],
                "masks": torch.ones(1, height, width, dtype=torch.uint8)[:objects],
            }
        )
    return images, targets


def train_step(detector: nn.Module, count: int = 1) -> dict[str, Tensor]:
    """One step of gradient descent; returns the losses."""
    trained = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    losses = detector.train()(*batch(count))
    torch.stack(list(losses.values())).sum().backward()
    torch.optim.SGD(trained, 0.1).step()
    return losses
