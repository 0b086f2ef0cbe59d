"""Slow oracles in float64, written straight from the equations. Nothing here calls the library's operations."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor


def conv(x: Tensor, kernels: Tensor, stride, padding, dilation, groups) -> Tensor:
    """Convolution with one kernel per sample, an output position at a time, and a tap of the kernel at a time."""
    batch, out_channels, in_per_group, *size = kernels.shape
    out_size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x.shape[2:], size, stride, padding, dilation, strict=True)
    ]
    y = x.new_zeros(batch, out_channels, *out_size)
    x = x.reshape(batch, groups, 1, in_per_group, *x.shape[2:])
    kernels = kernels.reshape(batch, groups, out_channels // groups, in_per_group, *size)
    for place in itertools.product(*map(range, out_size)):
        for tap in itertools.product(*map(range, size)):
            at = [q * s - p + t * d for q, s, p, t, d in zip(place, stride, padding, tap, dilation, strict=True)]
            if all(0 <= a < n for a, n in zip(at, x.shape[4:], strict=True)):
                y[(..., *place)] += (x[(..., *at)] * kernels[(..., *tap)]).sum(-1).flatten(1)
    return y


def contrasting(logits: Tensor, beta: Tensor, tau: float, added: float = 0.0) -> Tensor:
    """alpha_ij = tau beta_ij + (1 - tau) z_ij / (sum_p abs(z_ip) + added), p over the n cells and the zero cell."""
    batch, mixtures, columns = logits.shape
    alpha = logits.new_zeros(batch, mixtures, columns - 1)
    for b, i in itertools.product(range(batch), range(mixtures)):
        norm = sum(abs(logits[b, i, p].item()) for p in range(columns)) + added
        for j in range(columns - 1):
            alpha[b, i, j] = tau * beta[i, j] + (1 - tau) * logits[b, i, j] / norm
    return alpha


def mixed_kernels(attention: Tensor, cells: Tensor, grid: Sequence[int], kernel_size: Sequence[int]) -> Tensor:
    """w_i = sum_j alpha_ij e_j, put into place: mixtures ordered (spatial, out, in)."""
    spatial, out_blocks, in_blocks = grid
    co, ci = cells.shape[1:3]
    kernels = attention.new_zeros(attention.shape[0], out_blocks * co, in_blocks * ci, *kernel_size)
    places = list(itertools.product(*map(range, kernel_size))) if spatial > 1 else [()]
    for b in range(attention.shape[0]):
        for s, o, i in itertools.product(range(spatial), range(out_blocks), range(in_blocks)):
            mixture = (s * out_blocks + o) * in_blocks + i
            part = sum(attention[b, mixture, j] * cells[j] for j in range(cells.shape[0]))
            target = kernels[b, o * co : (o + 1) * co, i * ci : (i + 1) * ci]
            if spatial > 1:
                target[(slice(None), slice(None), *places[s])] = part.reshape(co, ci)
            else:
                target.copy_(part.reshape(co, ci, *kernel_size))
    return kernels
