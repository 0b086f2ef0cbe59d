"""A mixture's convolution in PyTorch's own operators, differentiable any number of times, on any device.

``kernels`` first: mix the cells to one kernel per sample, then convolve (KernelWarehouse as published).
``outputs`` first: apply all n cells as one static convolution, then mix the outputs per sample. Convolution is linear
in its kernel, so both are the same function; the second wins on small maps, where kernels outweigh outputs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dynaconv.ops.geometry import Geometry
from dynaconv.ops.mixture import Mixture
from dynaconv.ops.per_sample_conv import per_sample_conv, static_conv


def kernels_first(x: Tensor, attention: Tensor, cells: Tensor, mixture: Mixture, backend: str) -> Tensor:
    """Mix every sample's kernel, then convolve with it by a backend of :func:`per_sample_conv`."""
    return per_sample_conv(x, mixture.kernels(attention, cells), mixture.geometry, backend)


def outputs_first(x: Tensor, attention: Tensor, cells: Tensor, mixture: Mixture) -> Tensor:
    """Apply every cell, then mix; no groups, and cells that the blocks of the kernel share."""
    geometry = mixture.geometry
    batch, num_cells, cell_out = x.shape[0], cells.shape[0], cells.shape[1]
    spatial, out_blocks, in_blocks = mixture.grid
    size, out = x.shape[2:], geometry.output_size(x.shape[2:])
    if geometry.is_pointwise:
        x = x[(..., *geometry.taps(size)[0])]
    applied = _apply_cells(x, cells, in_blocks, geometry, whole=spatial == 1)
    sizes = applied.shape[2:]
    # Outputs come first, as they lie in the cells; mixing wants the cells of every in-block in one dimension.
    applied = applied.reshape(batch, in_blocks, cell_out, num_cells, math.prod(sizes)).transpose(2, 3)
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
    """Every cell on every in-block: shape ``(B * in_blocks, C_out * n, *size)``, as one static convolution."""
    weight = cells.transpose(0, 1).flatten(0, 1)  # no copy: cells lie so
    blocks = x.reshape(x.shape[0] * in_blocks, weight.shape[1], *x.shape[2:])
    if whole and not geometry.is_pointwise:
        return static_conv(blocks, weight, geometry)
    dims = len(geometry.kernel_size)
    ones = Geometry((1,) * dims, (1,) * dims, (0,) * dims, (1,) * dims)
    return static_conv(blocks, weight.reshape(*weight.shape[:2], *(1,) * dims), ones)
