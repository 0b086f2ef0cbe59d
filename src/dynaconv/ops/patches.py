"""The input under every position of a kernel, by slices alone, and its product with one kernel per sample.

What a traced graph holds in place of a convolution, for any number of samples: every runtime has slices, and their
strides are 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dynaconv.ops.geometry import Geometry
from dynaconv.ops.graphs import copied


def convolve_patches(x: Tensor, kernels: Tensor, geometry: Geometry, position_first: bool) -> Tensor:
    """Multiply the input under every position of the kernel with the kernels.

    Args:
        x: shape ``(B, C, *size)``.
        kernels: shape ``(B, O, C / groups * positions)``.
        geometry: of the convolution.
        position_first: whether kernels hold all channels of a position side by side, or all positions of a channel.

    Returns:
        Shape ``(B, O, *out)``.
    """
    batch, out_channels, elements = kernels.shape
    groups, out = geometry.groups, geometry.output_size(x.shape[2:])
    parts = shifted_inputs(x, geometry)
    if elements == geometry.positions and groups == out_channels:
        factors = kernels.reshape(batch, out_channels, elements, *(1,) * (len(out) - 1))
        total = parts[0] * factors.narrow(2, 0, 1)
        for position, part in enumerate(parts[1:], start=1):
            total = total + part * factors.narrow(2, position, 1)
        return total
    if groups > 1:
        parts = [part.unflatten(1, (groups, -1)) for part in parts]
        kernels = copied(kernels).reshape(batch * groups, out_channels // groups, elements)
    channels = 1 if groups == 1 else 2
    patches = parts[0]
    if len(parts) > 1:
        patches = (
            torch.cat(parts, channels)
            if position_first
            else torch.stack(parts, channels + 1).flatten(channels, channels + 1)
        )
    if groups > 1 or len(out) > 1:  # else it has the shape, and need not be asked how it lies
        patches = patches.reshape(batch * groups, elements, math.prod(out))
    return torch.bmm(kernels, patches).reshape(batch, out_channels, *out)


def shifted_inputs(x: Tensor, geometry: Geometry) -> list[Tensor]:
    """The input under every position of the kernel at all output positions, each ``(B, C, *out)``.

    With a stride, the input is first cut into the phases that it tells apart, once: steps of more than one are slow.
    """
    size, out = x.shape[2:], geometry.output_size(x.shape[2:])
    if geometry.positions == 1:
        x = F.pad(x, _edges([(p, p) for p in geometry.padding])) if any(geometry.padding) else x
        return [x[(..., *(slice(0, s * (n - 1) + 1, s) for s, n in zip(geometry.stride, out, strict=True)))]]
    reach = [(k - 1) * d for k, d in zip(geometry.kernel_size, geometry.dilation, strict=True)]
    steps = [-(-r // s) + n for r, s, n in zip(reach, geometry.stride, out, strict=True)]  # of every phase
    missing = [s * n - size_ - p for s, n, size_, p in zip(geometry.stride, steps, size, geometry.padding, strict=True)]
    x = F.pad(x, _edges(list(zip(geometry.padding, missing, strict=True))))
    phases = {}
    if all(s == 1 for s in geometry.stride):
        phases[(0,) * len(size)] = x
    else:
        split = x.reshape(*x.shape[:2], *(n for pair in zip(steps, geometry.stride, strict=True) for n in pair))
        dims = len(size)
        split = split.permute(*range(3, 2 * dims + 2, 2), 0, 1, *range(2, 2 * dims + 2, 2))
        for phase in itertools.product(*map(range, geometry.stride)):
            phases[phase] = split[phase]
    # One dimension after the other, so that every row is cut out once for all positions in it.
    parts = list(phases.items())
    for axis, (k, s, d, n) in enumerate(
        zip(geometry.kernel_size, geometry.stride, geometry.dilation, out, strict=True)
    ):
        cut = []
        for phase, part in parts:
            for offset in range(0, k * d, d):
                if offset % s == phase[axis]:
                    place = (*phase[:axis], offset, *phase[axis + 1 :])
                    cut.append((place, part.narrow(axis + 2, offset // s, n)))
        parts = cut
    return [part for _, part in sorted(parts, key=lambda item: item[0])]


def _edges(pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Padding as F.pad wants it, last dimension first."""
    return [edge for pair in reversed(pairs) for edge in pair]
