"""From logits to attention: the contrasting-driven function and those of its ablation.

KernelWarehouse, arXiv 2406.07879, eq. 4: alpha = tau * beta + (1 - tau) * z / sum(abs(z)).
As in the authors' code the sum runs over n + 1 logits (the last is the zero cell's), 1e-3 is added to it, so that
gradients stay bounded where all logits vanish, and the zero cell's column is dropped at the end.

That 1e-3 makes attention whose absolute logits sum to one 0.1 % smaller than the logits. ``UNIT_GAIN`` makes up for it:
z (1 + 1e-3) / (sum(abs(z)) + 1e-3) is z itself there, and as well behaved elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

EPSILON = 1e-3
UNIT_GAIN = 1 + EPSILON


def contrasting(logits: Tensor) -> Tensor:
    """Z / (sum abs z + eps) over the last dimension: signed, its absolute values sum to less than one."""
    return logits / (logits.abs().sum(dim=-1, keepdim=True) + EPSILON)


def nonnegative(logits: Tensor) -> Tensor:
    """max(z, 0) / (sum abs z + eps) over the last dimension."""
    return logits.clamp(min=0) / (logits.abs().sum(dim=-1, keepdim=True) + EPSILON)


def softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension."""
    return logits.softmax(dim=-1)


ATTENTION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "contrasting": contrasting,
    "nonnegative": nonnegative,
    "softmax": softmax,
    "sigmoid": torch.sigmoid,
}


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
