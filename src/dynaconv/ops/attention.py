"""From logits to attention: the contrasting-driven function and those of its ablation.

KernelWarehouse, arXiv 2406.07879, eq. 4: alpha = tau * beta + (1 - tau) * z / sum(abs(z)).
The sum runs over n + 1 logits (the last is the zero cell's), and the zero cell's column is dropped at the end.
Gradients must stay bounded where all logits vanish: the authors' code adds 1e-3 to the sum (``"paper"``), which makes
absolute values sum to less than one; here the sum may also count as 1e-3 at least (``"unit"``), which is eq. 4 wherever
it is more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

EPSILON = 1e-3
Normaliser = Literal["unit", "paper"]


def divisor(logits: Tensor, normaliser: Normaliser) -> Tensor:
    """Sum of absolute logits, kept from zero, shape ``(..., n)`` -> ``(..., 1)``."""
    total = logits.abs().sum(dim=-1, keepdim=True)
    return total.clamp(min=EPSILON) if normaliser == "unit" else total + EPSILON


def contrasting(logits: Tensor, normaliser: Normaliser = "unit") -> Tensor:
    """Z / sum abs z over the last dimension: signed, its absolute values sum to one at most."""
    return logits / divisor(logits, normaliser)


def nonnegative(logits: Tensor, normaliser: Normaliser = "unit") -> Tensor:
    """max(z, 0) / sum abs z over the last dimension."""
    return logits.clamp(min=0) / divisor(logits, normaliser)


def softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension."""
    return logits.softmax(dim=-1)


ATTENTION_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "contrasting": contrasting,
    "nonnegative": nonnegative,
    "softmax": softmax,
    "sigmoid": torch.sigmoid,
}


def attention_function(name: str, normaliser: Normaliser) -> Callable[[Tensor], Tensor]:
    """The function of that name; those that divide by a sum do so by the normaliser."""
    function = ATTENTION_FUNCTIONS[name]
    return functools.partial(function, normaliser=normaliser) if name in ("contrasting", "nonnegative") else function


def blend_with_assignment(normalised: Tensor, beta: Tensor, temperature: Tensor) -> Tensor:
    """Blend the assignment with the attention, then drop the zero cell's column.

    Args:
        normalised: attention over n cells and the zero cell, shape ``(B, m, n + 1)``.
        beta: assignment, shape ``(m, n + 1)``, zeros and ones.
        temperature: tau between 0 (attention alone) and 1 (assignment alone), shape ``()``.

    Returns:
        Shape ``(B, m, n)``.
    """
    tau = temperature.to(normalised.dtype)
    return (tau * beta.to(normalised.dtype) + (1 - tau) * normalised)[..., :-1]
