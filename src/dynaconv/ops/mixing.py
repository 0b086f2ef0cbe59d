"""Attention times cells: one kernel per sample (KernelWarehouse, arXiv 2406.07879, eq. 3).

Shapes: B samples, m mixtures = S spatial x P out-blocks x Q in-blocks, n cells of shape (o, c, *k).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def mix_cells(attention: Tensor, cells: Tensor) -> Tensor:
    """Mix shared cells into the parts of one kernel per sample.

    Args:
        attention: weights, shape ``(B, m, n)``. Signed; rows need not sum to one.
        cells: warehouse cells, shape ``(n, C_out, C_in, *k)``.

    Returns:
        Shape ``(B, m, C_out, C_in, *k)``.

    Raises:
        ValueError: if the two cell counts ``n`` differ.

    Cost: ``B * m * n * numel(cell)`` multiply-adds.
    """
    if attention.shape[-1] != cells.shape[0]:
        raise ValueError(f"attention is over {attention.shape[-1]} cells, but the warehouse holds {cells.shape[0]}")
    mixed = torch.mm(attention.reshape(-1, cells.shape[0]), cells.reshape(cells.shape[0], -1))
    return mixed.reshape(*attention.shape[:-1], *cells.shape[1:])


def assemble_kernels(mixed: Tensor, grid: tuple[int, int, int], kernel_size: Sequence[int]) -> Tensor:
    """Put mixtures, ordered (spatial, out-block, in-block), into their places in the kernel.

    Args:
        mixed: shape ``(B, m, C_out, C_in, *k)``; either ``k`` is 1 everywhere or it is the whole kernel.
        grid: (S, P, Q) with S * P * Q = m.
        kernel_size: spatial sizes of the kernel.

    Returns:
        Shape ``(B, P * C_out, Q * C_in, *kernel_size)``.
    """
    batch, _, out_channels, in_channels, *cell_kernel = mixed.shape
    spatial, out_blocks, in_blocks = grid
    parts = mixed.reshape(batch, spatial, out_blocks, in_blocks, out_channels, in_channels, math.prod(cell_kernel))
    return parts.permute(0, 2, 4, 3, 5, 1, 6).reshape(
        batch, out_blocks * out_channels, in_blocks * in_channels, *kernel_size
    )


def cut_kernel(kernel: Tensor, grid: tuple[int, int, int], cell_shape: Sequence[int]) -> Tensor:
    """Cut a kernel into blocks of a cell's size, ordered (spatial, out-block, in-block), as mixtures are.

    Args:
        kernel: shape ``(P * C_out, Q * C_in, *kernel_size)``.
        grid: (S, P, Q).
        cell_shape: ``(C_out, C_in, *k)``.

    Returns:
        Shape ``(S * P * Q, C_out, C_in, *k)``.
    """
    spatial, out_blocks, in_blocks = grid
    parts = kernel.reshape(out_blocks, cell_shape[0], in_blocks, cell_shape[1], spatial, -1)
    return parts.permute(4, 0, 2, 1, 3, 5).reshape(-1, *cell_shape)


def mix_own_cells(attention: Tensor, cells: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Mix cells as large as the kernel, every block of the kernel with weights of its own.

    Args:
        attention: shape ``(B, m, n)``; blocks ordered (spatial, out-block, in-block).
        cells: shape ``(n, O, C, *k)``.
        grid: (S, P, Q) with S * P * Q = m; S is 1 or all positions of the kernel.

    Returns:
        Shape ``(B, O, C, *k)``.
    """
    spatial, out_blocks, in_blocks = grid
    count, outputs, inputs, *kernel_size = cells.shape
    shape = (count, out_blocks, outputs // out_blocks, in_blocks, inputs // in_blocks, spatial, -1)
    weights = attention.reshape(-1, spatial, out_blocks, in_blocks, count)
    mixed = torch.einsum("bspqn,npoqcst->bpoqcst", weights, cells.reshape(shape))
    return mixed.reshape(-1, outputs, inputs, *kernel_size)
