"""Normalisation in attention branches: BatchNorm that also takes a batch of one image while training."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class BranchBatchNorm(nn.BatchNorm1d):
    """BatchNorm over ``(B, C)`` or ``(B, C, L)`` that uses its running statistics where a channel has one value.

    A detector probes its strides with one image in training mode; a single value per channel has no variance.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, shape ``(B, C)`` or ``(B, C, L)``."""
        if self.training and input.shape[0] * input.shape[2:].numel() < 2:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)
