"""What every dynamic layer is: a layer with nn.ConvNd's (or nn.Linear's) signature, and a temperature."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynaconv.errors import DynaconvError, LostWarehouseError
from dynaconv.nn.warehouse import Warehouse, Warehouses
from dynaconv.ops import Geometry, Madds
from dynaconv.planning import LayerSpec

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


class TemperedBranch(nn.Module):
    """An attention branch with a temperature: a buffer, saved with the weights.

    Subclasses set the ends of its schedule.
    """

    temperature: Tensor
    coldest: float
    hottest: float

    def register_temperature(self, value: float, device: torch.device | str | None) -> None:
        """Add the buffer."""
        self.register_buffer("temperature", torch.full((), value, device=device))

    def set_temperature(self, value: float) -> None:
        """Set the temperature.

        Raises:
            DynaconvError: if it is out of the method's range.
        """
        if not self.coldest <= value <= self.hottest:
            raise DynaconvError(
                f"temperature {value!r} is out of range; expected {self.coldest:g} to {self.hottest:g} for "
                f"{type(self).__name__}"
            )
        self.temperature.fill_(value)


class DynamicLayer(nn.Module):
    """Base of every layer that depends on its input in another way than through its static weights alone."""

    config: Any  # the config class of the method

    @property
    def layer_name(self) -> str:
        """Name of the layer in the network it was made for."""
        return "<its name>"

    def __getattr__(self, name: str) -> Any:
        """Say why there is no ``weight``, for parents that read their children's (some timm attention blocks)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name != "weight":
                raise
        raise AttributeError(
            f"{type(self).__name__} has no static weight: its kernel depends on the input. "
            f"If another module reads this layer's weight, leave the layer static: where='!{self.layer_name}'"
        )

    @classmethod
    def refuses(cls, spec: LayerSpec, config: Any) -> str | None:
        """Why the method can not, or by its paper should not, take the place of such a layer; None if it does."""
        return None

    def borrowed_parts(self) -> dict[str, nn.Module]:
        """Modules that this layer shares with others and does not own, by name."""
        return {}

    def count_madds(self, size: Sequence[int]) -> Madds:
        """Multiply-adds of the method's formula, as its paper writes it, whatever the order they run in here.

        Args:
            size: shape of the input, batch first.
        """
        raise NotImplementedError

    def _tempered(self) -> TemperedBranch | None:
        return next((child for child in self.children() if isinstance(child, TemperedBranch)), None)

    def set_temperature(self, value: float) -> None:
        """Set the temperature of this layer's attention; a layer without one is left as it is."""
        branch = self._tempered()
        if branch is not None:
            branch.set_temperature(value)

    def get_temperature(self) -> float | None:
        """The temperature of this layer's attention; None if it has none."""
        branch = self._tempered()
        return None if branch is None else float(branch.temperature)

    def temperature_at(self, progress: float) -> float | None:
        """The method's schedule: temperature after a share (0 to 1) of its length; None without one."""
        return self.config.temperature(progress)


def pool(x: Tensor) -> Tensor:
    """Average over all positions, shape ``(B, C, *size)`` -> ``(B, C)``."""
    return x.mean(dim=tuple(range(2, x.dim())))


def dynamic_layers(model: nn.Module) -> Iterator[DynamicLayer]:
    """Every dynamic layer of a network, each once, in module order."""
    return (module for module in model.modules() if isinstance(module, DynamicLayer))


def _borrowed(model: nn.Module) -> dict[str, nn.Module]:
    """Shared parts that a network's layers draw on and that it does not own, by name."""
    owned = {id(module) for module in model.modules()}
    layers = () if isinstance(model, DynamicLayer) else dynamic_layers(model)
    return {name: part for layer in layers for name, part in layer.borrowed_parts().items() if id(part) not in owned}


def check_linked(model: nn.Module) -> None:
    """Check that a network owns the cells that its layers draw on, so that they are trained, moved and saved with it.

    Raises:
        LostWarehouseError: if it does not: it was built from parts of a converted network.
    """
    lost = sorted(_borrowed(model))
    if lost:
        raise LostWarehouseError(
            f"{type(model).__name__} has layers of a converted network without the warehouses {lost} that they share: "
            "their cells would be neither trained nor saved. Convert after taking a network apart, or call "
            "dynaconv.relink(model)"
        )


def relink(model: nn.Module) -> nn.Module:
    """Give a network the shared cells that its layers draw on, after it was built from parts of a converted one.

    Returns:
        The same network, with a member ``warehouses``.

    Raises:
        DynaconvError: if it has a member of that name already.
    """
    lost = _borrowed(model)
    if lost:
        if hasattr(model, "warehouses"):
            raise DynaconvError(f"{type(model).__name__} has an attribute 'warehouses' already; rename it first")
        model.add_module("warehouses", Warehouses({n: p for n, p in lost.items() if isinstance(p, Warehouse)}))
    return model


def set_temperature(model: nn.Module, value: float) -> None:
    """Set the temperature of every dynamic layer. A network without any is left as it is.

    Args:
        model: a network, converted or not; wrappers such as DDP or ``torch.compile`` are fine.
        value: KernelWarehouse: tau, from 1 (the assignment alone) to 0 (the attention alone); DY-Conv and ODConv: the
            divisor of the logits, from 30 to 1. Methods without temperature are left as they are.

    Raises:
        DynaconvError: if the value is outside the method's range.
        LostWarehouseError: if the network was taken apart and its shared cells were left behind.
    """
    check_linked(model)
    for layer in dynamic_layers(model):
        layer.set_temperature(value)


def get_temperature(model: nn.Module) -> float | None:
    """The temperature of a network's dynamic layers (of the first, should they differ); None without any."""
    return next((t for layer in dynamic_layers(model) if (t := layer.get_temperature()) is not None), None)


def temperature_at(model: nn.Module, progress: float) -> float | None:
    """What the network's method schedules after a share (0 to 1) of the schedule; None for a static network."""
    return next((t for layer in dynamic_layers(model) if (t := layer.temperature_at(progress)) is not None), None)


def schedule_temperature(model: nn.Module, progress: float) -> float | None:
    """Set every dynamic layer to its own method's schedule, so that a network may mix methods.

    Args:
        model: a network, converted or not.
        progress: share of the schedule that has passed, 0 to 1.

    Returns:
        The temperature of the first layer that has one, or None.

    Raises:
        LostWarehouseError: if the network was taken apart and its shared cells were left behind.
    """
    check_linked(model)
    for layer in dynamic_layers(model):
        value = layer.temperature_at(progress)
        if value is not None:
            layer.set_temperature(value)
    return temperature_at(model, progress)


def _per_dimension(name: str, value: int | Sequence[int], dims: int, minimum: int) -> tuple[int, ...]:
    values = (value,) * dims if isinstance(value, int) else tuple(value)
    if len(values) != dims or any(not isinstance(v, int) or v < minimum for v in values):
        raise DynaconvError(f"{name}={value!r}; expected a whole number of at least {minimum}, or {dims} of them")
    return values


class DynamicConvNd(DynamicLayer):
    """The part of a dynamic N-d convolution that is nn.ConvNd's: arguments, padding, unbatched input, bias.

    Beyond nn.ConvNd, ``padding="same"`` also takes strides: the output has ceil(size / stride) positions, as in
    TensorFlow. Subclasses set ``dims`` and implement :meth:`convolve`.
    """

    dims: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise DynaconvError(
                f"groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}"
            )
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise DynaconvError(f"padding_mode={padding_mode!r}; expected zeros, reflect, replicate or circular")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _per_dimension("kernel_size", kernel_size, self.dims, 1)
        self.stride = _per_dimension("stride", stride, self.dims, 1)
        self.dilation = _per_dimension("dilation", dilation, self.dims, 1)
        self.padding = padding if isinstance(padding, str) else _per_dimension("padding", padding, self.dims, 0)
        self.groups = groups
        self.padding_mode = padding_mode
        self.transposed = False
        self.output_padding = (0,) * self.dims
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(out_channels, device=device, dtype=dtype)) if bias else None
        )
        self._fits_size = padding == "same" and any(step != 1 for step in self.stride)
        self._edges, inner = self._split_padding()
        self.geometry = Geometry(self.kernel_size, self.stride, inner, self.dilation, groups)

    def _split_padding(self) -> tuple[list[int] | None, tuple[int, ...]]:
        """Padding that is laid on before the convolution (as F.pad wants it, or None), and inside it."""
        if self._fits_size:
            return [], (0,) * self.dims
        before, after = self._padding_sides()
        if self.padding_mode == "zeros" and before == after:
            return None, before
        if not any(before) and not any(after):
            return None, before
        edges = [p for sides in zip(reversed(before), reversed(after), strict=True) for p in sides]
        return edges, (0,) * self.dims

    def _padding_sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if not isinstance(self.padding, str):
            return self.padding, self.padding
        if self.padding == "valid":
            return (0,) * self.dims, (0,) * self.dims
        if self.padding != "same":
            raise DynaconvError(f"padding={self.padding!r}; expected 'same', 'valid' or whole numbers")
        total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)

    def _fitting_edges(self, size: Sequence[int]) -> list[int]:
        """Edges (as F.pad wants them) with which an input of that size gives ceil(size / stride) positions."""
        edges = []
        for n, k, s, d in zip(size, self.kernel_size, self.stride, self.dilation, strict=True):
            total = max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            edges = [total // 2, total - total // 2, *edges]
        return edges

    def pad(self, x: Tensor) -> Tensor:
        """Lay on the padding that the convolution itself can not."""
        if self._edges is None:
            return x
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x, self._fitting_edges(x.shape[2:]) if self._fits_size else self._edges, mode=mode)

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Spatial sizes of the output for those of the input."""
        edges = self._fitting_edges(size) if self._fits_size else self._edges or [0, 0] * self.dims
        padded = [n + edges[-2 * i - 2] + edges[-2 * i - 1] for i, n in enumerate(size)]
        return self.geometry.output_size(padded)

    def convolve(self, x: Tensor) -> Tensor:
        """Convolve a batch, bias included, shape ``(B, C, *size)`` -> ``(B, O, *out)``."""
        raise NotImplementedError

    def add_bias(self, y: Tensor, bias: Tensor | None) -> Tensor:
        """Add a bias of shape ``(O,)`` or, one a sample, ``(B, O)`` to an output ``(B, O, *out)``."""
        return y if bias is None else y + bias.to(y.dtype).reshape(*bias.shape, *(1,) * self.dims)

    def adopt_bias(self, bias: nn.Parameter) -> None:
        """Take over the bias of the static layer that this one replaces."""
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Convolve.

        Args:
            x: shape ``(B, C, *size)`` or, unbatched, ``(C, *size)``.

        Returns:
            Shape ``(B, O, *out)`` or ``(O, *out)``.

        Raises:
            DynaconvError: if dimensions or channels do not fit.
        """
        batched = x.dim() == self.dims + 2
        if not batched and x.dim() != self.dims + 1:
            raise DynaconvError(
                f"{type(self).__name__} got input of shape {tuple(x.shape)}; expected {self.dims + 2} dimensions "
                f"(batch, channels, {self.dims} spatial) or {self.dims + 1} without the batch"
            )
        if not batched:
            x = x.unsqueeze(0)
        if x.shape[1] != self.in_channels:
            raise DynaconvError(f"{type(self).__name__} got {x.shape[1]} channels; expected {self.in_channels}")
        self._check_size(x)
        y = self.convolve(x)
        return y if batched else y.squeeze(0)

    def _check_size(self, x: Tensor) -> None:
        """Refuse inputs that the kernel does not fit in, as nn.ConvNd does."""
        if self._fits_size:
            return
        before, after = self._padding_sides()
        for n, k, d, p, q in zip(x.shape[2:], self.kernel_size, self.dilation, before, after, strict=True):
            if n + p + q < d * (k - 1) + 1:
                raise DynaconvError(
                    f"{type(self).__name__} got input of spatial size {tuple(x.shape[2:])}, padded by {before} and "
                    f"{after}; a kernel of {self.kernel_size} with dilation {self.dilation} needs at least "
                    f"{tuple(d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True))}"
                )

    def convolution_madds(self, size: Sequence[int]) -> int:
        """Multiply-adds of the convolution itself, for an input of shape ``(B, C, *size)``."""
        kernel = self.out_channels * (self.in_channels // self.groups) * self.geometry.positions
        return size[0] * kernel * math.prod(self.output_size(size[2:]))

    def extra_repr(self) -> str:
        """Arguments, as nn.ConvNd shows them."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"]
        if self.padding not in ((0,) * self.dims, "valid"):
            parts.append(f"padding={self.padding}")
        if any(d != 1 for d in self.dilation):
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)
