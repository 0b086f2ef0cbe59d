"""Calls of the compiled kernels with tensors: sizes, tables and pointers."""

from __future__ import annotations

import ctypes
import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynaconv.ops.geometry import Geometry
from dynaconv.ops.layout import in_memory_order, paper_order
from dynaconv.ops.mixture import Mixture
from dynaconv.ops.native.build import library

_Three = ctypes.c_long * 3


class _Layer(ctypes.Structure):
    """``Layer`` of kernels.c."""

    _fields_ = (
        ("batch", ctypes.c_long),
        ("inputs", _Three),
        ("in_channels", ctypes.c_long),
        ("outputs", _Three),
        ("out_channels", ctypes.c_long),
        ("kernel", _Three),
        ("stride", _Three),
        ("padding", _Three),
        ("dilation", _Three),
        *((name, ctypes.c_long) for name in ("groups", "spatial", "out_blocks", "in_blocks", "cells", "whole")),
    )


def _pointers(*names: str) -> type[ctypes.Structure]:
    fields = tuple((name, ctypes.c_long if name.endswith("stride") else ctypes.c_void_p) for name in names)
    return type("Arguments", (ctypes.Structure,), {"_fields_": fields})


_Forward = _pointers(
    "x", "attention", "cells", "in_scale", "out_scale", "bias", "scale_stride", "bias_stride", "y", "table"
)
_Affine = _pointers("scale", "shift", "scale_stride", "shift_stride")
_Backward = _pointers("gradient", "attention", "cells", "in_scale", "result", "table", "order")
_Parameters = _pointers("x", "gradient", "attention", "cells", "in_scale", "attention_result", "cells_result", "table")


class _Walk(NamedTuple):
    """How a convolution goes over maps of one size: its sizes, and for every row of the result where it reads."""

    layer: _Layer
    out: tuple[int, ...]
    table: Tensor
    back_table: Tensor
    order: Tensor


_Sized = tuple[_Layer, _Walk]


def _three(values: tuple[int, ...], filler: int) -> ctypes.Array[ctypes.c_long]:
    return _Three(*(filler,) * (3 - len(values)), *values)


@functools.lru_cache(maxsize=1024)
def _walk(size: tuple[int, ...], geometry: Geometry) -> _Walk:
    out = geometry.output_size(size)
    layer = _Layer(
        inputs=_three(size, 1),
        outputs=_three(out, 1),
        kernel=_three(geometry.kernel_size, 1),
        stride=_three(geometry.stride, 1),
        padding=_three(geometry.padding, 0),
        dilation=_three(geometry.dilation, 1),
        groups=geometry.groups,
    )
    rows, pixels = torch.Size(out).numel(), torch.Size(size).numel()
    taps = geometry.positions
    kernels = _kernels()
    kernels.table_size.restype = ctypes.c_long
    forward, back = (
        torch.empty(kernels.table_size(ctypes.c_long(n), ctypes.c_long(taps)), dtype=torch.int64)
        for n in (rows, pixels)
    )
    order = torch.empty(pixels, dtype=torch.int64)
    kernels.forward_table(ctypes.byref(layer), _at(forward))
    kernels.backward_table(ctypes.byref(layer), _at(back), _at(order))
    return _Walk(layer, out, forward, back, order)


@functools.lru_cache(maxsize=4096)
def _sized(batch: int, size: tuple[int, ...], mixture: Mixture, channels: tuple[int, int], cells: int) -> _Sized:
    """The sizes of a layer on such a batch."""
    walk = _walk(size, mixture.geometry)
    layer = _Layer.from_buffer_copy(walk.layer)
    layer.batch, layer.in_channels, layer.out_channels = batch, *channels
    layer.spatial, layer.out_blocks, layer.in_blocks = mixture.grid
    layer.cells, layer.whole = cells, mixture.own_cells
    return layer, walk


def _kernels() -> ctypes.CDLL:
    found = library()
    assert found is not None, "ask supports() first"
    return found


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _call(name: str, like: Tensor, *arguments: Any) -> None:
    function = getattr(_kernels(), f"{name}_f32" if like.dtype == torch.float32 else f"{name}_f64")
    if function(*arguments, ctypes.c_int(torch.get_num_threads())):
        raise MemoryError(f"no memory for the scratch space of {name}")


def _stride(values: Tensor | None) -> int:
    """From one sample's values to the next's; 0 if they are one for all, ``(O,)``."""
    return values.shape[1] if values is not None and values.dim() == 2 else 0


def _last(x: Tensor) -> Tensor:
    """Channels last: ``(B, C, *size)`` -> ``(B, *size, C)``, contiguous; no copy for a channels-last tensor."""
    return x.movedim(1, -1).contiguous()


def _empty(like: Tensor, channels: int, size: tuple[int, ...]) -> Tensor:
    """Shape ``(B, channels, *size)``, channels last in memory, and nobody's view where PyTorch has a name for it."""
    shape = (like.shape[0], channels, *size)
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}.get(len(size))
    if layout is not None:
        return torch.empty(shape, dtype=like.dtype, memory_format=layout)
    return like.new_empty(shape[0], *size, channels).movedim(-1, 1)


def convolve(
    x: Tensor,
    attention: Tensor,
    cells: Tensor,
    mixture: Mixture,
    in_scale: Tensor | None = None,
    out_scale: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """The convolution of :func:`dynaconv.ops.mixture_conv`; channels last in memory."""
    batch, size, outputs = x.shape[0], tuple(x.shape[2:]), mixture.out_channels(cells)
    layer, walk = _sized(batch, size, mixture, (x.shape[1], outputs), cells.shape[0])
    y = _empty(x, outputs, walk.out)
    inputs, weights, stored = _last(x), attention.contiguous(), in_memory_order(cells)
    in_scale, out_scale, bias = (None if t is None else t.contiguous() for t in (in_scale, out_scale, bias))
    request = _Forward(
        x=inputs.data_ptr(),
        attention=weights.data_ptr(),
        cells=stored.data_ptr(),
        in_scale=_at(in_scale),
        out_scale=_at(out_scale),
        bias=_at(bias),
        scale_stride=_stride(out_scale),
        bias_stride=_stride(bias),
        y=y.data_ptr(),
        table=walk.table.data_ptr(),
    )
    _call("mixture_conv", x, ctypes.byref(layer), ctypes.byref(request))
    return y


def convolve_backward(
    gradient: Tensor,
    inputs: tuple[Tensor, Tensor, Tensor],
    needed: tuple[bool, bool, bool],
    mixture: Mixture,
    in_scale: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, attention and cells, each if needed; x may be scaled, by ``(B, C)``."""
    x, attention, cells = inputs
    batch, size = x.shape[0], tuple(x.shape[2:])
    layer, walk = _sized(batch, size, mixture, (x.shape[1], gradient.shape[1]), cells.shape[0])
    incoming, weights, stored = _last(gradient), attention.contiguous(), in_memory_order(cells)
    in_scale = None if in_scale is None else in_scale.contiguous()
    of_x = of_attention = of_cells = None
    if needed[0]:
        of_x = _empty(x, x.shape[1], size)
        request = _Backward(
            gradient=incoming.data_ptr(),
            attention=weights.data_ptr(),
            cells=stored.data_ptr(),
            in_scale=_at(in_scale),
            result=of_x.data_ptr(),
            table=walk.back_table.data_ptr(),
            order=walk.order.data_ptr(),
        )
        _call("mixture_conv_input", x, ctypes.byref(layer), ctypes.byref(request))
    if needed[1] or needed[2]:
        shares, result = x.new_zeros(torch.get_num_threads(), *attention.shape), torch.empty_like(stored)
        last = _last(x)
        request = _Parameters(
            x=last.data_ptr(),
            gradient=incoming.data_ptr(),
            attention=weights.data_ptr(),
            cells=stored.data_ptr(),
            in_scale=_at(in_scale),
            attention_result=shares.data_ptr(),
            cells_result=result.data_ptr(),
            table=walk.table.data_ptr(),
        )
        _call("mixture_conv_parameters", x, ctypes.byref(layer), ctypes.byref(request))
        of_attention, of_cells = shares.sum(dim=0), result.permute(paper_order(cells.dim()))
    return of_x, of_attention, of_cells


def channel_dots(a: Tensor, b: Tensor) -> Tensor:
    """Sum of ``a * b`` over positions, shape ``(B, C, *size)`` twice -> ``(B, C)``; no product is written out."""
    first, second = _last(a), _last(b)
    result = a.new_empty(a.shape[:2])
    sizes = (ctypes.c_long(n) for n in (a.shape[0], a.shape[2:].numel(), a.shape[1]))
    _call("channel_dots", a, *sizes, _at(first), _at(second), _at(result))
    return result


def depthwise(
    x: Tensor, kernels: Tensor, geometry: Geometry, scale: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """Convolve every channel of every sample with its own kernel.

    Args:
        x: shape ``(B, C, *size)``.
        kernels: shape ``(B, positions, C)``.
        geometry: with as many groups as channels.
        scale: factors of the output, shape ``(C,)`` or ``(B, C)``.
        shift: added to it then, shape ``(C,)`` or ``(B, C)``.

    Returns:
        Shape ``(B, C, *out)``, channels last in memory.
    """
    layer, walk = _sized(x.shape[0], tuple(x.shape[2:]), Mixture((1, 1, 1), geometry), (x.shape[1],) * 2, 1)
    y = _empty(x, x.shape[1], walk.out)
    last, stored = _last(x), kernels.contiguous()  # named, so that they live until the call is over
    scale, shift = (None if t is None else t.contiguous() for t in (scale, shift))
    after = _Affine(scale=_at(scale), shift=_at(shift), scale_stride=_stride(scale), shift_stride=_stride(shift))
    pointers = [_at(t) for t in (last, stored, walk.table, None)]
    rows, pixels = (ctypes.c_long(torch.Size(sizes).numel()) for sizes in (walk.out, x.shape[2:]))
    _call("depthwise", x, ctypes.byref(layer), *pointers, rows, pixels, ctypes.byref(after), _at(y))
    return y


def depthwise_backward(
    gradient: Tensor, x: Tensor, kernels: Tensor, geometry: Geometry, needed: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and kernels, each if needed."""
    layer, walk = _sized(x.shape[0], tuple(x.shape[2:]), Mixture((1, 1, 1), geometry), (x.shape[1],) * 2, 1)
    incoming, of_x, of_kernels = _last(gradient), None, None
    if needed[0]:
        of_x = _empty(x, x.shape[1], tuple(x.shape[2:]))
        stored = kernels.contiguous()
        pointers = [_at(t) for t in (incoming, stored, walk.back_table, walk.order)]
        rows, pixels = (ctypes.c_long(torch.Size(sizes).numel()) for sizes in (x.shape[2:], walk.out))
        _call("depthwise", x, ctypes.byref(layer), *pointers, rows, pixels, ctypes.byref(_Affine()), _at(of_x))
    if needed[1]:
        of_kernels, last = x.new_empty(kernels.shape), _last(x)
        pointers = (_at(last), _at(incoming), _at(walk.table), _at(of_kernels))
        _call("depthwise_kernels", x, ctypes.byref(layer), *pointers)
    return of_x, of_kernels
