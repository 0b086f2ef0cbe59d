"""Mixing and convolution together: the one place where a dynamic layer is computed.

An interface that handed out kernels would force B copies of them through memory. This one takes attention and cells,
and is free to choose the order of products, the backend, and what is kept for the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from dynaconv.ops import native
from dynaconv.ops.autotune import fastest
from dynaconv.ops.backends import pinned_backend
from dynaconv.ops.cost import cheapest_order, outputs_bytes
from dynaconv.ops.formulas import kernels_first, outputs_first
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.graph_forms import mixture_in_graph
from dynaconv.ops.graphs import choose_form, example_sizes, graph_target
from dynaconv.ops.mixture import Mixture
from dynaconv.ops.recompute import Computation, recomputed
from dynaconv.ops.triton_pointwise import available, pointwise_mixture_conv

LINEAR = Geometry((1,), (1,), (0,), (1,))


def mixture_conv(
    x: Tensor,
    attention: Tensor,
    cells: Tensor,
    mixture: Mixture,
    *,
    in_scale: Tensor | None = None,
    out_scale: Tensor | None = None,
    bias: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Convolve every sample with its own mixture of cells (KernelWarehouse, eq. 3).

    Args:
        x: shape ``(B, C, *size)``; any B, 0 included.
        attention: shape ``(B, m, n)``; mixtures ordered (spatial, out-block, in-block).
        cells: shape ``(n, C_out, C_in, *k)``.
        mixture: blocks of the kernel, and the convolution's sizes.
        in_scale: factors of the input, shape ``(B, C)``.
        out_scale: factors of the output, before the bias, shape ``(O,)`` or, a sample's own, ``(B, O)``.
        bias: shape ``(O,)`` or, one a sample, ``(B, O)``.
        backend: one of :data:`dynaconv.ops.BACKENDS`; the pinned one if not given, which gives way where it can not.

    Returns:
        Shape ``(B, O, *out)``.

    Raises:
        ValueError: if sizes do not fit, or the backend is unknown or can not do the layer.
    """
    mixture.check(x, attention, cells)
    chosen = _choose(x, attention, cells, mixture, backend)
    around = (in_scale, out_scale, bias)
    if chosen == "native" and all(t is None or t.dtype == x.dtype for t in around):
        depthwise = mixture.is_depthwise(cells)
        if not _learns(x, attention, cells, *around):
            if not depthwise:
                return native.convolve(x, attention, cells, mixture, *around)
            if in_scale is not None:
                x = x * _along_channels(in_scale, x)
            return native.depthwise_conv(x, mixture.kernels(attention, cells), mixture.geometry, out_scale, bias)
        if (in_scale is not None or out_scale is not None) and not depthwise and mixture.geometry.groups == 1:
            if out_scale is not None:
                out_scale = out_scale.expand(x.shape[0], -1)
            y = native.scaled_convolve(x, attention, cells, mixture, in_scale, out_scale)
            return y if bias is None else y + _along_channels(bias, y)
    if in_scale is not None:
        x = x * _along_channels(in_scale, x)
    target = graph_target()
    if target is not None and (backend or pinned_backend()) == "auto":
        kernel = (mixture.out_channels(cells), x.shape[1] // mixture.geometry.groups, *mixture.geometry.kernel_size)
        form = choose_form(target, kernel, mixture.geometry)
        return scale_and_shift(mixture_in_graph(x, attention, cells, mixture, form), out_scale, bias)
    return scale_and_shift(_convolve(x, attention, cells, mixture, chosen), out_scale, bias)


def scale_and_shift(y: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """Multiply channels, then add to them; in one pass where PyTorch has a fast one for the layout.

    Args:
        y: shape ``(B, O, *out)``.
        scale: factors, shape ``(O,)`` or ``(B, O)``.
        shift: what is added, shape ``(O,)`` or ``(B, O)``.
    """
    if scale is not None and shift is not None and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        if y.stride(1) == 1:
            return torch.addcmul(_along_channels(shift, y), y, _along_channels(scale, y))
        if scale.dim() == shift.dim() == 1 and scale.dtype == y.dtype:  # addcmul takes three times as long here
            return F.batch_norm(y, torch.zeros_like(scale), torch.ones_like(scale), scale, shift, eps=0.0)
    y = y if scale is None else y * _along_channels(scale, y)
    return y if shift is None else y + _along_channels(shift, y)


def mixture_linear(
    x: Tensor,
    attention: Tensor,
    cells: Tensor,
    grid: tuple[int, int, int],
    *,
    out_scale: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """A linear layer whose matrix is each sample's own mixture of cells: a point-wise convolution over positions.

    Args:
        x: shape ``(B, T, C)``: sample, position, feature.
        attention: shape ``(B, m, n)``.
        cells: shape ``(n, C_out, C_in)``.
        grid: (1, out-blocks, in-blocks) of the matrix.
        out_scale: factors of the output, before the bias, shape ``(O,)`` or, a sample's own, ``(B, O)``.
        bias: shape ``(O,)`` or, one a sample, ``(B, O)``.

    Returns:
        Shape ``(B, T, O)``.
    """
    mixture, cells = Mixture(grid, LINEAR), cells.unsqueeze(-1)
    y = mixture_conv(x.transpose(1, 2), attention, cells, mixture, out_scale=out_scale, bias=bias)
    return y.transpose(1, 2)


def _along_channels(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.dtype).reshape(*values.shape, *(1,) * (x.dim() - 2))


def _learns(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _choose(x: Tensor, attention: Tensor, cells: Tensor, mixture: Mixture, asked: str | None) -> str:
    """The backend that computes the layer: what was asked for, what is pinned, or what the shapes say."""
    wanted = asked or pinned_backend()
    possible = _possible(x, attention, cells, mixture)
    if wanted in possible or (asked == "triton" and _is_pointwise(mixture)):  # which says what it lacks
        return wanted
    if wanted not in ("auto", "autotune") and asked is not None:
        raise ValueError(
            f"backend {wanted!r} is not known, or can not do this layer here; expected one of {', '.join(possible)}"
        )
    if wanted == "autotune" and x.numel() and not torch.compiler.is_compiling():
        key = (tuple(x.shape), tuple(cells.shape), mixture, x.dtype, x.device.type, _learns(x, attention, cells))
        ways = {
            name: partial(_convolve, x, attention, cells, mixture, name)
            for name in possible
            if name not in ("textbook", "triton")
        }
        return fastest(key, ways, torch.cuda.synchronize if x.is_cuda else lambda: None)
    if "native" in possible:
        return "native"
    shape = example_sizes(x.shape)
    if "outputs" in possible and math.prod(shape) and cheapest_order(shape, tuple(cells.shape), mixture) == "outputs":
        return "outputs"
    return "kernels"


def _possible(x: Tensor, attention: Tensor, cells: Tensor, mixture: Mixture) -> list[str]:
    """Backends that can compute the layer."""
    names = ["textbook", "grouped", "loop", "matmul"]
    if mixture.geometry.groups == 1 and not mixture.own_cells:
        names.append("outputs")
    if not torch.compiler.is_compiling() and x.numel():
        if native.supports(x, attention, cells, mixture, _learns(x, attention, cells)):
            names.append("native")
    if _is_pointwise(mixture) and available(x):
        names.append("triton")
    return names


def _is_pointwise(mixture: Mixture) -> bool:
    """Whether the Triton kernel is meant for such a layer."""
    geometry = mixture.geometry
    return geometry.is_pointwise and geometry.groups == 1 and not mixture.own_cells and mixture.grid[0] == 1


def _convolve(x: Tensor, attention: Tensor, cells: Tensor, mixture: Mixture, chosen: str) -> Tensor:
    if chosen == "textbook":
        return kernels_first(x, attention, cells, mixture, "grouped")
    if chosen == "triton":
        return pointwise_mixture_conv(x[(..., *mixture.geometry.taps(x.shape[2:])[0])], attention, cells, mixture.grid)
    if chosen == "native" and mixture.is_depthwise(cells):
        return native.depthwise_conv(x, mixture.kernels(attention, cells), mixture.geometry)
    return recomputed(_computation(x, cells, mixture, chosen), x, attention, cells)


def _computation(x: Tensor, cells: Tensor, mixture: Mixture, chosen: str) -> Computation:
    formula: Callable[[Tensor, Tensor, Tensor], Tensor]
    if chosen == "outputs":
        taken = outputs_bytes(tuple(x.shape), tuple(cells.shape), mixture, x.element_size())
        return Computation(partial(outputs_first, mixture=mixture), taken)
    backend = "auto" if chosen in ("kernels", "native") else chosen
    formula = partial(kernels_first, mixture=mixture, backend=backend)
    taken = 2 * mixture.kernel_elements(cells) * x.element_size()
    if chosen != "native":
        return Computation(formula, taken)
    forward = partial(native.convolve, mixture=mixture)
    return Computation(formula, taken, forward, partial(native.convolve_backward, mixture=mixture))
