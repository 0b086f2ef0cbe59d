"""Folding a branch into the cells: fewer terms to mix, for more memory.

Contrasting attention over logits z that are affine in r hidden units h makes a mixture

    w_i = sum_j z_ij / s_i e_j = (sum_k h_k G_ik + G_i0) / s_i,    s_i = sum_j abs(z_ij) + 1e-3,

with G_ik = sum_j fc2_ijk e_j known beforehand: r + 1 terms in place of n, which hold (r + 1) times the layer's kernel.
Only where nothing of the assignment is left (tau = 0) and no LayerNorm or function stands between z and the cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dynaconv.ops.branch import BranchWeights
from dynaconv.ops.layout import empty_cells
from dynaconv.ops.mixture import Mixture

MIN_GAIN = 2.0  # measured: own terms are mixed at half the rate of shared cells
MIN_BATCH = 8  # measured: below, reading the terms takes as long as mixing the cells


@dataclass(frozen=True, eq=False)
class Terms:
    """Terms of a folded mixture.

    Args:
        cells: the terms, shape ``(r + 1, O, C / groups, *k)``, in memory order.
        mixture: of these terms.
        num_cells: n, cells that they stand for.
    """

    cells: Tensor
    mixture: Mixture
    num_cells: int

    def pays(self, batch: int) -> bool:
        """Whether to mix the terms of so many samples, rather than the cells."""
        return torch.compiler.is_compiling() or batch >= MIN_BATCH


def folded_bytes(hidden: int, mixture: Mixture, cells: Tensor) -> int:
    """What the terms of a layer take."""
    return (hidden + 1) * mixture.kernel_elements(cells) * cells.element_size()


def saved_madds(hidden: int, mixture: Mixture, cells: Tensor) -> int:
    """Multiply-adds a sample that folding saves, if enough to pay; else 0. Depth-wise and grouped layers do not."""
    count = cells.shape[0]
    if mixture.geometry.groups != 1 or count < MIN_GAIN * (hidden + 1):
        return 0
    return (count - hidden - 1) * mixture.kernel_elements(cells)


def fold_cells(weights: BranchWeights, cells: Tensor, mixture: Mixture) -> Terms:
    """Fold a branch into cells.

    Args:
        weights: of a branch whose result is ``"contrasting"`` or ``"hidden"``, without a start.
        cells: shape ``(n, C_out, C_in, *k)``.
        mixture: how the layer mixes them.
    """
    assert weights.start is None  # what is added to the attention is no part of z / s
    weight, bias = weights.all_logits()
    attention = torch.cat([weight.permute(2, 0, 1), bias.unsqueeze(0)])[..., :-1]
    if weights.places is not None:
        spread = attention.new_zeros(*attention.shape[:2], weights.num_cells)
        attention = spread.scatter(-1, weights.places.expand(attention.shape[0], -1, -1), attention)
    channels = (mixture.out_channels(cells), cells.shape[2] * mixture.grid[2])
    shape = (*channels, *mixture.geometry.kernel_size)
    terms = empty_cells(attention.shape[0], *shape, device=cells.device, dtype=cells.dtype)
    assert math.prod(shape) == mixture.kernel_elements(cells)
    for term, part in zip(terms, attention.to(cells.dtype), strict=True):  # one at a time: a copy would double the peak
        term.copy_(mixture.kernels(part.unsqueeze(0), cells)[0])
    return Terms(terms, replace(mixture, own_cells=True), cells.shape[0])
