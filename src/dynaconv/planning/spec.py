"""What planning knows of a layer: its name and its sizes, nothing of tensors or modules."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """Name and sizes of one convolution or linear layer.

    Args:
        name: dotted module name in its network.
        in_channels: input channels (features, for a linear layer).
        out_channels: output channels.
        kernel_size: one size per spatial dimension; empty for a linear layer.
        stride: one per spatial dimension.
        groups: groups of a grouped convolution.
        bias: whether the layer has a bias of its own.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    groups: int = 1
    bias: bool = False

    @property
    def is_linear(self) -> bool:
        """Whether this is a linear layer: no spatial dimensions."""
        return not self.kernel_size

    @property
    def is_spatial(self) -> bool:
        """Whether the kernel reaches beyond one position."""
        return any(k > 1 for k in self.kernel_size)

    @property
    def is_strided(self) -> bool:
        """Whether the output is smaller than the input."""
        return any(s > 1 for s in self.stride)

    @property
    def is_depthwise(self) -> bool:
        """Whether every input channel has a kernel of its own."""
        return self.groups > 1 and self.groups == self.in_channels

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Shape of the static kernel, ``(O, I / groups, *k)``."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    @property
    def kernel_parameters(self) -> int:
        """Parameters of the static kernel, without the bias."""
        return math.prod(self.kernel_shape)
