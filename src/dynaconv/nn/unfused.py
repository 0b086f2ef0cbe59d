"""Blocks that their framework fuses by type, once a part of them depends on the input.

YOLO's networks (ultralytics, yolov5) fuse every instance of their ``Conv`` with a ``bn`` before they evaluate.
The normalisation goes into the convolution's static weight, which a dynamic one does not have. Such a block becomes an
:class:`UnfusedConv`, which computes the same and is left alone.
"""

from __future__ import annotations

from typing import Any

from torch import nn

FUSED_CLASSES = ("Conv", "DWConv")


class UnfusedConv(nn.Module):
    """Convolution, normalisation, activation, under the names ``conv``, ``bn``, ``act``."""

    conv: nn.Module
    bn: nn.Module
    act: nn.Module

    def forward(self, x: Any) -> Any:
        """Shape ``(B, C, *size)`` -> ``(B, O, *out)``."""
        return self.act(self.bn(self.conv(x)))


def keep_unfused(block: nn.Module) -> None:
    """Take a block out of its framework's sight, in place, if that would fuse it by its type.

    Hooks, parameters and their names stay.
    """
    kind = type(block)
    if kind.__name__ in FUSED_CLASSES and hasattr(kind, "forward_fuse") and {"conv", "bn", "act"} <= {*block._modules}:
        block.__class__ = UnfusedConv
