"""Normalisation in attention branches: BatchNorm that also takes a batch of one image while training."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


def has_too_few(input: Tensor) -> bool:
    """Whether a channel of ``(B, C)`` or ``(B, C, *size)`` has a single value, or none: there is no variance."""
    return input.shape[0] * input.shape[2:].numel() < 2


def normalise_as_known(norm: _BatchNorm, input: Tensor) -> Tensor:
    """What a norm gives with its running statistics, in whatever mode."""
    return F.batch_norm(input, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)


class BranchBatchNorm(nn.BatchNorm1d):
    """BatchNorm over ``(B, C)`` or ``(B, C, L)`` that uses its running statistics where a channel has one value.

    A detector probes its strides with one image in training mode; a single value per channel has no variance.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise, shape ``(B, C)`` or ``(B, C, L)``."""
        if self.training and has_too_few(input):
            return normalise_as_known(self, input)
        return super().forward(input)
