"""Which layers the compiled kernels can do."""

from __future__ import annotations

import torch
from torch import Tensor

from dynaconv.ops.mixture import Mixture
from dynaconv.ops.native.build import library
from dynaconv.ops.watching import watched

DTYPES = (torch.float32, torch.float64)
MIN_OUTPUTS = 8
"""Outputs a group below which vectors of outputs stay mostly empty."""


def supports(x: Tensor, attention: Tensor, cells: Tensor, mixture: Mixture, training: bool) -> bool:
    """Whether the kernels exist and can do a layer: on the CPU, in one floating type, few groups or depth-wise.

    Args:
        x: the input.
        attention: weights of the cells.
        cells: the cells.
        mixture: how they belong together.
        training: whether gradients are wanted; those of grouped layers are PyTorch's.
    """
    if any(t.device.type != "cpu" or t.dtype != x.dtype for t in (x, attention, cells)) or x.dtype not in DTYPES:
        return False
    if torch.is_autocast_enabled("cpu") or watched():
        return False
    groups = mixture.geometry.groups
    if groups != 1 and not mixture.is_depthwise(cells):
        group, unit = mixture.out_channels(cells) // groups, cells.shape[1]
        if training or group < MIN_OUTPUTS or (unit % group and group % unit):
            return False
    return library() is not None
