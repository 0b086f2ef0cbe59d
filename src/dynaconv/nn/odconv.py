"""ODConv: attention along all four dimensions of the kernel (Li, Zhou and Yao, ICLR 2022, eq. 3).

y = sum_i (a_wi * a_fi * a_ci * a_si * W_i) * x: kernel, filter, channel and spatial attention. As in the authors' code
the last three are the same for all K kernels, so that channel attention scales the input and filter attention the
output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynaconv.config import MethodConfig, as_tuple, check_count, check_range, linear_fall
from dynaconv.errors import DynaconvError
from dynaconv.nn.base import TemperedBranch, pool
from dynaconv.nn.method import MethodConvNd, Noise, fill_kaiming, hold, silence
from dynaconv.nn.norm import BranchBatchNorm
from dynaconv.nn.prepared import OutputNorm, Prepared, Watch
from dynaconv.ops import Madds, Mixture, empty_cells, mixture_conv, scale_and_shift, static_conv
from dynaconv.ops.branch import BranchWeights, fold_batch_norm, prepared_branch

DIMENSIONS = ("spatial", "channel", "filter", "kernel")


@dataclass(frozen=True, kw_only=True)
class ODConvConfig(MethodConfig):
    """ODConv: four attentions on K kernels.

    Args:
        num_kernels: K, 1 to 4 in the paper. Kernel attention needs at least two.
        reduction: hidden width of the branch relative to the layer's input channels.
        min_hidden: smallest hidden width of the branch.
        attentions: which of the four are used. As in the authors' code, spatial attention is left out of point-wise
            kernels, filter attention of depth-wise layers, and kernel attention where K = 1.
        initial_temperature: divisor of all logits when training starts; it falls to 1 (code: over 10 epochs).

    Raises:
        DynaconvError: on any value outside its domain.
    """

    method: ClassVar[str] = "odconv"

    num_kernels: int = 1
    reduction: float = 1 / 16
    min_hidden: int = 16
    attentions: tuple[str, ...] = DIMENSIONS
    initial_temperature: float = 30.0

    def __post_init__(self) -> None:
        check_count("num_kernels", self.num_kernels)
        check_range("reduction", self.reduction, 0, 1)
        check_count("min_hidden", self.min_hidden)
        check_range("initial_temperature", self.initial_temperature, 1e-3, 1e6)
        as_tuple(self, "attentions")
        unknown = sorted(set(self.attentions) - set(DIMENSIONS))
        if unknown or not self.attentions:
            raise DynaconvError(f"attentions={self.attentions!r}; expected some of {DIMENSIONS}")
        if self.num_kernels > 1 and "kernel" not in self.attentions:
            raise DynaconvError(
                f"attentions={self.attentions!r} has no 'kernel' to weigh num_kernels={self.num_kernels} kernels; "
                "add it, or use num_kernels=1"
            )

    def temperature(self, progress: float) -> float:
        """From ``initial_temperature`` linearly to 1, as in the authors' code."""
        return linear_fall(progress, self.initial_temperature, 1.0)


class FourAttentions(TemperedBranch):
    """Pool -> linear -> norm -> ReLU, then a head for every attention that the layer uses.

    Args:
        sizes: outputs of each head, by the attention's name.
        in_channels: channels of the layer's input.
        config: widths.
        device: where parameters live.
        dtype: of the parameters.
    """

    coldest, hottest = 1e-3, float("inf")

    def __init__(
        self,
        sizes: dict[str, int],
        in_channels: int,
        config: ODConvConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        hidden = max(int(in_channels * config.reduction), config.min_hidden)
        self.fc = nn.Linear(in_channels, hidden, bias=False, device=device, dtype=dtype)
        self.norm = BranchBatchNorm(hidden, device=device, dtype=dtype)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(hidden, size, device=device, dtype=dtype) for name, size in sizes.items()}
        )
        self.register_temperature(1.0, device)

    def reset_parameters(self) -> None:
        """Kaiming normal, fan-out; zero biases; identity normalisation."""
        for layer in (self.fc, *self.heads.values()):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # pyright: ignore[reportArgumentType]
        for head in self.heads.values():
            nn.init.zeros_(head.bias)  # pyright: ignore[reportArgumentType]
        self.norm.reset_parameters()
        self.temperature.fill_(1.0)

    def forward(self, pooled: Tensor) -> dict[str, Tensor]:
        """Every attention of the layer, ``(B, C)`` -> name: ``(B, size)``, at least float32."""
        hidden = F.relu(self.norm(self.fc(pooled)))
        attentions = {}
        for name, head in self.heads.items():
            z = head(hidden)
            z = z.to(torch.promote_types(z.dtype, torch.float32))
            z = z / self.temperature.to(z.dtype)
            attentions[name] = z.softmax(dim=-1) if name == "kernel" else z.sigmoid()
        return attentions

    @torch.no_grad()
    def fold(self) -> BranchWeights:
        """Weights for inference: normalisation and temperature folded in, all heads in one linear layer."""
        fc1, shift = fold_batch_norm(self.fc, self.norm)
        heads, temperature = list(self.heads.values()), float(self.temperature)
        weight, bias = (torch.cat([getattr(head, name) for head in heads]) / temperature for name in ("weight", "bias"))
        return BranchWeights(fc1=fc1, shift=shift, fc2=weight, bias=bias.unsqueeze(0))

    def split(self, z: Tensor) -> dict[str, Tensor]:
        """Every attention from the heads' logits side by side, ``(B, all)``, divided by the temperature."""
        sizes = {name: head.out_features for name, head in self.heads.items()}
        parts = dict(zip(sizes, z.split(list(sizes.values()), dim=1), strict=True))  # pyright: ignore[reportArgumentType]
        return {name: part.softmax(dim=-1) if name == "kernel" else part.sigmoid() for name, part in parts.items()}


class _ODConvNd(MethodConvNd):
    config_type = ODConvConfig
    folds_norm = norm_pays = shows_attention = True
    attention: FourAttentions

    def make(self, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        """Create kernels and attentions."""
        config, depthwise = self.config, self.in_channels == self.groups == self.out_channels
        self.kernel = nn.Parameter(empty_cells(config.num_kernels, *self.kernel_shape, device=device, dtype=dtype))
        sizes = {
            "channel": self.in_channels,
            "filter": 0 if depthwise else self.out_channels,
            "spatial": self.geometry.positions if self.geometry.positions > 1 else 0,
            "kernel": config.num_kernels if config.num_kernels > 1 else 0,
        }
        used = {name: size for name, size in sizes.items() if size and name in config.attentions}
        if not used:
            raise DynaconvError(
                f"attentions={config.attentions!r} leaves this layer none (kernel {self.kernel_size}, "
                f"groups={self.groups}, K={config.num_kernels}); add another, or leave it static"
            )
        self.attention = FourAttentions(used, self.in_channels, config, device, dtype)

    def reset_parameters(self) -> None:
        """Kaiming normal, fan-out, every kernel and the branch; zero bias."""
        fill_kaiming(self.kernel, self.kernel_shape)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.attention.reset_parameters()

    def adopt(self, kernel: Tensor, bias: Tensor | None, noise: Noise) -> float:
        """Become the static convolution: every sigmoid at one half, which the kernels make up for, softmax uniform."""
        heads = self.attention.heads
        silence(*heads.values())
        gain = 2.0 ** sum(name != "kernel" for name in heads)
        return hold(self, noise.copies(kernel, self.config.num_kernels) * gain, bias)

    @torch.no_grad()
    def prepare(self) -> Prepared:
        """Fold the branch's normalisation and temperature, and join its heads."""
        weights, split = self.attention.fold(), self.attention.split
        run = prepared_branch(weights, "logits")
        return Prepared(lambda x: split(run(x)[:, 0]), Watch(self.attention), weights)

    def attend(self, x: Tensor) -> dict[str, Tensor]:
        """Every attention to an input ``(B, C, *size)``, by name."""
        prepared = self.prepared()
        return self.show(**(self.attention(pool(x)) if prepared is None else prepared.branch(x)))

    def _weigh(self, attentions: dict[str, Tensor], batch: int) -> tuple[Tensor, Mixture]:
        """Spatial and kernel attention as weights of the K kernels at every position, ``(B, positions or 1, K)``."""
        weights = attentions.get("kernel")
        weights = self.kernel.new_ones(batch, 1, 1) if weights is None else weights.unsqueeze(1)
        if "spatial" in attentions:
            weights = weights * attentions["spatial"].unsqueeze(2)
        mixture = Mixture((weights.shape[1], 1, 1), self.geometry, own_cells=weights.shape[1] > 1)
        return weights.to(self.kernel.dtype), mixture

    def convolve(self, x: Tensor, norm: OutputNorm | None = None) -> Tensor:
        """Scale the input, convolve every sample with its own kernel, scale the output, add the bias.

        A norm is part of the last two.
        """
        attentions = self.attend(x)
        channel, filters = (attentions.get(name) for name in ("channel", "filter"))
        bias = self.bias
        if norm is not None:
            filters, bias = norm.scale if filters is None else filters * norm.scale, norm.shift
        if "kernel" not in attentions and "spatial" not in attentions:  # one kernel for all samples
            y = static_conv(self.pad(self._scale(x, channel)), self.kernel[0], self.geometry)
            return scale_and_shift(y, filters, bias)
        weights, mixture = self._weigh(attentions, x.shape[0])
        return mixture_conv(self.pad(x), weights, self.kernel, mixture, in_scale=channel, out_scale=filters, bias=bias)

    def _scale(self, x: Tensor, factors: Tensor | None) -> Tensor:
        return x if factors is None else x * factors.to(x.dtype).reshape(*factors.shape, *(1,) * self.dims)

    def kernels(self, x: Tensor) -> Tensor:
        """The kernel of every sample with all attentions, shape ``(B, O, C / groups, *kernel_size)``."""
        attentions = self.attend(x)
        weights, mixture = self._weigh(attentions, x.shape[0])
        kernels = mixture.kernels(weights, self.kernel)
        ones = (1,) * (self.dims + 1)
        if "filter" in attentions:
            kernels = kernels * attentions["filter"].to(kernels.dtype).reshape(x.shape[0], -1, *ones)
        if "channel" in attentions:
            channels = attentions["channel"].to(kernels.dtype).reshape(x.shape[0], self.groups, 1, -1, *ones[1:])
            grouped = kernels.reshape(x.shape[0], self.groups, -1, *self.kernel_shape[1:])
            kernels = (grouped * channels).reshape(x.shape[0], *self.kernel_shape)
        return kernels

    def count_madds(self, size: Sequence[int]) -> Madds:
        """Multiply-adds of eq. 3 on an input of shape ``(B, C, *size)``, all attentions on the kernels.

        The authors counted by hand and do not say how. Two products an element of every kernel (make the attention
        tensor, apply it), and one more where kernels are summed, come within 1 % of every figure they print.
        """
        heads, branch, count = self.attention.heads, self.attention, self.config.num_kernels
        kernel = size[0] * math.prod(self.kernel_shape)
        products = count * min(sum(name != "kernel" for name in heads), 2)
        sums = count if not products else int(count > 1)
        return Madds(
            convolution=self.convolution_madds(size),
            mixing=kernel * (products + sums),
            attention=math.prod(size) + size[0] * sum(p.numel() for p in branch.parameters() if p.dim() > 1),
            kernel_elements=kernel if "spatial" in heads or "kernel" in heads else 0,
        )


class ODConv1d(_ODConvNd):
    """ODConv over sequences, ``(B, C, L)``: nn.Conv1d's arguments, then ``config=`` or fields of it."""

    dims = 1


class ODConv2d(_ODConvNd):
    """ODConv over images, ``(B, C, H, W)``: nn.Conv2d's arguments, then ``config=`` or fields of it.

    Example:
        >>> ODConv2d(8, 16, 3, padding=1, num_kernels=4)(torch.randn(2, 8, 5, 5)).shape
        torch.Size([2, 16, 5, 5])
    """

    dims = 2


class ODConv3d(_ODConvNd):
    """ODConv over volumes, ``(B, C, D, H, W)``: nn.Conv3d's arguments, then ``config=`` or fields of it."""

    dims = 3
