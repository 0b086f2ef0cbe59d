"""Training without keeping kernels: they are mixed anew in the backward pass, a block of samples at a time.

What is kept for the backward pass is the input, the attention and the cells - what the network keeps anyway. The
gradients are products again: of the attention, grad(kernel) times cells; of the cells, attention times grad(kernel).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynaconv.ops.watching import watched

Inputs = tuple[Tensor, Tensor, Tensor]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]

BLOCK_BYTES = 128 * 2**20
"""What a block of samples may take for kernels, or for the outputs of all cells, at a time."""


@dataclass(frozen=True)
class Computation:
    """How a layer is computed.

    Args:
        formula: in differentiable operators; for gradients of gradients, and for all else that is not given.
        sample_bytes: what the formula makes for a sample beside its result.
        forward: a faster way to the same.
        backward: a faster way to its gradients, of those inputs that are needed.
    """

    formula: Callable[[Tensor, Tensor, Tensor], Tensor]
    sample_bytes: int
    forward: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    backward: Callable[[Tensor, Inputs, tuple[bool, bool, bool]], Gradients] | None = None

    def blocks(self, batch: int) -> list[slice]:
        """Samples that go together within the bound on memory; at least one block, if of no samples."""
        step = max(1, min(batch, BLOCK_BYTES // max(self.sample_bytes, 1)))
        return [slice(i, min(i + step, batch)) for i in range(0, batch, step)] or [slice(0, 0)]

    def run(self, x: Tensor, attention: Tensor, cells: Tensor) -> Tensor:
        """The result, without gradients."""
        if self.forward is not None:
            return self.forward(x, attention, cells)
        parts = [self.formula(x[part], attention[part], cells) for part in self.blocks(x.shape[0])]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, computation: Computation, x: Tensor, attention: Tensor, cells: Tensor) -> Tensor:
        ctx.save_for_backward(x, attention, cells)
        ctx.computation = computation
        device = "cpu" if x.is_meta else x.device.type  # tensors without memory have no autocast of their own
        ctx.autocast = {"device_type": device, "enabled": torch.is_autocast_enabled(device)}
        ctx.autocast["dtype"] = torch.get_autocast_dtype(device)
        return computation.run(x, attention, cells)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inputs, needed = ctx.saved_tensors, ctx.needs_input_grad[1:]
        with torch.autocast(**ctx.autocast):
            if torch.is_grad_enabled():  # somebody will differentiate this once more
                return None, *differentiate(ctx.computation.formula, inputs, needed, gradient, again=True)
            if ctx.computation.backward is not None:
                return None, *ctx.computation.backward(gradient, inputs, needed)
            return None, *_by_blocks(ctx.computation, inputs, needed, gradient)


def differentiate(
    formula: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    gradient: Tensor,
    again: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients by a formula, of those inputs that need one.

    Args:
        formula: in differentiable operators, called with the inputs.
        inputs: those of an autograd Function; None where it was given none.
        needed: for every input whether its gradient is wanted.
        gradient: of the result.
        again: whether somebody will differentiate the gradients once more.
    """
    with torch.enable_grad():
        if not again:
            inputs = [t if t is None else t.detach().requires_grad_(n) for t, n in zip(inputs, needed, strict=True)]
        result = formula(*inputs)
        wanted = [t for t, need in zip(inputs, needed, strict=True) if need and t is not None]
        found = iter(torch.autograd.grad(result, wanted, gradient.to(result.dtype), create_graph=again))
    return tuple(next(found) if need else None for need in needed)


def _by_blocks(
    computation: Computation, inputs: Inputs, needed: tuple[bool, bool, bool], gradient: Tensor
) -> Gradients:
    x, attention, cells = inputs
    of_x, of_attention, of_cells = [], [], None
    for part in computation.blocks(x.shape[0]):
        some = (x[part], attention[part], cells)
        a, b, c = differentiate(computation.formula, some, needed, gradient[part], again=False)
        of_x.append(a)
        of_attention.append(b)
        of_cells = c if of_cells is None or c is None else of_cells.add_(c)
    return torch.cat(of_x) if needed[0] else None, torch.cat(of_attention) if needed[1] else None, of_cells


def recomputed(computation: Computation, x: Tensor, attention: Tensor, cells: Tensor) -> Tensor:
    """Compute a layer so that no kernel outlives the pass it is made in.

    Works under autocast, activation checkpointing and DistributedDataParallel; gradients of gradients are those of
    the formula. Inside torch.compile, torch.jit.trace and torch.func transforms the formula itself runs.
    """
    if torch.compiler.is_compiling() or watched():
        return computation.formula(x, attention, cells)
    if not torch.is_grad_enabled() or not (x.requires_grad or attention.requires_grad or cells.requires_grad):
        return computation.run(x, attention, cells)
    return _Recomputed.apply(computation, x, attention, cells)  # pyright: ignore[reportReturnType]
