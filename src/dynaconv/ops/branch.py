"""An attention branch for inference: all that does not depend on the input is computed beforehand.

pool -> fc1 (its BatchNorm folded in) -> LayerNorm, if any -> ReLU -> fc2 -> attention. On the CPU one compiled call
does it; elsewhere PyTorch's operators do. KernelWarehouse: arXiv 2406.07879, section 3.3.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynaconv.ops import native
from dynaconv.ops.attention import Normaliser, attention_function, divisor

Result = Literal["logits", "contrasting", "nonnegative", "softmax", "sigmoid", "hidden"]
NATIVE = ("logits", "contrasting", "nonnegative", "hidden")


@dataclass(frozen=True, eq=False)
class Basis:
    """A low-rank basis: the logits of cells of other layers, (local among them), are ``coded @ weight.T``.

    Args:
        weight: shape ``(others, width)``.
        num_local: logits that are addressed directly.
        first: of them, among all.
    """

    weight: Tensor
    num_local: int
    first: int

    def spread(self, z: Tensor) -> Tensor:
        """Shape ``(..., num_local + width + 1)`` -> ``(..., logits)``."""
        local, coded, zero = z.split([self.num_local, self.weight.shape[1], 1], dim=-1)
        others = F.linear(coded, self.weight)
        return torch.cat([others[..., : self.first], local, others[..., self.first :], zero], dim=-1)


@dataclass(frozen=True, eq=False)
class BranchWeights:
    """Weights of a branch; r hidden units, m mixtures of n + 1 logits each.

    Args:
        fc1: shape ``(r, C)``.
        shift: bias of it, shape ``(r,)``.
        fc2: shape ``(m * columns, r)``; columns are the logits unless there is a basis.
        bias: shape ``(m, logits)``.
        norm: a LayerNorm over the hidden units.
        basis: of cells of other layers.
        start: what is added to the attention, tau * beta, shape ``(m, logits - 1)``.
        share: what the attention is multiplied by, 1 - tau.
        places: cells of every mixture, shape ``(m, logits - 1)``, where each has its own.
        num_cells: n, where each has its own.
        normaliser: of the sum of absolute logits, see :mod:`dynaconv.ops.attention`.
    """

    fc1: Tensor
    shift: Tensor | None
    fc2: Tensor
    bias: Tensor
    norm: nn.LayerNorm | None = None
    basis: Basis | None = None
    start: Tensor | None = None
    share: float = 1.0
    places: Tensor | None = None
    num_cells: int = 0
    normaliser: Normaliser = "unit"

    @property
    def num_mixtures(self) -> int:
        """Number of mixtures."""
        return self.bias.shape[0]

    @functools.cached_property
    def per_mixture(self) -> Tensor:
        """fc2 as the compiled kernel reads it, shape ``(m, r, columns)``."""
        return self.fc2.unflatten(0, (self.num_mixtures, -1)).transpose(1, 2).contiguous()

    def tensors(self) -> list[Tensor]:
        """All that it holds, copies for the compiled kernel included."""
        given = [self.fc1, self.shift, self.fc2, self.bias, self.start, self.places, self.__dict__.get("per_mixture")]
        return [tensor for tensor in given if tensor is not None]

    def all_logits(self) -> tuple[Tensor, Tensor]:
        """Weight ``(m, logits, r)`` and bias ``(m, logits)`` of the logits, the basis multiplied out."""
        weight = self.fc2.unflatten(0, (self.num_mixtures, -1))
        if self.basis is not None:
            weight = self.basis.spread(weight.transpose(1, 2)).transpose(1, 2)
        return weight, self.bias


def fold_batch_norm(fc: nn.Linear, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer that a BatchNorm in evaluation follows.

    Computed in float64 and rounded once.

    Example:
        >>> weight, bias = fold_batch_norm(nn.Linear(3, 2), nn.BatchNorm1d(2).eval())
        >>> weight.shape, bias.shape
        (torch.Size([2, 3]), torch.Size([2]))
    """
    assert norm.running_mean is not None  # a branch always tracks them
    assert norm.running_var is not None
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = norm.weight.double() * (variance + norm.eps).rsqrt()
    before = 0 if fc.bias is None else fc.bias.double()
    shift = norm.bias.double() + (before - mean) * scale
    weight = fc.weight.double() * scale.unsqueeze(1)
    return weight.to(fc.weight.dtype), shift.to(fc.weight.dtype)


def prepared_branch(weights: BranchWeights, result: Result) -> Callable[[Tensor], Tensor]:
    """:func:`branch` as a function of its input alone, with everything that it needs laid out.

    Args:
        weights: of the branch, without gradients.
        result: what it gives.
    """
    if result in NATIVE and native.branch_supports(weights.fc1, weights.fc2):
        native.describe_branch(weights, result)
    return functools.partial(branch, weights=weights, result=result)


def branch(x: Tensor, weights: BranchWeights, result: Result) -> Tensor:
    """Pool an input and compute its attention.

    Args:
        x: shape ``(B, C, *size)``.
        weights: of the branch.
        result: ``"logits"``, an attention function over the cells, or ``"hidden"``.

    Returns:
        Logits: ``(B, m, logits)``. Attention: ``(B, m, n)``. Hidden: weights of the terms of a folded mixture,
        ``share (h, 1) / sum abs z``, shape ``(B, m, r + 1)``, see :mod:`dynaconv.ops.folding`. At least
        float32.
    """
    if result in NATIVE and native.branch_supports(x, weights.fc1, weights.fc2):
        return native.branch(x, weights, result)
    return branch_formula(x, weights, result)


def branch_formula(x: Tensor, weights: BranchWeights, result: Result) -> Tensor:
    """:func:`branch` in PyTorch's operators."""
    h = F.linear(x.mean(dim=tuple(range(2, x.dim()))), weights.fc1, weights.shift)
    h = F.relu(h if weights.norm is None else weights.norm(h))
    z = F.linear(h, weights.fc2).unflatten(1, (weights.num_mixtures, -1))
    z = (z if weights.basis is None else weights.basis.spread(z)) + weights.bias
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    if result == "logits":
        return z
    if result == "hidden":
        terms = torch.cat([h, h.new_ones(h.shape[0], 1)], dim=1).to(z.dtype)
        return weights.share * terms.unsqueeze(1) / divisor(z, weights.normaliser)
    attention = weights.share * attention_function(result, weights.normaliser)(z)[..., :-1]
    if weights.start is not None:
        attention = weights.start.to(z.dtype) + attention
    if weights.places is None:
        return attention
    spread = attention.new_zeros(*attention.shape[:2], weights.num_cells)
    return spread.scatter(-1, weights.places.expand(attention.shape[0], -1, -1), attention)
