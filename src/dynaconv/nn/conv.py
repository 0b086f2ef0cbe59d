"""The part of a dynamic N-d convolution that is torch.nn's: arguments, padding, unbatched input, bias."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynaconv.config import check_count
from dynaconv.errors import DynaconvError
from dynaconv.nn.base import DynamicLayer
from dynaconv.nn.prepared import OutputNorm, fold_output
from dynaconv.ops import Geometry
from dynaconv.ops.graphs import apart

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


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
        check_count("in_channels", in_channels)
        check_count("out_channels", out_channels)
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
            # Rounded up without negative numbers, which integer division in ONNX rounds to the other side.
            total = max(((n + s - 1) // s - 1) * s + d * (k - 1) + 1 - n, 0)
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
        """Convolve a batch, bias included, shape ``(B, C, *size)`` -> ``(B, O, *out)``.

        Layers that compute the norm behind them (``folds_norm``) take it as ``norm``, an
        :class:`~dynaconv.nn.prepared.OutputNorm` or None.
        """
        raise NotImplementedError

    def fold_output(self, scale: Tensor, shift: Tensor) -> OutputNorm:
        """Scale, and shift with the layer's bias."""
        return fold_output(scale, shift, self.bias)

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
        x = apart(x)
        norm = self.norm_for(x) if batched else None
        if norm is not None:
            return norm.marked(self.convolve(x, norm.output))  # pyright: ignore[reportCallIssue]
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
