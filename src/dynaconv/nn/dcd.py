"""DCD: dynamic convolution decomposition (Li et al., ICLR 2021, arXiv 2103.08756, eq. 5 and 8).

W(x) = Lambda(x) W0 + P Phi(x) Q^T: a static kernel with dynamic channel scales, plus a residual of rank L. As the
authors' code runs it, in output space and with normalisation:
y = lambda * conv(x) + P( BN(Phi BN(Q x)) + BN(Q x) ).
For kernels of more than one position the residual sits at the kernel's middle. The residual is quadratic in the input:
evaluated on running statistics that do not fit yet, after very few steps, a deep network can overflow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynaconv.config import MethodConfig, check_choice, check_count
from dynaconv.nn.base import pool_to
from dynaconv.nn.method import MethodConvNd, MethodLinear, Noise, fill_kaiming, hold, silence
from dynaconv.nn.norm import BranchBatchNorm
from dynaconv.nn.prepared import OutputNorm, scale_rows
from dynaconv.ops import Madds, static_conv
from dynaconv.planning import LayerSpec

Layout = Literal["basic", "bottleneck", "mobile"]
MIN_RANK = 4
MIN_SQUEEZE = 4


@dataclass(frozen=True, kw_only=True)
class DCDConfig(MethodConfig):
    """DCD: channel scales, and a residual of dynamic channel fusion in L dimensions.

    Args:
        layout: the authors' sizes of branch and residual: ``"bottleneck"`` (ResNet50) pools to one position and has
            L = sqrt(C); ``"basic"`` (ResNet18) pools to 2 positions a dimension and counts them as channels;
            ``"mobile"`` (MobileNetV2's point-wise layers) does so where a layer widens, with L a share of the channels.
        squeeze: hidden width of the branch is the larger of its inputs and L * L, divided by this: 16, but 8 for
            MobileNetV2 0.5x.
        linear_rank: L, and hidden width, of a dynamic classifier.

    Raises:
        DynaconvError: on any value outside its domain.
    """

    method: ClassVar[str] = "dcd"

    layout: Layout = "bottleneck"
    squeeze: int = 16
    linear_rank: int = 32

    def __post_init__(self) -> None:
        check_choice("layout", self.layout, get_args(Layout))
        check_count("squeeze", self.squeeze)
        check_count("linear_rank", self.linear_rank)


def branch_sizes(config: DCDConfig, in_channels: int, out_channels: int, dims: int) -> tuple[int, int, int]:
    """Positions a dimension that the branch pools to, L, and the branch's hidden width, by the authors' rules.

    Example:
        >>> branch_sizes(DCDConfig(layout="basic"), 64, 128, dims=2)
        (2, 16, 16)
    """
    widens = in_channels < out_channels
    grid = 2 if config.layout == "basic" or (config.layout == "mobile" and widens) else 1
    width = in_channels * grid**dims
    if config.layout == "mobile":
        reduction = 8 if widens else 2
        while (rank := min(width // reduction, out_channels // reduction)) ** 2 > 2 * width:
            reduction *= 2
        rank = max(rank, MIN_RANK)
    else:
        rank = max(math.isqrt(width), 1)
    return grid, rank, max(max(width, rank**2) // config.squeeze, MIN_SQUEEZE)


def _doubled_gate(z: Tensor) -> Tensor:
    """relu6(z + 3) / 3: between 0 and 2, 1 at 0."""
    return F.relu6(z + 3) / 3


class FusionBranch(nn.Module):
    """From pooled input to Phi and lambda: squeeze, gate itself, two linear heads; none has a bias."""

    def __init__(
        self, width: int, hidden: int, rank: int, out_channels: int, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.rank = rank
        self.squeeze = nn.Linear(width, hidden, bias=False, device=device, dtype=dtype)
        self.gate = nn.Linear(hidden, hidden, bias=False, device=device, dtype=dtype)
        self.phi = nn.Linear(hidden, rank * rank, bias=False, device=device, dtype=dtype)
        self.scale = nn.Linear(hidden, out_channels, bias=False, device=device, dtype=dtype)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Phi ``(B, L, L)`` and lambda ``(B, O)`` for a context ``(B, width)``."""
        u = self.squeeze(context)
        u = u * _doubled_gate(self.gate(u))
        return self.phi(u).reshape(-1, self.rank, self.rank), _doubled_gate(self.scale(u))


def map_channels(weight: Tensor, x: Tensor) -> Tensor:
    """One matrix ``(O, C)`` on every position, ``(B, C, P)`` -> ``(B, O, P)``; a convolution in a traced graph."""
    if torch.compiler.is_exporting():
        return F.conv2d(x.unsqueeze(3), weight.reshape(*weight.shape, 1, 1)).squeeze(3)
    return torch.matmul(weight, x)


class Residual(nn.Module):
    """P( BN(Phi BN(Q x)) + BN(Q x) ) over ``(B, C, P)`` positions."""

    def __init__(self, in_channels: int, out_channels: int, rank: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.reduce = nn.Linear(in_channels, rank, bias=False, device=device, dtype=dtype)
        self.expand = nn.Linear(rank, out_channels, bias=False, device=device, dtype=dtype)
        self.norm1 = BranchBatchNorm(rank, device=device, dtype=dtype)
        self.norm2 = BranchBatchNorm(rank, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        """Kaiming normal, fan-out; identity normalisation."""
        for layer in (self.reduce, self.expand):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        self.norm1.reset_parameters()
        self.norm2.reset_parameters()

    def fuse(self, x: Tensor, phi: Tensor) -> Tensor:
        """What the last matrix expands, ``(B, C, P)`` -> ``(B, L, P)``."""
        reduced = self.norm1(map_channels(self.reduce.weight, x))
        return self.norm2(torch.bmm(phi.to(reduced.dtype), reduced)) + reduced

    def forward(self, x: Tensor, phi: Tensor, norm: OutputNorm | None = None) -> Tensor:
        """Shape ``(B, C, P)`` -> ``(B, O, P)``, with the norm's scale and shift if given."""
        fused = self.fuse(x, phi)
        if norm is None:
            return map_channels(self.expand.weight, fused)
        assert norm.expand is not None  # see fold_residual
        return torch.baddbmm(norm.shift.unsqueeze(1), norm.expand.expand(fused.shape[0], -1, -1), fused)


def fold_residual(kernel: Tensor, bias: Tensor | None, residual: Residual, norm: tuple[Tensor, Tensor]) -> OutputNorm:
    """A norm (scale and shift) behind the sum of both parts: all of it scales both, and the residual shifts."""
    scale, shift = norm
    scaled = None if bias is None else scale_rows(bias, scale)
    return OutputNorm(scale, shift, scale_rows(kernel, scale), scaled, scale_rows(residual.expand.weight, scale))


class Decomposed(nn.Module):
    """What the convolution and the linear layer have in common: a static kernel, scales, and a residual."""

    kernel: nn.Parameter
    bias: nn.Parameter | None
    attention: FusionBranch
    residual: Residual

    def adopt(self, kernel: Tensor, bias: Tensor | None, noise: Noise) -> float:
        """Become the static layer: scales of one (gates at z = 0), no residual; returns 0, no error."""
        silence(self.attention.scale, self.residual.expand)
        return hold(self, kernel, bias)

    def fold_output(self, scale: Tensor, shift: Tensor) -> OutputNorm:
        """Scaled copies of the kernel, its bias and the residual's last matrix."""
        return fold_residual(self.kernel, self.bias, self.residual, (scale, shift))

    def parts_of_output(self) -> list[nn.Module]:
        """The layer, and the residual's last matrix."""
        return [self, self.residual.expand]


class _DCDConvNd(Decomposed, MethodConvNd):
    config_type = DCDConfig
    folds_norm = True
    attention: FusionBranch

    @classmethod
    def refuses(cls, spec: LayerSpec, config: DCDConfig) -> str | None:
        """Depth-wise layers, which have no channels to fuse."""
        return "DCD fuses channels; its paper leaves depth-wise layers static" if spec.is_depthwise else None

    def make(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create the static kernel, the residual and the branch."""
        self.grid, rank, hidden = branch_sizes(self.config, self.in_channels, self.out_channels, self.dims)
        self.kernel = nn.Parameter(torch.empty(self.kernel_shape, device=device, dtype=dtype))
        self.residual = Residual(self.in_channels, self.out_channels, rank, device, dtype)
        width = self.in_channels * self.grid**self.dims
        self.attention = FusionBranch(width, hidden, rank, self.out_channels, device, dtype)

    def reset_parameters(self) -> None:
        """Kaiming normal, fan-out, for kernel and residual; torch.nn's own start for the branch, as in the code."""
        fill_kaiming(self.kernel, self.kernel_shape)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.residual.reset_parameters()
        for layer in self.attention.children():
            layer.reset_parameters()  # pyright: ignore[reportCallIssue]

    def convolve(self, x: Tensor, norm: OutputNorm | None = None) -> Tensor:
        """Scale the static convolution, bias included, and add the residual; with the norm if given."""
        phi, scale = self.attention(pool_to(x, (self.grid,) * self.dims).flatten(1))
        padded = self.pad(x)
        fused = self.residual(self._under_middle(padded).flatten(2), phi, norm)
        if norm is not None:
            assert norm.kernel is not None  # see fold_residual
            y = static_conv(padded, norm.kernel, self.geometry, norm.bias)
            return y.mul_(scale.to(y.dtype).reshape(*scale.shape, *(1,) * self.dims)).add_(fused.reshape(y.shape))
        y = self.add_bias(static_conv(padded, self.kernel, self.geometry), self.bias)
        return y * scale.to(y.dtype).reshape(*scale.shape, *(1,) * self.dims) + fused.reshape(y.shape)

    def _under_middle(self, x: Tensor) -> Tensor:
        """The input under the kernel's middle at every output position, shape ``(B, C, *out)``."""
        padding = self.geometry.padding
        tap = self.geometry.centre_tap(x.shape[2:])
        inside = [slice(t.start - p, t.stop - p, t.step) for t, p in zip(tap, padding, strict=True)]
        if all(0 <= s.start and s.stop <= n for s, n in zip(inside, x.shape[2:], strict=True)):
            return x[(..., *inside)]
        return F.pad(x, [p for both in reversed(padding) for p in (both, both)])[(..., *tap)]

    def count_madds(self, size: Sequence[int]) -> Madds:
        """Multiply-adds of the code's form on an input of shape ``(B, C, *size)``."""
        batch, positions = size[0], math.prod(self.output_size(size[2:]))
        rank = self.attention.rank
        residual = positions * (self.in_channels * rank + rank * rank + rank * self.out_channels)
        return Madds(
            convolution=self.convolution_madds(size),
            mixing=batch * (residual + positions * self.out_channels),
            attention=math.prod(size) + batch * sum(p.numel() for p in self.attention.parameters()),
        )


class DCDConv1d(_DCDConvNd):
    """DCD over sequences, ``(B, C, L)``: nn.Conv1d's arguments, then ``config=`` or fields of it."""

    dims = 1


class DCDConv2d(_DCDConvNd):
    """DCD over images, ``(B, C, H, W)``: nn.Conv2d's arguments, then ``config=`` or fields of it.

    Example:
        >>> DCDConv2d(64, 16, 3, padding=1, layout="basic")(torch.randn(2, 64, 5, 5)).shape
        torch.Size([2, 16, 5, 5])
    """

    dims = 2


class DCDConv3d(_DCDConvNd):
    """DCD over volumes, ``(B, C, D, H, W)``: nn.Conv3d's arguments, then ``config=`` or fields of it."""

    dims = 3


class DCDLinear(Decomposed, MethodLinear):
    """DCD's dynamic classifier: nn.Linear's arguments, then ``config=`` or fields of it."""

    config_type = DCDConfig
    folds_norm = True
    attention: FusionBranch

    def make(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create the static matrix, the residual and the branch."""
        rank = self.config.linear_rank
        self.kernel = nn.Parameter(torch.empty(self.out_features, self.in_features, device=device, dtype=dtype))
        self.residual = Residual(self.in_features, self.out_features, rank, device, dtype)
        self.attention = FusionBranch(self.in_features, rank, rank, self.out_features, device, dtype)

    def reset_parameters(self) -> None:
        """Start every matrix as torch.nn does, as in the code; zero bias."""
        nn.init.kaiming_uniform_(self.kernel, a=5**0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        for layer in (*self.residual.children(), *self.attention.children()):
            layer.reset_parameters()  # pyright: ignore[reportCallIssue]

    def transform(self, x: Tensor, norm: OutputNorm | None = None) -> Tensor:
        """Scale the static map, bias included, and add the residual, ``(B, T, C)`` -> ``(B, T, O)``."""
        phi, scale = self.attention(x.mean(dim=1))
        kernel, bias = (self.kernel, self.bias) if norm is None else (norm.kernel, norm.bias)
        assert kernel is not None  # see fold_residual
        y = F.linear(x, kernel, bias)
        return y * scale.to(y.dtype).unsqueeze(1) + self.residual(x.transpose(1, 2), phi, norm).transpose(1, 2)

    def count_madds(self, size: Sequence[int]) -> Madds:
        """Multiply-adds of the code's form on an input of shape ``(B, ..., C)``."""
        batch, positions, rank = size[0], math.prod(size[1:-1]), self.attention.rank
        residual = positions * (self.in_features * rank + rank * rank + rank * self.out_features)
        return Madds(
            convolution=batch * positions * self.in_features * self.out_features,
            mixing=batch * (residual + positions * self.out_features),
            attention=(math.prod(size) if positions > 1 else 0)
            + batch * sum(p.numel() for p in self.attention.parameters()),
        )
