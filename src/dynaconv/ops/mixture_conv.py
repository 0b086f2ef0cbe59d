"""Mixing and convolution together, in the order of products that costs least.

``kernels`` first: mix the cells to one kernel per sample, then convolve (KernelWarehouse as published).
``outputs`` first: apply all n cells as one static convolution, then mix the outputs per sample. Convolution is linear
in its kernel, so both are the same function; the second wins on small maps, where kernels outweigh outputs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dynaconv.ops.cost import cheapest_order
from dynaconv.ops.geometry import Geometry
from dynaconv.ops.mixing import assemble_kernels, mix_cells
from dynaconv.ops.per_sample_conv import per_sample_conv, static_conv

ORDERS = ("kernels", "outputs")


def mixture_conv(
    x: Tensor,
    attention: Tensor,
    cells: Tensor,
    grid: tuple[int, int, int],
    geometry: Geometry,
    *,
    order: str = "auto",
    backend: str = "auto",
) -> Tensor:
    """Convolve every sample with its own mixture of cells (KernelWarehouse, eq. 3).

    Args:
        x: shape ``(B, C, *size)``.
        attention: shape ``(B, m, n)``; mixtures ordered (spatial, out-block, in-block).
        cells: shape ``(n, C_out, C_in, *k)``.
        grid: (spatial, out-blocks, in-blocks) of the kernel.
        geometry: the convolution's sizes.
        order: ``"kernels"``, ``"outputs"`` or ``"auto"``.
        backend: of the per-sample convolution, see :func:`per_sample_conv`.

    Returns:
        Shape ``(B, O, *out)``.

    Raises:
        ValueError: if the order is unknown, or ``"outputs"`` is asked of a grouped convolution.
    """
    if order == "auto":
        order = cheapest_order(tuple(x.shape), tuple(cells.shape), grid, geometry)
    if order == "kernels":
        kernels = assemble_kernels(mix_cells(attention, cells), grid, geometry.kernel_size)
        return per_sample_conv(x, kernels, geometry, backend)
    if order != "outputs":
        raise ValueError(f"order {order!r} is not known; expected 'auto' or one of {ORDERS}")
    if geometry.groups != 1:
        raise ValueError(f"order 'outputs' does not do groups, got {geometry.groups}; use 'kernels'")
    return _outputs_first(x, attention, cells, grid, geometry)


def _outputs_first(
    x: Tensor, attention: Tensor, cells: Tensor, grid: tuple[int, int, int], geometry: Geometry
) -> Tensor:
    batch, num_cells, cell_out = x.shape[0], cells.shape[0], cells.shape[1]
    spatial, out_blocks, in_blocks = grid
    size, out = x.shape[2:], geometry.output_size(x.shape[2:])
    if geometry.is_pointwise:
        x = x[(..., *geometry.taps(size)[0])]
    applied = _apply_cells(x, cells, in_blocks, geometry, whole=spatial == 1)
    sizes = applied.shape[2:]
    weights = attention.reshape(batch, spatial, out_blocks, in_blocks, num_cells)
    weights = weights.reshape(batch, spatial * out_blocks, in_blocks * num_cells)
    mixed = torch.bmm(weights, applied.reshape(batch, in_blocks * num_cells, cell_out * math.prod(sizes)))
    mixed = mixed.reshape(batch, spatial, out_blocks * cell_out, *sizes)
    if spatial == 1:
        return mixed.reshape(batch, out_blocks * cell_out, *out)
    padding = [p for pad in reversed(geometry.padding) for p in (pad, pad)]
    total = None
    for part, tap in zip(mixed.unbind(1), geometry.taps(size), strict=True):
        shifted = F.pad(part, padding)[(..., *tap)]
        total = shifted if total is None else total + shifted
    assert total is not None  # a kernel has at least one position
    return total


def _apply_cells(x: Tensor, cells: Tensor, in_blocks: int, geometry: Geometry, *, whole: bool) -> Tensor:
    """Every cell on every in-block: shape ``(B * in_blocks, n * C_out, *size)``, as one static convolution."""
    weight = cells.flatten(0, 1)
    blocks = x.reshape(x.shape[0] * in_blocks, weight.shape[1], *x.shape[2:])
    if whole and not geometry.is_pointwise:
        return static_conv(blocks, weight, geometry)
    dims = len(geometry.kernel_size)
    ones = Geometry((1,) * dims, (1,) * dims, (0,) * dims, (1,) * dims)
    return static_conv(blocks, weight.reshape(*weight.shape[:2], *(1,) * dims), ones)


def mixture_linear(x: Tensor, attention: Tensor, cells: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """A linear layer whose matrix is each sample's own mixture of cells.

    Args:
        x: shape ``(B, T, C)``: sample, position, feature.
        attention: shape ``(B, m, n)``.
        cells: shape ``(n, C_out, C_in)``.
        grid: (1, out-blocks, in-blocks) of the matrix.

    Returns:
        Shape ``(B, T, O)``.
    """
    geometry = Geometry((1,), (1,), (0,), (1,))
    shape = (x.shape[0], x.shape[2], x.shape[1])
    if x.shape[1] and cheapest_order(shape, (*cells.shape, 1), grid, geometry) == "outputs":
        out = _outputs_first(x.transpose(1, 2), attention, cells.unsqueeze(-1), grid, geometry)
        return out.transpose(1, 2)
    kernels = assemble_kernels(mix_cells(attention, cells), grid, ())
    return torch.bmm(x, kernels.transpose(1, 2))
