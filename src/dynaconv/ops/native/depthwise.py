"""A depth-wise convolution with one kernel per sample that autograd knows."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from dynaconv.ops.geometry import Geometry
from dynaconv.ops.native.calls import depthwise, depthwise_backward
from dynaconv.ops.per_sample_conv import per_sample_conv
from dynaconv.ops.recompute import differentiate


def _formula(geometry: Geometry, x: Tensor, kernels: Tensor) -> Tensor:
    return per_sample_conv(x, kernels.unsqueeze(2), geometry, "grouped")


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, kernels)
        ctx.geometry = geometry
        return depthwise(x, kernels.flatten(2).transpose(1, 2), geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x, kernels), needed, geometry = ctx.saved_tensors, ctx.needs_input_grad[:2], ctx.geometry
        if torch.is_grad_enabled():  # somebody will differentiate this once more
            return *differentiate(partial(_formula, geometry), (x, kernels), needed, gradient, again=True), None
        stored = kernels.flatten(2).transpose(1, 2)
        of_x, of_kernels = depthwise_backward(gradient, x, stored, geometry, needed)
        if of_kernels is not None:
            of_kernels = of_kernels.transpose(1, 2).reshape(kernels.shape)
        return of_x, of_kernels, None


def depthwise_conv(
    x: Tensor, kernels: Tensor, geometry: Geometry, out_scale: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """Convolve every channel of every sample with its own kernel.

    Args:
        x: shape ``(B, C, *size)``.
        kernels: shape ``(B, C, 1, *k)``.
        geometry: with as many groups as channels.
        out_scale: factors of the output, before the bias, shape ``(C,)`` or ``(B, C)``; without gradients.
        bias: shape ``(C,)`` or ``(B, C)``; without gradients.
    """
    if torch.is_grad_enabled() and (x.requires_grad or kernels.requires_grad):
        return _Depthwise.apply(x, kernels.squeeze(2), geometry)  # pyright: ignore[reportReturnType]
    return depthwise(x, kernels.flatten(2).transpose(1, 2), geometry, out_scale, bias)
