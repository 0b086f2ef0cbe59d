"""Folding a branch into the cells: fewer terms to mix, for more memory.

Contrasting attention over logits z that are affine in r hidden units h makes a mixture

    w_i = sum_j z_ij / s_i e_j = (sum_k h_k G_ik + G_i0) / s_i,    s_i = sum_j abs(z_ij),

with G_ik = sum_j fc2_ijk e_j known beforehand: r + 1 terms in place of n, which hold (r + 1) times the layer's kernel.
Only where nothing of the assignment is left (tau = 0) and no LayerNorm or function stands between z and the cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dynaconv.ops.branch import BranchWeights
from dynaconv.ops.cost import outputs_first_madds
from dynaconv.ops.layout import empty_cells
from dynaconv.ops.mixture import Mixture

# Measured by benchmarks/folding.py, in multiply-adds of mixing shared cells.
MIN_GAIN = 3.0  # cells for a term below which nothing was gained
TERM_COST = 1.5  # of a multiply-add with a term, which no other position of the kernel uses
READ_COST = 16  # of reading a number that the cache does not hold


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

    def pay(self, size: Sequence[int], cells: Sequence[int], mixture: Mixture) -> bool:
        """Whether to mix the terms for an input, rather than the cells: the fewer samples, the more it costs to read.

        Args:
            size: shape of the input, padded if padding is laid on before.
            cells: shape of the cells.
            mixture: of the cells.
        """
        if torch.compiler.is_compiling():  # the graph is for any batch
            return True
        batch, kernel = size[0], math.prod(self.cells.shape[1:])
        read = READ_COST * math.prod(cells)
        convolution = batch * kernel * math.prod(mixture.geometry.output_size(size[2:]))
        kernels = max(batch * cells[0] * kernel, read) + convolution
        outputs = batch * outputs_first_madds(size, cells, mixture) + read
        terms = len(self.cells) * kernel * max(batch * TERM_COST, READ_COST) + convolution
        return terms < min(kernels, outputs)


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
