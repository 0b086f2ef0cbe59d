"""A small network with one convolution of each sort, for what any method is tried on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import dynaconv
from dynaconv.benchmark.passes import CLASSES


class SmallNet(nn.Module):
    """A stem, three convolutions (with stride, depth-wise, point-wise), and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Sequential(
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 1, bias=False),
            nn.BatchNorm2d(32),
        )
        self.head = nn.Linear(32, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits."""
        return self.head(self.body(self.stem(images)).mean((2, 3)))


def small_network(method: str) -> nn.Module:
    """The network with every layer of its body converted, by the defaults of a method's config.

    Args:
        method: its name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dynaconv.convert(SmallNet(), dynaconv.config_from_dict({"method": method}), where="body*")
