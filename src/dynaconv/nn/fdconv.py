"""FDConv: frequency dynamic convolution (Chen et al., CVPR 2025, arXiv 2503.18783).

W(x) = M(x) . iDFT( sum_i a_i(x) P_i ) and y = W(x) * sum_b A_b(x) . x_b, in three parts:

- FDW, Fourier disjoint weight: the parameters are the spectrum of one kernel, laid out as a matrix of (O k1, I k2). Its
  frequencies, sorted by magnitude, are cut into n groups P_i; the inverse DFT of a group is one of n kernels.
- KSM, kernel spatial modulation: M is the product of channel, filter and spatial attention (global branch) and of a
  gate for every single element (local branch, a convolution along the channels).
- FBM, frequency band modulation: x_b is the input in one of several frequency bands, A_b a map over its positions.

Every gate is 2 sigmoid(z) with z near 0 at the start, where the layer is thus the static convolution whose spectrum it
holds. Formulas and sizes are those of the authors' code (github.com/Linwei-Chen/FDConv), from which this differs:

- The spectrum is that of the grouped kernel; the authors' code holds a full one, and fails with groups.
- n need not divide the number of frequencies: groups may differ by one in size. Equal frequencies keep their order.
- All heads start near 0, at random; in the code a misspelt name leaves the filter head at Kaiming's scale, and all
  weights of the local branch start at one value.
- r spectra (``param_ratio``) are averaged; in the code their sum starts r times too large.
- A cut spectrum (``param_reduction``) keeps the gain of a whole one, which the code leaves out.
- Bands are exact for every size of map, a bound belongs to the lower one; the code stretches the masks of a 64 x 64
  map, where rounding leaves the bound 1/4, and no other, to the higher one.
- FBM is used for every kernel of more than one position; the code lists sizes (3), beside those it takes (1 and 3).
- In 1-d and 3-d, which the code has not, the kernel's last dimension goes with I and the others with O.
- Left out: temperatures (1 in the public configs), gates of tanh and softmax, and maps for groups of channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dynaconv.config import MethodConfig, as_tuple, check_count, check_flag, check_range
from dynaconv.errors import DynaconvError
from dynaconv.nn.base import pool
from dynaconv.nn.constant import Constant
from dynaconv.nn.fdconv_branches import BandModulation, GlobalBranch, LocalBranch, widen
from dynaconv.nn.fdconv_graphs import FrequencyTable, inverse_by_products
from dynaconv.nn.method import MethodConvNd, Noise, fill_kaiming
from dynaconv.nn.prepared import OutputNorm
from dynaconv.ops import Madds, per_sample_conv
from dynaconv.planning import LayerSpec

MODULATIONS = ("channel", "filter", "spatial", "local")


@dataclass(frozen=True, kw_only=True)
class FDConvConfig(MethodConfig):
    """FDConv: a kernel mixed from disjoint parts of one spectrum, modulated element by element, on modulated bands.

    Args:
        num_kernels: n, groups of frequencies and so kernels (FDW); 1 leaves the spectrum whole.
        modulations: what modulates the kernel (KSM), of channel, filter, spatial and local; none switches it off. As
            in the code, depth-wise layers have no filter and point-wise ones no spatial attention.
        bands: k for every bound 1 / (2k), in cycles a pixel, between bands of the input (FBM), rising; none switches
            it off.
        modulate_lowest: whether the lowest band has a map too.
        reduction: hidden width of the global branch relative to the layer's input channels.
        min_hidden: its smallest hidden width.
        param_ratio: r, spectra of the whole kernel, each with an attention of its own.
        param_reduction: share of the frequencies, from the lowest, that have parameters.
        channels_above: layers of so many input or output channels, or fewer, stay static.
        kernel_sizes: layers of other sizes stay static.

    Raises:
        DynaconvError: on any value outside its domain.
    """

    method: ClassVar[str] = "fdconv"

    num_kernels: int = 64
    modulations: tuple[str, ...] = MODULATIONS
    bands: tuple[int, ...] = (2, 4, 8)
    modulate_lowest: bool = False
    reduction: float = 1 / 16
    min_hidden: int = 16
    param_ratio: int = 1
    param_reduction: float = 1.0
    channels_above: int = 16
    kernel_sizes: tuple[int, ...] = (1, 3)

    def __post_init__(self) -> None:
        for name in ("num_kernels", "min_hidden", "param_ratio"):
            check_count(name, getattr(self, name))
        check_count("channels_above", self.channels_above, minimum=0)
        check_range("reduction", self.reduction, 0, 1)
        check_range("param_reduction", self.param_reduction, 0, 1)
        check_flag("modulate_lowest", self.modulate_lowest)
        for name in ("modulations", "bands", "kernel_sizes"):
            as_tuple(self, name)
        if set(self.modulations) - set(MODULATIONS):
            raise DynaconvError(f"modulations={self.modulations!r}; expected some of {MODULATIONS}")
        for name, minimum in (("bands", 2), ("kernel_sizes", 1)):
            for value in getattr(self, name):
                check_count(f"an element of {name}", value, minimum)
        if list(self.bands) != sorted(set(self.bands)):
            raise DynaconvError(f"bands={self.bands!r}; expected rising numbers, such as (2, 4, 8)")
        if self.num_kernels * self.param_ratio == 1 and not self.modulations and not self.bands:
            raise DynaconvError("num_kernels=1, modulations=() and bands=() leave a static layer; switch one part on")


def inverse_transform(spectrum: Tensor, columns: int) -> Tensor:
    """Real matrices ``(B, rows, columns)`` of half spectra ``(B, rows, columns // 2 + 1)``.

    What is not Hermitian is dropped, on every device alike: two transforms, since for one of two dimensions the result
    is not defined then.
    """
    if spectrum.shape[0] == 0:  # MKL transforms no empty batch
        return spectrum.real.new_zeros(0, spectrum.shape[1], columns) + 0 * spectrum.real.sum()
    return torch.fft.irfft(torch.fft.ifft(spectrum, dim=1), n=columns, dim=2)


def sort_frequencies(rows: int, columns: int, device: Any = None) -> Tensor:
    """Places of a real matrix's half spectrum ``(rows, columns // 2 + 1)``, flat, by magnitude of frequency."""
    i, j = torch.arange(rows, device=device), torch.arange(columns // 2 + 1, device=device)
    u, v = torch.minimum(i, rows - i) * columns, j * rows  # cycles a pixel, times rows * columns
    return (u.unsqueeze(1) ** 2 + v**2).flatten().argsort(stable=True)


class _FDConvNd(MethodConvNd):
    folds_norm = True
    config_type = FDConvConfig
    attention: nn.ModuleDict
    _frequencies: tuple[Constant, Constant, FrequencyTable] | None = None

    @classmethod
    def refuses(cls, spec: LayerSpec, config: FDConvConfig) -> str | None:
        """Narrow layers and large kernels, as in the authors' code."""
        if min(spec.in_channels, spec.out_channels) <= config.channels_above:
            return f"FDConv leaves layers of {config.channels_above} channels or fewer static, as in its code"
        if max(spec.kernel_size) not in config.kernel_sizes:
            return f"FDConv leaves kernels of other sizes than {config.kernel_sizes} static, as in its code"
        if (
            config.num_kernels * config.param_ratio == 1
            and not spec.is_spatial
            and set(config.modulations) <= {"spatial"}
        ):
            return "the config leaves nothing of a point-wise layer to its input"
        return None

    def make(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create the spectrum and the branches."""
        config, positions, options = self.config, self.geometry.positions, {"device": device, "dtype": dtype}
        out_channels, in_channels, *size = self.kernel_shape
        self.rows, self.columns = out_channels * math.prod(size[:-1]), in_channels * size[-1]
        places = self.rows * (self.columns // 2 + 1)
        kept = max(int(places * config.param_reduction), 1)
        self.num_kernels = min(config.num_kernels, kept)
        self.gain = max(min(out_channels, in_channels) // 2, 1)
        self.dft_weight = nn.Parameter(torch.empty(config.param_ratio, kept, 2, **options))
        self.kept, self.places = kept, places
        depthwise = self.in_channels == self.groups == self.out_channels
        sizes = {
            "channel": self.in_channels,
            "spatial": positions if positions > 1 else 0,
            "filter": 0 if depthwise else self.out_channels,
        }
        sizes = {name: n for name, n in sizes.items() if n and name in config.modulations}
        if self.num_kernels * config.param_ratio > 1:
            sizes["kernel"] = self.num_kernels * config.param_ratio
        self.attention = nn.ModuleDict()
        if sizes:
            hidden = max(int(self.in_channels * config.reduction), config.min_hidden)
            self.attention["ksm_global"] = GlobalBranch(self.in_channels, hidden, sizes, **options)
        if "local" in config.modulations:
            gates = self.out_channels // self.groups * positions
            self.attention["ksm_local"] = LocalBranch(self.in_channels, gates, **options)
        if config.bands and positions > 1:
            lowest = config.modulate_lowest
            self.attention["fbm"] = BandModulation(self.in_channels, self.dims, config.bands, lowest, **options)

    def place_frequencies(self) -> tuple[Constant, Constant, FrequencyTable]:
        """Sort the frequencies and cut them into groups, once; all follows from the sizes."""
        if self._frequencies is None:
            order = sort_frequencies(self.rows, self.columns, "cpu")
            groups = torch.arange(self.places, device="cpu") * self.num_kernels // self.kept
            group = torch.empty(self.places, dtype=torch.int32, device="cpu")
            group[order] = groups.clamp(max=self.num_kernels - 1).to(torch.int32)
            order = order[: self.kept].clone()
            table = FrequencyTable.of(order, group, self.rows, self.num_kernels)
            self._frequencies = Constant(order), Constant(group), table
        return self._frequencies

    @property
    def order(self) -> Tensor:
        """Places of the half spectrum that have parameters, by magnitude of frequency."""
        return self.place_frequencies()[0].on(self.dft_weight.device)

    @property
    def group(self) -> Tensor:
        """The kernel, 0 to n - 1, of every place of the half spectrum."""
        return self.place_frequencies()[1].on(self.dft_weight.device)

    def reset_parameters(self) -> None:
        """Start as the static convolution with a kernel of Kaiming normal, fan-out; gates of one; zero bias."""
        if not self.dft_weight.is_meta:  # plans make layers without memory, and count them only
            self.place_frequencies()
        kernel = widen(torch.empty(self.kernel_shape, device=self.dft_weight.device, dtype=self.dft_weight.dtype))
        fill_kaiming(kernel, self.kernel_shape, self.groups)
        self.adopt_kernel(kernel * (self.places / self.kept) ** 0.5)  # make up for what a cut spectrum loses
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        for branch in self.attention.values():
            branch.reset_parameters()  # pyright: ignore[reportCallIssue]

    @torch.no_grad()
    def adopt(self, kernel: Tensor, bias: Tensor | None, noise: Noise) -> float:
        """Become the static convolution, as far as the spectrum has its frequencies: every gate is exactly one."""
        for branch in self.attention.values():
            branch.rest()  # pyright: ignore[reportCallIssue]
        self.adopt_kernel(kernel)
        self.dft_weight.copy_(noise.copies(self.dft_weight[0], self.config.param_ratio))
        if bias is not None and self.bias is not None:
            self.bias.copy_(bias)
        if self.kept == self.places:
            return 0.0
        found = self._mix(self.dft_weight.new_ones(1, self.config.param_ratio * self.num_kernels))[0]
        return float((found - kernel).norm() / kernel.norm().clamp(min=torch.finfo(kernel.dtype).tiny))

    @torch.no_grad()
    def adopt_kernel(self, kernel: Tensor) -> None:
        """Take over a static kernel ``(O, C / groups, *k)``, as far as the spectrum has its frequencies."""
        last = self.dims + 1
        matrix = widen(kernel).permute(0, *range(2, last), 1, last).reshape(self.rows, self.columns)
        half = torch.fft.rfft2(matrix).flatten()
        half = half[self.order] if self.kept < self.places else half
        self.dft_weight.copy_(torch.view_as_real(half / self.gain))

    def _mix(self, weights: Tensor | None) -> Tensor:
        """FDW: gates of the kernels ``(B, r n)`` -> ``(B, O, C / groups, *k)``; without, one kernel for all."""
        copies, places, exporting = self.config.param_ratio, self.places, torch.compiler.is_exporting()
        values = widen(self.dft_weight) * (self.gain / copies)
        if self.kept < places:
            if exporting:
                values = self.place_frequencies()[2].spread(values)
            else:
                values = values.new_zeros(copies, places, 2).index_copy(1, self.order, values)
        if weights is not None:
            weights = weights.to(values.dtype)
            group = self.place_frequencies()[2].groups(values.device) if exporting else self.group
            if copies == 1:
                values = weights.index_select(1, group).unsqueeze(2) * values
            else:
                weights = weights.unflatten(1, (copies, self.num_kernels))
                values = (weights.index_select(2, group).unsqueeze(3) * values).sum(dim=1)
        values = values.unflatten(1, (self.rows, -1))
        if exporting:
            matrix = inverse_by_products(values, self.columns)
        else:
            matrix = inverse_transform(torch.complex(values[..., 0], values[..., 1]), self.columns)
        out_channels, in_channels, *size = self.kernel_shape
        last = self.dims + 2
        parts = matrix.reshape(matrix.shape[0], out_channels, *size[:-1], in_channels, size[-1])
        return parts.permute(0, 1, last - 1, *range(2, last - 1), last)

    def kernels(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """The kernel of every sample, shape ``(B, C, *size)`` -> ``(B, O, C / groups, *kernel_size)``.

        FBM, which is no part of it, comes before.

        Args:
            x: shape ``(B, C, *size)``.
            scale: factors of the outputs, shape ``(O,)``.
        """
        pooled, batch, ones, size = pool(x), x.shape[0], (1,) * self.dims, self.kernel_size
        groups, inner, outer = self.groups, self.in_channels // self.groups, self.out_channels // self.groups
        gates = self.attention["ksm_global"](pooled) if "ksm_global" in self.attention else {}
        kernels = self._mix(gates.pop("kernel", None)).unflatten(1, (groups, outer))
        shapes = {
            "channel": (groups, 1, inner, *ones),
            "spatial": (1, 1, 1, *size),
            "filter": (groups, outer, 1, *ones),
        }
        factors = [] if scale is None else [scale.to(kernels.dtype).reshape(*shapes["filter"])]
        factors += [gate.to(kernels.dtype).reshape(batch, *shapes[name]) for name, gate in gates.items()]
        if "ksm_local" in self.attention:
            gate = self.attention["ksm_local"](pooled).reshape(batch, outer, *size, groups, inner)
            last = self.dims + 2
            factors.append(gate.to(kernels.dtype).permute(0, last, 1, last + 1, *range(2, last)))
        if factors:
            kernels = kernels * reduce(torch.mul, factors)
        kernels = kernels.flatten(1, 2)
        return kernels.expand(batch, *self.kernel_shape).to(self.dft_weight.dtype)

    def convolve(self, x: Tensor, norm: OutputNorm | None = None) -> Tensor:
        """Modulate the input's bands, convolve every sample with its own kernel, add the bias, norm included."""
        kernels = self.kernels(x, None if norm is None else norm.scale)
        if "fbm" in self.attention:
            x = self.attention["fbm"](x)
        if norm is not None:
            return per_sample_conv(self.pad(x), kernels, self.geometry, bias=norm.shift)
        return self.add_bias(per_sample_conv(self.pad(x), kernels, self.geometry), self.bias)

    def count_madds(self, size: Sequence[int]) -> Madds:
        """Multiply-adds on an input of shape ``(B, C, *size)``; a Fourier transform counts log2 of its size a value."""
        kernel, inputs = size[0] * math.prod(self.kernel_shape), math.prod(size)
        mixing, attention = kernel * math.ceil(math.log2(self.rows * self.columns)), inputs
        places = {"ksm_global": size[0], "ksm_local": size[0] * self.in_channels, "fbm": inputs // self.in_channels}
        for name, branch in self.attention.items():
            attention += places[name] * sum(p.numel() for p in branch.parameters() if p.dim() > 1)
            if isinstance(branch, BandModulation):
                mixing += inputs * (len(branch.bands) + 1) * (math.ceil(math.log2(math.prod(size[2:]))) + 2)
            else:
                copies = self.config.param_ratio - 1
                mixing += kernel * (len(branch.heads) + copies if isinstance(branch, GlobalBranch) else 1)
        return Madds(
            convolution=self.convolution_madds(size), mixing=mixing, attention=attention, kernel_elements=kernel
        )


class FDConv1d(_FDConvNd):
    """FDConv over sequences, ``(B, C, L)``: nn.Conv1d's arguments, then ``config=`` or fields of it."""

    dims = 1


class FDConv2d(_FDConvNd):
    """FDConv over images, ``(B, C, H, W)``: nn.Conv2d's arguments, then ``config=`` or fields of it.

    Example:
        >>> FDConv2d(8, 16, 3, padding=1, num_kernels=4)(torch.randn(2, 8, 5, 5)).shape
        torch.Size([2, 16, 5, 5])
    """

    dims = 2


class FDConv3d(_FDConvNd):
    """FDConv over volumes, ``(B, C, D, H, W)``: nn.Conv3d's arguments, then ``config=`` or fields of it."""

    dims = 3
