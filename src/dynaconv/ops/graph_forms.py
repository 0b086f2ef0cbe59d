"""Mixing cells in a traced graph, so that kernels come out as its form of the convolution wants them.

See :mod:`dynaconv.ops.graphs` for the forms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynaconv.ops.graphs import copied
from dynaconv.ops.mixture import Mixture
from dynaconv.ops.patches import convolve_patches
from dynaconv.ops.per_sample_conv import conv_in_graph


def mixture_in_graph(x: Tensor, attention: Tensor, cells: Tensor, mixture: Mixture, form: str) -> Tensor:
    """:func:`dynaconv.ops.mixture_conv` in a form, shape ``(B, O, *out)``."""
    if form == "conv":
        return conv_in_graph(x, _whole_kernels(attention, cells, mixture), mixture.geometry, form)
    rows, position_first = kernel_rows(attention, cells, mixture)
    return convolve_patches(x, rows, mixture.geometry, position_first)


def kernel_rows(attention: Tensor, cells: Tensor, mixture: Mixture) -> tuple[Tensor, bool]:
    """Every sample's kernel, ``(B, O, elements)``, and whether positions come before channels in it."""
    spatial, out_blocks, in_blocks = mixture.grid
    batch, count, positions = attention.shape[0], cells.shape[0], mixture.geometry.positions
    outer, inner = cells.shape[1:3]
    blocks = attention.reshape(batch, spatial, out_blocks, in_blocks, count)
    if not mixture.own_cells:
        mixed = torch.mm(blocks.reshape(-1, count), cells.reshape(count, -1))
        if spatial == 1 and out_blocks * in_blocks == 1:
            return mixed.reshape(batch, outer, inner * positions), False
        mixed = mixed.reshape(batch, spatial, out_blocks, in_blocks, outer, -1)  # ends with positions if spatial is 1
        mixed = copied(mixed.permute(0, 2, 4, 1, 3, 5))
        return mixed.reshape(batch, out_blocks * outer, in_blocks * inner * positions), spatial > 1
    mixed = copied(_mix_own_cells(attention, cells, mixture).permute(3, 1, 4, 0, 2, 5))
    return mixed.reshape(batch, outer, inner * positions), True


def _mix_own_cells(attention: Tensor, cells: Tensor, mixture: Mixture) -> Tensor:
    """Mix cells as large as the kernel, ``(positions, P, Q, B, O / P, C / Q)``: a product for every position and block.

    What :func:`dynaconv.ops.mixing.mix_own_cells` has as an einsum, which runtimes compute number by number.
    """
    spatial, out_blocks, in_blocks = mixture.grid
    batch, count, positions = attention.shape[0], cells.shape[0], mixture.geometry.positions
    outer, inner = cells.shape[1] // out_blocks, cells.shape[2] // in_blocks
    parts = cells.reshape(count, out_blocks, outer, in_blocks, inner, positions)
    parts = parts.permute(5, 1, 3, 0, 2, 4).reshape(-1, count, outer * inner)
    blocks = attention.reshape(batch, spatial, out_blocks, in_blocks, count)
    weights = copied(blocks.permute(1, 2, 3, 0, 4).expand(positions, -1, -1, -1, -1))
    mixed = torch.bmm(weights.reshape(-1, batch, count), parts)
    return mixed.reshape(positions, out_blocks, in_blocks, batch, outer, inner)


def _whole_kernels(attention: Tensor, cells: Tensor, mixture: Mixture) -> Tensor:
    """Every sample's kernel as a convolution wants it, ``(B, O, C / groups, *k)``."""
    spatial, out_blocks, in_blocks = mixture.grid
    batch, count = attention.shape[0], cells.shape[0]
    outer, inner = cells.shape[1:3]
    if mixture.own_cells:
        mixed = copied(_mix_own_cells(attention, cells, mixture).permute(3, 1, 4, 2, 5, 0))
        return mixed.reshape(batch, outer, inner, *mixture.geometry.kernel_size)
    if spatial == 1:
        return mixture.kernels(attention, cells)
    # Cells on the left, transposed beforehand: positions come last, and nothing is moved afterwards.
    weights = attention.reshape(batch, spatial, out_blocks * in_blocks, count).permute(0, 2, 3, 1)
    mixed = torch.matmul(cells.reshape(count, outer * inner).t(), weights)
    mixed = mixed.reshape(batch, out_blocks, in_blocks, outer, inner, spatial)
    if in_blocks > 1:
        mixed = mixed.transpose(2, 3)
    return mixed.reshape(batch, out_blocks * outer, in_blocks * inner, *mixture.geometry.kernel_size)
