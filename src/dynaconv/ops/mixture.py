"""How input, attention and cells of a layer belong together: the part of a call that is no tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from dynaconv.ops.geometry import Geometry
from dynaconv.ops.mixing import assemble_kernels, mix_cells, mix_own_cells


@dataclass(frozen=True)
class Mixture:
    """Blocks of a kernel and the geometry of its convolution.

    Args:
        grid: (spatial, out-blocks, in-blocks) of the kernel.
        geometry: the convolution's sizes.
        own_cells: whether cells are as large as the kernel, of which every block then has its own part; else all
            blocks share cells as large as one of them.
    """

    grid: tuple[int, int, int]
    geometry: Geometry
    own_cells: bool = False

    def out_channels(self, cells: Tensor) -> int:
        """Channels of the output."""
        return cells.shape[1] * (1 if self.own_cells else self.grid[1])

    def kernel_elements(self, cells: Tensor) -> int:
        """Numbers in one sample's kernel."""
        return math.prod(cells.shape[1:]) * (1 if self.own_cells else math.prod(self.grid))

    def is_depthwise(self, cells: Tensor) -> bool:
        """Whether every channel has one kernel of its own."""
        channels = cells.shape[2] * (1 if self.own_cells else self.grid[2])
        return channels == 1 and self.geometry.groups == self.out_channels(cells)

    def kernels(self, attention: Tensor, cells: Tensor) -> Tensor:
        """The kernel of every sample, shape ``(B, O, C / groups, *k)``."""
        if self.own_cells:
            return mix_own_cells(attention, cells, self.grid)
        return assemble_kernels(mix_cells(attention, cells), self.grid, self.geometry.kernel_size)

    def check(self, x: Tensor, attention: Tensor, cells: Tensor) -> None:
        """Refuse tensors that do not fit each other.

        Raises:
            ValueError: which says what does not.
        """
        blocks = math.prod(self.grid)
        if attention.shape[-1] != cells.shape[0]:
            raise ValueError(f"attention is over {attention.shape[-1]} cells, but the warehouse holds {cells.shape[0]}")
        if attention.shape[0] != x.shape[0] or attention.shape[1] != blocks:
            raise ValueError(
                f"attention of shape {tuple(attention.shape)}; expected ({x.shape[0]}, {blocks}, {cells.shape[0]}) for "
                f"{x.shape[0]} samples and a grid of {tuple(self.grid)}"
            )
        channels = cells.shape[2] * (1 if self.own_cells else self.grid[2]) * self.geometry.groups
        if x.shape[1] != channels:
            raise ValueError(
                f"input has {x.shape[1]} channels; cells of shape {tuple(cells.shape)} in a grid of {tuple(self.grid)} "
                f"with {self.geometry.groups} groups expect {channels}"
            )
