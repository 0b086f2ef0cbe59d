"""What FDConv's layers read from their input (Chen et al., CVPR 2025, arXiv 2503.18783): branches of KSM, and FBM.

Every gate is 2 sigmoid(z), with z near 0 at the start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynaconv.nn.fdconv_graphs import low_pass
from dynaconv.nn.method import silence
from dynaconv.nn.norm import BranchBatchNorm

NEAR_ZERO = 1e-6
MAP_KERNEL = 3


def widen(x: Tensor) -> Tensor:
    """To float32, which Fourier transforms need at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def frequency_bands(size: Sequence[int], bands: Sequence[int], device: Any = None) -> Tensor:
    """The band, 0 for the highest, of every place of a half spectrum ``(*size[:-1], size[-1] // 2 + 1)``."""
    lowest = None
    for axis, n in enumerate(size, start=1):
        i = torch.arange(n // 2 + 1 if axis == len(size) else n, device=device)
        inside = sum((2 * k * torch.minimum(i, n - i) <= n).long() for k in bands)
        band = torch.as_tensor(inside).reshape(-1, *(1,) * (len(size) - axis))
        lowest = band if lowest is None else torch.minimum(lowest, band)
    assert lowest is not None  # maps have at least one dimension
    return lowest


class GlobalBranch(nn.Module):
    """Pool -> linear -> norm -> s relu(x)^2 + b, then a head of gates for each name in ``sizes``."""

    def __init__(self, channels: int, hidden: int, sizes: dict[str, int], **options: Any) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, hidden, bias=False, **options)
        self.norm = BranchBatchNorm(hidden, **options)
        self.scale = nn.Parameter(torch.empty(1, **options))
        self.bias = nn.Parameter(torch.empty(1, **options))
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, size, **options) for name, size in sizes.items()})

    def reset_parameters(self) -> None:
        """Kaiming normal, fan-out, before the heads, which start near zero."""
        nn.init.kaiming_normal_(self.fc.weight, mode="fan_out", nonlinearity="relu")
        self.norm.reset_parameters()
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.bias)
        for head in self.heads.values():
            nn.init.normal_(head.weight, std=NEAR_ZERO)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(head.bias)  # pyright: ignore[reportArgumentType]

    def rest(self) -> None:
        """Every gate is one."""
        silence(*self.heads.values())

    def forward(self, pooled: Tensor) -> dict[str, Tensor]:
        """Gates by name, ``(B, C)`` -> ``(B, size)``."""
        hidden = self.scale * F.relu(self.norm(self.fc(pooled))) ** 2 + self.bias
        return {name: 2 * widen(head(hidden)).sigmoid() for name, head in self.heads.items()}


class LocalBranch(nn.Module):
    """A convolution along the channels, about half as wide as their number has bits: many gates for each of them."""

    def __init__(self, channels: int, gates: int, **options: Any) -> None:
        super().__init__()
        width = round(math.log2(channels) / 2 + 0.5) // 2 * 2 + 1
        self.norm = nn.LayerNorm(channels, **options)
        self.conv = nn.Conv1d(1, gates, width, padding=width // 2, bias=False, **options)

    def reset_parameters(self) -> None:
        """Near zero."""
        self.norm.reset_parameters()
        nn.init.normal_(self.conv.weight, std=NEAR_ZERO)

    def rest(self) -> None:
        """Every gate is one."""
        silence(self.conv)

    def forward(self, pooled: Tensor) -> Tensor:
        """Shape ``(B, C)`` -> ``(B, gates, C)``."""
        return 2 * widen(self.conv(self.norm(pooled).unsqueeze(1))).sigmoid()


class BandModulation(nn.Module):
    """FBM: y = sum_b A_b . x_b, with maps A_b from one convolution over the input."""

    def __init__(self, channels: int, dims: int, bands: Sequence[int], lowest: bool, **options: Any) -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        self.bands = tuple(bands)
        self.maps = convolution(channels, len(bands) + lowest, MAP_KERNEL, padding=MAP_KERNEL // 2, **options)

    def reset_parameters(self) -> None:
        """Near zero: every map is one."""
        nn.init.normal_(self.maps.weight, std=NEAR_ZERO)
        nn.init.zeros_(self.maps.bias)  # pyright: ignore[reportArgumentType]

    def rest(self) -> None:
        """Every map is one."""
        silence(self.maps)

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``(B, C, *size)``, kept."""
        size, axes = x.shape[2:], tuple(range(2, x.dim()))
        gates = 2 * widen(self.maps(x)).sigmoid()
        gates = F.pad(gates, [0, 0] * len(size) + [0, len(self.bands) + 1 - gates.shape[1]], value=1.0)
        first, wide = gates[:, :1], widen(x)
        y = first * wide  # A_0 x_0 = A_0 (x - x_1 - x_2 ...) saves a transform
        if torch.compiler.is_exporting():
            return self._by_products(wide, gates, y).to(x.dtype)
        if x.shape[0] == 0:  # MKL transforms no empty batch
            return y.to(x.dtype)
        spectrum, band_of = torch.fft.rfftn(wide, dim=axes), frequency_bands(size, self.bands, x.device)
        for band in range(1, len(self.bands) + 1):
            part = torch.fft.irfftn(spectrum * (band_of == band), s=tuple(size), dim=axes)
            y = y + (gates[:, band : band + 1] - first) * part
        return y.to(x.dtype)

    def _by_products(self, x: Tensor, gates: Tensor, y: Tensor) -> Tensor:
        """The same for graphs, whose runtimes have no Fourier transform of maps.

        Frequencies below a bound are those that are below it along every axis: a product with a real matrix an axis.
        With C_b x what is in band b or lower, y = A_0 x + sum_b (A_b - A_{b-1}) C_b x.
        """
        for band, divisor in enumerate(self.bands, start=1):
            low, last = x, x.dim() - 1
            for axis in range(2, last):
                low = F.linear(low.transpose(axis, last), low_pass(x.shape[axis], divisor, x)).transpose(axis, last)
            low = F.linear(low, low_pass(x.shape[last], divisor, x))
            y = y + (gates[:, band : band + 1] - gates[:, band - 1 : band]) * low
        return y
