"""Recalibration modules that stand behind a block's last convolution: SE, CBAM, ECA.

SE: Hu et al., CVPR 2018, arXiv 1709.01507, eq. 2 to 4. CBAM: Woo et al., ECCV 2018, arXiv 1807.06521, eq. 2 and 3.
ECA: Wang et al., CVPR 2020, arXiv 1910.03151, eq. 6 and 12. All take any number of spatial dimensions.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynaconv.config import MethodConfig, check_count, check_flag, check_range
from dynaconv.errors import DynaconvError
from dynaconv.nn.base import DynamicLayer, pool
from dynaconv.nn.method import settle_config, silence
from dynaconv.ops import Madds


@dataclass(frozen=True, kw_only=True)
class SEConfig(MethodConfig):
    """Squeeze-and-excitation.

    Args:
        reduction: hidden width relative to the channels.
        bias: whether its two linear layers have biases. Without them the counts are those that the papers of ODConv and
            KernelWarehouse print.

    Raises:
        DynaconvError: on any value outside its domain.
    """

    method: ClassVar[str] = "se"

    reduction: float = 1 / 16
    bias: bool = False

    def __post_init__(self) -> None:
        check_range("reduction", self.reduction, 0, 1)
        check_flag("bias", self.bias)


@dataclass(frozen=True, kw_only=True)
class CBAMConfig(MethodConfig):
    """CBAM: channel, then spatial attention.

    Args:
        reduction: hidden width of the channel attention relative to the channels.
        kernel_size: of the spatial attention, odd.
        bias: whether the channel attention's linear layers have biases; the paper's eq. 2 has none.

    Raises:
        DynaconvError: on any value outside its domain.
    """

    method: ClassVar[str] = "cbam"

    reduction: float = 1 / 16
    kernel_size: int = 7
    bias: bool = False

    def __post_init__(self) -> None:
        check_range("reduction", self.reduction, 0, 1)
        check_flag("bias", self.bias)
        check_count("kernel_size", self.kernel_size)
        if self.kernel_size % 2 == 0:
            raise DynaconvError(f"kernel_size={self.kernel_size}; expected an odd number, so that maps keep their size")


@dataclass(frozen=True, kw_only=True)
class ECAConfig(MethodConfig):
    """ECA: channel attention by a small convolution along the channels.

    Args:
        kernel_size: of that convolution, odd; None for the paper's rule: (log2(C) + 1) / 2 without its
            fraction, and one more if that is even.

    Raises:
        DynaconvError: on any value outside its domain.
    """

    method: ClassVar[str] = "eca"

    kernel_size: int | None = None

    def __post_init__(self) -> None:
        if self.kernel_size is not None:
            check_count("kernel_size", self.kernel_size)
            if self.kernel_size % 2 == 0:
                raise DynaconvError(f"kernel_size={self.kernel_size}; expected an odd number")


class Gate(DynamicLayer):
    """Base of the gates: rescales ``(B, C, *size)``, keeping its shape.

    Args:
        channels: C.
        dims: spatial dimensions of the input, 1 to 3.
        device: where parameters live.
        dtype: of the parameters.
        config: the gate's config; its defaults if not given.
        changes: fields of the config that differ.
    """

    config_type: ClassVar[type[MethodConfig]]

    def __init__(
        self,
        channels: int,
        dims: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        config: Any = None,
        **changes: Any,
    ) -> None:
        super().__init__()
        self.config = settle_config(self.config_type, config, changes)
        check_count("channels", channels)
        if dims not in (1, 2, 3):
            raise DynaconvError(f"dims={dims!r}; expected 1, 2 or 3 spatial dimensions")
        self.channels, self.dims = channels, dims
        self.make({"device": device, "dtype": dtype})

    def make(self, options: dict[str, Any]) -> None:
        """Create the gate's parameters."""
        raise NotImplementedError

    def rest(self) -> float:
        """Let the gate scale every input alike; returns by how much."""
        raise NotImplementedError

    def rescale(self, x: Tensor) -> Tensor:
        """Scale a batch, shape ``(B, C, *size)``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Scale, shape ``(B, C, *size)`` or, unbatched, ``(C, *size)``.

        Raises:
            DynaconvError: if dimensions or channels do not fit.
        """
        batched = x.dim() == self.dims + 2
        if (not batched and x.dim() != self.dims + 1) or x.shape[-self.dims - 1] != self.channels:
            raise DynaconvError(
                f"{type(self).__name__} got input of shape {tuple(x.shape)}; expected {self.channels} channels and "
                f"{self.dims} spatial dimensions, with or without a batch"
            )
        return self.rescale(x) if batched else self.rescale(x.unsqueeze(0)).squeeze(0)

    def extra_repr(self) -> str:
        """Channels."""
        return f"{self.channels}"


def _per_channel(x: Tensor, scale: Tensor) -> Tensor:
    return x * scale.to(x.dtype).reshape(*scale.shape, *(1,) * (x.dim() - 2))


class SE(Gate):
    """Squeeze-and-excitation: x * sigmoid(W2 relu(W1 pool(x))).

    Example:
        >>> SE(32)(torch.randn(2, 32, 4, 4)).shape
        torch.Size([2, 32, 4, 4])
    """

    config_type = SEConfig

    def make(self, options: dict[str, Any]) -> None:
        """Create the two linear layers."""
        hidden = max(int(self.channels * self.config.reduction), 1)
        self.fc1 = nn.Linear(self.channels, hidden, bias=self.config.bias, **options)
        self.fc2 = nn.Linear(hidden, self.channels, bias=self.config.bias, **options)

    def rest(self) -> float:
        """A sigmoid at one half."""
        silence(self.fc2)
        return 1 / 2

    def rescale(self, x: Tensor) -> Tensor:
        """Scale every channel."""
        return _per_channel(x, self.fc2(F.relu(self.fc1(pool(x)))).sigmoid())

    def count_madds(self, size: Sequence[int]) -> Madds:
        """Multiply-adds on ``(B, C, *size)``: pooling, two linear layers, scaling."""
        return Madds(
            mixing=math.prod(size), attention=math.prod(size) + size[0] * 2 * self.channels * self.fc1.out_features
        )


class CBAM(Gate):
    """Channel attention from average and maximum, then spatial attention from average and maximum over channels.

    Example:
        >>> CBAM(32)(torch.randn(2, 32, 4, 4)).shape
        torch.Size([2, 32, 4, 4])
    """

    config_type = CBAMConfig

    def make(self, options: dict[str, Any]) -> None:
        """Create the shared linear layers and the spatial kernel."""
        hidden = max(int(self.channels * self.config.reduction), 1)
        self.fc1 = nn.Linear(self.channels, hidden, bias=self.config.bias, **options)
        self.fc2 = nn.Linear(hidden, self.channels, bias=self.config.bias, **options)
        size = self.config.kernel_size
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[self.dims - 1]
        self.spatial = convolution(2, 1, size, padding=size // 2, bias=False, **options)

    def rest(self) -> float:
        """Both sigmoids at one half."""
        silence(self.fc2, self.spatial)
        return 1 / 4

    def _hidden(self, pooled: Tensor) -> Tensor:
        return F.relu(self.fc1(pooled))

    def rescale(self, x: Tensor) -> Tensor:
        """Scale every channel (eq. 2), then every position (eq. 3)."""
        highest = x.amax(dim=tuple(range(2, x.dim())))
        x = _per_channel(x, (self.fc2(self._hidden(pool(x))) + self.fc2(self._hidden(highest))).sigmoid())
        along = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * self.spatial(along).sigmoid().to(x.dtype)

    def count_madds(self, size: Sequence[int]) -> Madds:
        """Multiply-adds on ``(B, C, *size)``: both poolings, linear layers twice, spatial convolution, two scalings."""
        values, positions = math.prod(size), size[0] * math.prod(size[2:])
        branch = size[0] * 4 * self.channels * self.fc1.out_features
        return Madds(mixing=2 * values, attention=2 * values + branch + positions * self.spatial.weight.numel())


class ECA(Gate):
    """x * sigmoid(conv1d(pool(x)) along the channels).

    Example:
        >>> ECA(32)(torch.randn(2, 32, 4, 4)).shape
        torch.Size([2, 32, 4, 4])
    """

    config_type = ECAConfig

    def make(self, options: dict[str, Any]) -> None:
        """Create the convolution along the channels."""
        size = self.config.kernel_size
        if size is None:  # the paper's eq. 12 with gamma = 2, b = 1
            size = int((math.log2(self.channels) + 1) / 2)
            size += 1 - size % 2
        self.along = nn.Conv1d(1, 1, size, padding=size // 2, bias=False, **options)

    def rest(self) -> float:
        """A sigmoid at one half."""
        silence(self.along)
        return 1 / 2

    def rescale(self, x: Tensor) -> Tensor:
        """Scale every channel."""
        return _per_channel(x, self.along(pool(x).unsqueeze(1)).squeeze(1).sigmoid())

    def count_madds(self, size: Sequence[int]) -> Madds:
        """Multiply-adds on ``(B, C, *size)``: pooling, convolution along channels, scaling."""
        branch = size[0] * self.channels * self.along.weight.numel()
        return Madds(mixing=math.prod(size), attention=math.prod(size) + branch)


class Gated(nn.Sequential):
    """A module with a gate behind it, in the module's place."""

    def __init__(self, body: nn.Module, gate: Gate) -> None:
        super().__init__(OrderedDict(body=body, gate=gate))
