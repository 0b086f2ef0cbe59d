"""Small networks with layers of several methods, for tests that write files."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import dynaconv


class TwoBlocks(nn.Module):
    """Layers that share a warehouse, one of ODConv, a static one, a norm behind each, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.conv1, self.norm1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.wide, self.norm3 = nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return self.head(self.norm3(self.wide(x)).relu().mean((2, 3)))


def two_blocks() -> nn.Module:
    """The network, with numbers as a trained one has, in training mode."""
    torch.manual_seed(0)
    model = TwoBlocks()
    dynaconv.convert(model, dynaconv.KernelWarehouseConfig(), where=["conv1", "conv2"])
    dynaconv.convert(model, dynaconv.ODConvConfig(num_kernels=2), where=["wide"])
    for _ in range(3):
        model.train()(torch.randn(8, 3, 32, 32) * 2 + 1)
    return model
