"""The average over all positions, whose gradient is the same number everywhere and is not written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dims: tuple[int, ...]) -> Tensor:
        ctx.shape, ctx.dims = x.shape, dims
        return x.mean(dim=dims)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        count = torch.Size([ctx.shape[d] for d in ctx.dims]).numel()
        for d in ctx.dims:
            gradient = gradient.unsqueeze(d)
        return (gradient / max(count, 1)).expand(ctx.shape), None


def average(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean over dimensions, which are given in rising order.

    PyTorch's own mean writes its gradient out in full before it is added to the convolution's. Here the engine adds
    one number a channel to it, in place: at training a pass over the activations less.

    Args:
        x: any shape.
        dims: not negative.
    """
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and x.requires_grad):
        return x.mean(dim=dims)
    if torch._C._are_functorch_transforms_active():  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]
        return x.mean(dim=dims)
    return _Average.apply(x, dims)  # pyright: ignore[reportReturnType]
