"""CGC: context-gated convolution (Lin et al., ECCV 2020, arXiv 1910.05577, eq. 2 to 6).

The input is pooled to as many positions as the kernel has and encoded; two branches decode the code to a map for every
input and for every output channel; the sigmoid of their sum gates the static kernel, element by element.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynaconv.config import MethodConfig, check_count
from dynaconv.errors import DynaconvError
from dynaconv.nn.base import pool_to
from dynaconv.nn.method import MethodConvNd, Noise, fill_kaiming, hold, silence
from dynaconv.nn.norm import BranchBatchNorm
from dynaconv.nn.prepared import OutputNorm, scale_rows
from dynaconv.ops import Madds, per_sample_conv
from dynaconv.planning import LayerSpec


@dataclass(frozen=True, kw_only=True)
class CGCConfig(MethodConfig):
    """CGC: a static kernel whose elements are gated by the input's context.

    Args:
        group_size: input channels that interact; where it does not divide a layer's channels, all do.

    Raises:
        DynaconvError: on any value outside its domain.
    """

    method: ClassVar[str] = "cgc"

    group_size: int = 16

    def __post_init__(self) -> None:
        check_count("group_size", self.group_size)


class ContextGate(nn.Module):
    """From the pooled input to a map for every input channel and one for every output channel."""

    def __init__(
        self, in_channels: int, out_channels: int, positions: int, group: int, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.group = group
        code = positions // 2 + 1
        self.encode = nn.Linear(positions, code, bias=False, **options)
        self.norm_in = BranchBatchNorm(in_channels, **options)
        self.decode_in = nn.Linear(code, positions, bias=False, **options)
        self.norm_mix = BranchBatchNorm(in_channels, **options)
        self.interact = nn.Linear(group, out_channels // (in_channels // group), bias=False, **options)
        self.norm_out = BranchBatchNorm(out_channels, **options)
        self.decode_out = nn.Linear(code, positions, bias=False, **options)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``(B, C, k)`` and ``(B, O, k)`` for a pooled input ``(B, C, k)`` of k positions."""
        code = self.encode(context)
        inputs = self.decode_in(F.relu(self.norm_in(code)))
        mixed = F.relu(self.norm_mix(code)).unflatten(1, (-1, self.group)).transpose(2, 3)
        outputs = self.interact(mixed).transpose(2, 3).flatten(1, 2)
        return inputs, self.decode_out(F.relu(self.norm_out(outputs)))


class _CGConvNd(MethodConvNd):
    config_type = CGCConfig
    folds_norm = True
    attention: ContextGate

    @classmethod
    def refuses(cls, spec: LayerSpec, config: CGCConfig) -> str | None:
        """Point-wise layers, which have no spatial context."""
        return None if spec.is_spatial else "CGC leaves point-wise layers static, as in its paper"

    def make(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create the static kernel and the gate."""
        if self.geometry.positions == 1:
            raise DynaconvError(
                f"kernel_size={self.kernel_size}: CGC gates kernels of more than one position; leave point-wise "
                "layers static, as in its paper"
            )
        group = self.config.group_size
        if self.in_channels % group or self.out_channels % (self.in_channels // group):
            group = self.in_channels
        self.kernel = nn.Parameter(torch.empty(self.kernel_shape, device=device, dtype=dtype))
        self.attention = ContextGate(self.in_channels, self.out_channels, self.geometry.positions, group, device, dtype)

    def reset_parameters(self) -> None:
        """Kaiming normal, fan-out, for the kernel; torch.nn's own start for the gate, as in the code."""
        fill_kaiming(self.kernel, self.kernel_shape)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        for layer in self.attention.children():
            layer.reset_parameters()  # pyright: ignore[reportCallIssue]

    def adopt(self, kernel: Tensor, bias: Tensor | None, noise: Noise) -> float:
        """Become the static convolution: every gate at one half, the kernel twice as large."""
        silence(self.attention.decode_in, self.attention.decode_out)
        return hold(self, 2 * kernel, bias)

    def fold_output(self, scale: Tensor, shift: Tensor) -> OutputNorm:
        """A scaled copy of the kernel, and the bias."""
        return replace(super().fold_output(scale, shift), kernel=scale_rows(self.kernel, scale))

    def convolve(self, x: Tensor, norm: OutputNorm | None = None) -> Tensor:
        """Convolve every sample with its own kernel, bias and, if given, norm included."""
        if norm is None:
            return super().convolve(x)
        assert norm.kernel is not None  # see fold_output
        return per_sample_conv(self.pad(x), self._gated(x, norm.kernel), self.geometry, bias=norm.shift)

    def kernels(self, x: Tensor) -> Tensor:
        """The kernel of every sample, shape ``(B, C, *size)`` -> ``(B, O, C / groups, *kernel_size)``."""
        return self._gated(x, self.kernel)

    def _gated(self, x: Tensor, kernel: Tensor) -> Tensor:
        inputs, outputs = self.attention(pool_to(x, self.kernel_size).flatten(2))
        batch, positions = x.shape[0], self.geometry.positions
        inputs = inputs.reshape(batch, self.groups, 1, self.in_channels // self.groups, positions)
        outputs = outputs.reshape(batch, self.groups, self.out_channels // self.groups, 1, positions)
        gate = (inputs + outputs).sigmoid().reshape(batch, *self.kernel_shape)
        return gate.to(kernel.dtype) * kernel

    def count_madds(self, size: Sequence[int]) -> Madds:
        """Multiply-adds on an input of shape ``(B, C, *size)``: encode, interact, decode, gate, convolve."""
        gate, positions = self.attention, self.geometry.positions
        code = gate.encode.out_features
        decoding = 2 * self.in_channels * positions * code + self.out_channels * positions * code
        kernel = size[0] * math.prod(self.kernel_shape)
        return Madds(
            convolution=self.convolution_madds(size),
            mixing=kernel,
            attention=math.prod(size) + size[0] * (decoding + self.out_channels * gate.group * code),
            kernel_elements=kernel,
        )


class CGConv1d(_CGConvNd):
    """CGC over sequences, ``(B, C, L)``: nn.Conv1d's arguments, then ``config=`` or fields of it."""

    dims = 1


class CGConv2d(_CGConvNd):
    """CGC over images, ``(B, C, H, W)``: nn.Conv2d's arguments, then ``config=`` or fields of it.

    Example:
        >>> CGConv2d(8, 16, 3, padding=1)(torch.randn(2, 8, 5, 5)).shape
        torch.Size([2, 16, 5, 5])
    """

    dims = 2


class CGConv3d(_CGConvNd):
    """CGC over volumes, ``(B, C, D, H, W)``: nn.Conv3d's arguments, then ``config=`` or fields of it."""

    dims = 3
