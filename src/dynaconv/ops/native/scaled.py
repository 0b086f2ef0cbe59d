"""A convolution whose input and output channels are scaled, sample by sample, without passes over either.

Scales go into the kernels on the way and into the sums on the way back. Their own gradients are sums over positions
of numbers that are there: with z = s x, ds = sum x dz = sum x dx / s; and with y = f u, df = sum u dy = sum y dy / f.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from dynaconv.ops.formulas import kernels_first
from dynaconv.ops.mixture import Mixture
from dynaconv.ops.native.calls import channel_dots, convolve, convolve_backward
from dynaconv.ops.recompute import differentiate


def _spread(scale: Tensor, x: Tensor) -> Tensor:
    return scale.reshape(*scale.shape, *(1,) * (x.dim() - 2))


def _formula(
    x: Tensor, attention: Tensor, cells: Tensor, in_scale: Tensor | None, out_scale: Tensor | None, mixture: Mixture
) -> Tensor:
    y = kernels_first(x if in_scale is None else x * _spread(in_scale, x), attention, cells, mixture, "auto")
    return y if out_scale is None else y * _spread(out_scale, y)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mixture: Mixture, *inputs: Tensor | None) -> Tensor:
        x, attention, cells, in_scale, out_scale = inputs
        assert x is not None
        assert attention is not None
        assert cells is not None
        y = convolve(x, attention, cells, mixture, in_scale, out_scale)
        ctx.mixture = mixture
        ctx.save_for_backward(*inputs, y if out_scale is not None else None)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        *inputs, y = ctx.saved_tensors
        x, attention, cells, in_scale, out_scale = inputs
        needed, mixture = ctx.needs_input_grad[1:], ctx.mixture
        lost = any(scale is not None and not scale.detach().all() for scale in (in_scale, out_scale))
        if torch.is_grad_enabled() or lost:  # differentiated once more; or a scale of 0, by which nothing is divided
            formula = partial(_formula, mixture=mixture)
            return None, *differentiate(formula, inputs, needed, gradient, again=torch.is_grad_enabled())
        of_in = of_out = None
        if out_scale is not None:
            of_out = channel_dots(gradient, y) / out_scale if needed[4] else None
            gradient = gradient * _spread(out_scale, gradient)
        wants_x = needed[0] or needed[3]
        wanted = (wants_x, needed[1], needed[2])
        of_x, of_attention, of_cells = convolve_backward(gradient, (x, attention, cells), wanted, mixture, in_scale)
        if needed[3] and of_x is not None:
            of_in = channel_dots(of_x, x) / in_scale
        return None, of_x if needed[0] else None, of_attention, of_cells, of_in, of_out


def scaled_convolve(
    x: Tensor, attention: Tensor, cells: Tensor, mixture: Mixture, in_scale: Tensor | None, out_scale: Tensor | None
) -> Tensor:
    """As :func:`dynaconv.ops.native.convolve` with scales, for training."""
    return _Scaled.apply(mixture, x, attention, cells, in_scale, out_scale)  # pyright: ignore[reportReturnType]
