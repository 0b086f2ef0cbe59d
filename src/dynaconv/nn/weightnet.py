"""WeightNet: a grouped linear layer writes the kernel (Ma et al., ECCV 2020, arXiv 2007.11823, eq. 3).

a = sigmoid(FC(reduce(pool(x)))) has M values for every output channel; a linear layer of G groups an output channel
turns them into the channel's kernel. CondConv and SE are the two ends of the grouping axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dynaconv.config import MethodConfig, check_count, check_flag, check_range
from dynaconv.errors import DynaconvError
from dynaconv.nn.base import pool
from dynaconv.nn.block import BlockBranch, SharesBlockBranch
from dynaconv.nn.method import MethodConvNd, Noise, hold, silence
from dynaconv.nn.prepared import OutputNorm
from dynaconv.ops import Madds, per_sample_conv


@dataclass(frozen=True, kw_only=True)
class WeightNetConfig(MethodConfig):
    """WeightNet: kernels written by a grouped linear layer.

    Args:
        expansion: M, values of the branch for every output channel.
        grouping: G, groups of the linear layer for every output channel; the kernel's parameters grow by M / G. Where G
            does not divide a channel's kernel (depth-wise layers of odd size), M / G values in one group write it.
        reduction: width of the reduced input relative to the channels.
        min_hidden: smallest width of the reduced input.
        shared_branch: one reduction for all layers of a block, as in the authors' code: from the input of the first,
            which is the block's. Else, as layers outside of blocks always do, each reduces its own input.

    Raises:
        DynaconvError: on any value outside its domain.
    """

    method: ClassVar[str] = "weightnet"

    expansion: int = 2
    grouping: int = 2
    reduction: float = 1 / 16
    min_hidden: int = 16
    shared_branch: bool = True

    def __post_init__(self) -> None:
        for name in ("expansion", "grouping", "min_hidden"):
            check_count(name, getattr(self, name))
        if self.expansion % self.grouping:
            raise DynaconvError(f"expansion={self.expansion} must be a multiple of grouping={self.grouping}")
        check_range("reduction", self.reduction, 0, 1)
        check_flag("shared_branch", self.shared_branch)

    def hidden(self, in_channels: int) -> int:
        """Width of the reduced input."""
        return max(int(in_channels * self.reduction), self.min_hidden)


class ChannelValues(nn.Module):
    """Reduce the pooled input, unless the block's first layer has, then sigmoid of a linear layer."""

    reduce: BlockBranch | None

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        outputs: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.reduce = BlockBranch(in_channels, hidden, device, dtype)
        self.fc = nn.Linear(hidden, outputs, device=device, dtype=dtype)

    def forward(self, reduced: Tensor) -> Tensor:
        """Shape ``(B, hidden)`` -> ``(B, outputs)``."""
        return self.fc(reduced).sigmoid()


class _WeightNetConvNd(SharesBlockBranch, MethodConvNd):
    config_type = WeightNetConfig
    folds_norm = True
    attention: ChannelValues

    def make(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create the branch and the grouped linear layer's weight, ``(O, C / groups, *k, M / G)``."""
        config, per_output = self.config, math.prod(self.kernel_shape[1:])
        self.grouping = config.grouping if per_output % config.grouping == 0 else 1
        self.values = config.expansion // config.grouping
        hidden = config.hidden(self.in_channels)
        outputs = self.values * self.grouping * self.out_channels
        self.attention = ChannelValues(self.in_channels, hidden, outputs, device, dtype)
        self.kernel = nn.Parameter(torch.empty(*self.kernel_shape, self.values, device=device, dtype=dtype))

    @property
    def own_branch(self) -> BlockBranch | None:
        """The layer's reduction, unless it follows another's."""
        return self.attention.reduce

    def drop_branch(self, leader: BlockBranch) -> None:
        """Read the reduction of the block's first layer, which may have another width."""
        old, self.attention.reduce = self.attention.fc, None
        if leader.out_features != old.in_features:
            weight = old.weight
            self.attention.fc = nn.Linear(
                leader.out_features, old.out_features, device=weight.device, dtype=weight.dtype
            )

    def reset_parameters(self) -> None:
        """Kernels start Kaiming normal, fan-out, where all values are one half; torch.nn's own start for the branch."""
        fan_out = self.out_channels * self.geometry.positions
        nn.init.normal_(self.kernel, std=2 * (2.0 / (fan_out * self.values)) ** 0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        for layer in self.attention.children():
            layer.reset_parameters()  # pyright: ignore[reportCallIssue]

    def adopt(self, kernel: Tensor, bias: Tensor | None, noise: Noise) -> float:
        """Become the static convolution: every value at one half, its share of the kernel twice as large."""
        silence(self.attention.fc)
        return hold(self, noise.copies(kernel, self.values).movedim(0, -1) * (2 / self.values), bias)

    def convolve(self, x: Tensor, norm: OutputNorm | None = None) -> Tensor:
        """Convolve every sample with its own kernel, bias and, if given, norm included."""
        if norm is None:
            return super().convolve(x)
        return per_sample_conv(self.pad(x), self.kernels(x, norm.scale), self.geometry, bias=norm.shift)

    def kernels(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """The kernel of every sample, shape ``(B, C, *size)`` -> ``(B, O, C / groups, *kernel_size)``.

        Args:
            x: shape ``(B, C, *size)``.
            scale: factors of the outputs, shape ``(O,)``.
        """
        values = self.attention(self.read_branch(pool(x))).to(self.kernel.dtype)
        if scale is not None:
            values = values.unflatten(1, (self.out_channels, -1)) * scale.unsqueeze(1)
        values = values.reshape(-1, self.out_channels * self.grouping, 1, self.values)
        written = self.kernel.reshape(self.out_channels * self.grouping, -1, self.values)
        return (values * written).sum(dim=-1).reshape(-1, *self.kernel_shape)

    def count_madds(self, size: Sequence[int]) -> Madds:
        """Multiply-adds on an input of shape ``(B, C, *size)``: branch, grouped linear layer, convolution."""
        kernel = size[0] * math.prod(self.kernel_shape)
        branch = sum(p.numel() for p in self.attention.parameters() if p.dim() > 1)
        return Madds(
            convolution=self.convolution_madds(size),
            mixing=kernel * self.values,
            attention=(0 if self.attention.reduce is None else math.prod(size)) + size[0] * branch,
            kernel_elements=kernel,
        )


class WeightNetConv1d(_WeightNetConvNd):
    """WeightNet over sequences, ``(B, C, L)``: nn.Conv1d's arguments, then ``config=`` or fields of it."""

    dims = 1


class WeightNetConv2d(_WeightNetConvNd):
    """WeightNet over images, ``(B, C, H, W)``: nn.Conv2d's arguments, then ``config=`` or fields of it.

    Example:
        >>> WeightNetConv2d(8, 16, 3, padding=1)(torch.randn(2, 8, 5, 5)).shape
        torch.Size([2, 16, 5, 5])
    """

    dims = 2


class WeightNetConv3d(_WeightNetConvNd):
    """WeightNet over volumes, ``(B, C, D, H, W)``: nn.Conv3d's arguments, then ``config=`` or fields of it."""

    dims = 3
