"""How cells lie in memory: output, cell, position, input - whatever the order in which a checkpoint shows them.

A product of attention and cells reads, for one output, all cells side by side, and writes a row of the kernel as a
channels-last convolution wants it. So a parameter of logical shape ``(n, C_out, C_in, *k)`` gets the strides of
``(C_out, n, *k, C_in)``: stored once, in the layout of the work, and presented in that of the papers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def memory_order(dims: int) -> tuple[int, ...]:
    """Permutation from ``(n, C_out, C_in, *k)`` to ``(C_out, n, *k, C_in)``, for that many dimensions."""
    return (1, 0, *range(3, dims), 2)


def paper_order(dims: int) -> tuple[int, ...]:
    """The way back: from ``(C_out, n, *k, C_in)`` to ``(n, C_out, C_in, *k)``."""
    return (1, 0, dims - 1, *range(2, dims - 1))


def empty_cells(*shape: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised tensor of that shape ``(n, C_out, C_in, *k)`` in memory order.

    Example:
        >>> empty_cells(5, 8, 4, 1, 1).stride()
        (4, 20, 1, 4, 4)
    """
    order = memory_order(len(shape))
    return torch.empty([shape[i] for i in order], device=device, dtype=dtype).permute(paper_order(len(shape)))


def in_memory_order(cells: Tensor) -> Tensor:
    """Cells ``(n, C_out, C_in, *k)`` as a contiguous ``(C_out, n, *k, C_in)``: no copy if they lie so."""
    return cells.permute(memory_order(cells.dim())).contiguous()


def keeping_layout(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A function for ``nn.Module._apply`` that changes device and dtype of cells, and leaves their strides alone.

    Cells have a dimension more than a kernel: a memory format that is meant for kernels would fail on them or
    shuffle them, so the function sees them flat.
    """

    def apply(cells: Tensor) -> Tensor:
        if hasattr(cells, "device_mesh"):  # a DTensor, divided among processes: it can not be flattened
            return fn(cells)
        if cells.is_contiguous():
            return fn(cells.flatten()).view(cells.shape)
        stored = cells.permute(memory_order(cells.dim()))
        return fn(stored.flatten()).view(stored.shape).permute(paper_order(cells.dim()))

    return apply
