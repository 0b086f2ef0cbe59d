"""How a convolution walks over its input: the sizes that every operation here shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Geometry:
    """Sizes of an N-d convolution.

    Args:
        kernel_size: one size per spatial dimension; empty for a linear layer.
        stride: one per spatial dimension.
        padding: zeros on both sides of every spatial dimension.
        dilation: one per spatial dimension.
        groups: groups of channels.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    @property
    def positions(self) -> int:
        """Positions of the kernel."""
        return math.prod(self.kernel_size)

    @property
    def is_pointwise(self) -> bool:
        """Whether an output position reads one input position, without padding."""
        return all(k == 1 for k in self.kernel_size) and not any(self.padding)

    def output_size(self, input_size: Sequence[int]) -> tuple[int, ...]:
        """Spatial output sizes for spatial input sizes."""
        return tuple(
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(
                input_size, self.kernel_size, self.stride, self.padding, self.dilation, strict=True
            )
        )

    def centre_tap(self, input_size: Sequence[int]) -> tuple[slice, ...]:
        """Slices of the padded input under the kernel's middle (the later of two) at every output position."""
        out = self.output_size(input_size)
        starts = [(k // 2) * d for k, d in zip(self.kernel_size, self.dilation, strict=True)]
        return tuple(slice(a, a + s * (n - 1) + 1, s) for a, s, n in zip(starts, self.stride, out, strict=True))

    def taps(self, input_size: Sequence[int]) -> list[tuple[slice, ...]]:
        """For every kernel position, in row-major order, the slices of the padded input that it meets."""
        out = self.output_size(input_size)
        axes = [
            [slice(i * d, i * d + s * (size - 1) + 1, s) for i in range(k)]
            for k, s, d, size in zip(self.kernel_size, self.stride, self.dilation, out, strict=True)
        ]
        taps: list[tuple[slice, ...]] = [()]
        for axis in axes:
            taps = [(*tap, place) for tap in taps for place in axis]
        return taps
