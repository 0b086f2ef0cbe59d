"""Kernel partition: cut the kernels of the sharing layers into equal cells (KernelWarehouse, section 3.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from dynaconv.errors import PlanError
from dynaconv.planning.spec import LayerSpec


class CellGrid(NamedTuple):
    """How many cells tile a kernel: mixtures are ordered (spatial, out, in)."""

    spatial: int
    out_blocks: int
    in_blocks: int

    @property
    def num_mixtures(self) -> int:
        """m, the number of cells that make up the kernel."""
        return self.spatial * self.out_blocks * self.in_blocks


def channel_gcds(specs: Sequence[LayerSpec]) -> tuple[int, int]:
    """Greatest common divisors of the layers' out-channels, and of their in-channels per group."""
    return math.gcd(*(s.out_channels for s in specs)), math.gcd(*(s.in_channels // s.groups for s in specs))


def paper_scale(specs: Sequence[LayerSpec], budget: float) -> tuple[float, float]:
    """The paper's size of a cell: the gcd for b >= 1, half of it below, where it can be halved."""
    out_channels, in_channels = (0.5 if budget < 1 and gcd % 2 == 0 else 1.0 for gcd in channel_gcds(specs))
    return out_channels, in_channels


def _scaled(gcd: int, scale: float) -> int:
    return max(int(gcd * scale), 1)


def cell_shape(
    specs: Sequence[LayerSpec], *, scale: tuple[float, float] = (1.0, 1.0), partition: str = "full"
) -> tuple[int, ...]:
    """Shape of the cells that layers sharing a warehouse are cut into.

    Args:
        specs: the sharing layers, at least one.
        scale: (out, in) size of a cell relative to the greatest common divisor of the channels.
        partition: ``"full"``, ``"channel"`` (spatial kernel whole) or ``"none"`` (the cell is the kernel).

    Returns:
        ``(C_out, C_in, *k)``.

    Raises:
        PlanError: if the layers can not share cells of one shape; it names the layers, sizes and a way out.

    Example:
        >>> a = LayerSpec(name="a", in_channels=64, out_channels=64, kernel_size=(3, 3), stride=(1, 1))
        >>> b = LayerSpec(name="b", in_channels=64, out_channels=128, kernel_size=(1, 1), stride=(1, 1))
        >>> cell_shape([a, b])
        (64, 64, 1, 1)
    """
    first = specs[0]
    for other in specs:
        if len(other.kernel_size) != len(first.kernel_size):
            raise PlanError(
                f"'{first.name}' has {len(first.kernel_size)} spatial dimensions and '{other.name}' has "
                f"{len(other.kernel_size)}; a warehouse holds cells of one dimension: give them different warehouses"
            )
        if partition == "channel" and other.kernel_size != first.kernel_size:
            raise PlanError(
                f"'{first.name}' has kernel {first.kernel_size} and '{other.name}' {other.kernel_size}; with "
                "partition='channel' cells keep the whole spatial kernel, so sharing layers need equal kernel sizes: "
                "use partition='full' or give them different warehouses"
            )
        if partition == "none" and other.kernel_shape != first.kernel_shape:
            raise PlanError(
                f"'{first.name}' has a kernel of shape {first.kernel_shape} and '{other.name}' {other.kernel_shape}; "
                "with partition='none' a cell is the whole kernel, so sharing layers need equal shapes: "
                "use partition='full' or give them different warehouses"
            )
    if partition == "none":
        return first.kernel_shape
    out_channels, in_channels = map(_scaled, channel_gcds(specs), scale)
    kernel = first.kernel_size if partition == "channel" else (1,) * len(first.kernel_size)
    return (out_channels, in_channels, *kernel)


def cell_grid(spec: LayerSpec, cell: Sequence[int]) -> CellGrid:
    """How cells of one shape tile a layer's kernel.

    Args:
        spec: the layer.
        cell: ``(C_out, C_in, *k)``.

    Raises:
        PlanError: if the cells do not tile the kernel exactly.
    """
    kernel = spec.kernel_shape
    if len(cell) != len(kernel) or any(k % c for k, c in zip(kernel, cell, strict=True)):
        divisors = [[d for d in range(1, k + 1) if k % d == 0][-6:] for k in kernel[:2]]
        raise PlanError(
            f"cells of shape {tuple(cell)} do not tile the kernel of '{spec.name}', shape {kernel}; out-channels "
            f"could be cut by {divisors[0]}, in-channels per group by {divisors[1]}: choose a cell_scale that gives one"
        )
    spatial = math.prod(k // c for k, c in zip(kernel[2:], cell[2:], strict=True))
    return CellGrid(spatial, kernel[0] // cell[0], kernel[1] // cell[1])
