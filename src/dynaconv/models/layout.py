"""The memory layout of a network's parameters."""

from __future__ import annotations

import torch
from torch import nn


def use_channels_last(model: nn.Module) -> None:
    """Lay out 4-d parameters channels_last; ``model.to(memory_format=...)`` refuses the cells of a warehouse (5-d)."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
