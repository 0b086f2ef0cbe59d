"""Shape-only cost model: which order of products and which backend to use.

Counts are multiply-adds a sample; the constants fit what ``benchmarks/orders.py`` measured on two CPU cores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dynaconv.ops.geometry import Geometry
from dynaconv.ops.mixture import Mixture


@dataclass(frozen=True)
class Madds:
    """Multiply-adds of a dynamic layer on one batch; one multiply and one add count as one.

    Args:
        convolution: of the convolution with the kernels.
        mixing: of making the kernels, or of scaling input and output in their place.
        attention: of the branch, its pooling included.
        kernel_elements: numbers in the kernels that are made for this batch.
    """

    convolution: int = 0
    mixing: int = 0
    attention: int = 0
    kernel_elements: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.convolution + self.mixing + self.attention


CONV_BACKENDS = ("grouped", "loop", "matmul")
SMALL_KERNEL = 64 * 64 * 9  # elements up to which one grouped convolution beats a convolution a sample
OUTPUTS_HEAD_START = 2.2  # a multiply-add of a static convolution costs less than one of mixing and moving kernels


def kernels_first_madds(x: Sequence[int], cells: Sequence[int], mixture: Mixture) -> int:
    """Multiply-adds a sample of mixing the kernel, then convolving."""
    out = math.prod(mixture.geometry.output_size(x[2:]))
    kernel = math.prod(cells[1:]) * (1 if mixture.own_cells else math.prod(mixture.grid))
    return cells[0] * kernel + kernel * out


def outputs_first_madds(x: Sequence[int], cells: Sequence[int], mixture: Mixture) -> int:
    """Multiply-adds a sample of applying every cell, then mixing the outputs."""
    spatial, out_blocks, in_blocks = mixture.grid
    applied_at = math.prod(mixture.geometry.output_size(x[2:]) if spatial == 1 else x[2:])
    apply = cells[0] * math.prod(cells[1:]) * in_blocks * applied_at
    return apply + spatial * out_blocks * in_blocks * cells[0] * cells[1] * applied_at


def outputs_bytes(x: Sequence[int], cells: Sequence[int], mixture: Mixture, item_size: int) -> int:
    """What applying every cell makes for a sample before it is mixed."""
    spatial, out_blocks, in_blocks = mixture.grid
    applied_at = math.prod(mixture.geometry.output_size(x[2:]) if spatial == 1 else x[2:])
    return (cells[0] * in_blocks + spatial * out_blocks) * cells[1] * applied_at * item_size


def cheapest_order(x: Sequence[int], cells: Sequence[int], mixture: Mixture) -> str:
    """``"kernels"`` or ``"outputs"``, whichever should take less time in PyTorch's operators.

    Grouped layers mix kernels. The compiled kernels need no such choice: they were faster on every shape measured,
    down to maps of one position, where mixing takes nine times the multiply-adds (``benchmarks/orders.py``).
    """
    if mixture.geometry.groups != 1 or mixture.own_cells:
        return "kernels"
    outputs = outputs_first_madds(x, cells, mixture)
    return "outputs" if outputs < OUTPUTS_HEAD_START * kernels_first_madds(x, cells, mixture) else "kernels"


def cheapest_conv_backend(x: Sequence[int], kernels: Sequence[int], geometry: Geometry) -> str:
    """Backend of the per-sample convolution for an input and kernels of these shapes."""
    if x[0] == 1 or geometry.groups != 1:
        return "grouped"
    if geometry.is_pointwise:
        return "matmul"
    return "grouped" if math.prod(kernels[1:]) <= SMALL_KERNEL else "loop"
