"""What a training step costs on one GPU and on many: memory, multiply-adds, and bytes between them.

Everything is counted on shapes alone, of a network that may have no memory. With P parameters of 4 bytes (float32 is
what is stored under mixed precision, too), B images on every GPU, and N GPUs:

    weights 4 P, gradients 4 P, optimiser what its first step makes (AdamW 8 P, SGD with momentum 4 P),
    moving average 4 P and buffers again
    DDP  holds gradients twice where N > 1, once in the buckets that it sends
    FSDP divides all of these by N; it gathers what is outside of blocks for the whole step, with its gradients at the
         end, and the largest block while it runs
    activations = what autograd keeps of the forward pass of B images, them included, each storage once, parameters not
    multiply-adds = 3 forward passes (the result, and the gradients of inputs and of parameters), and the mixing of
    kernels once more where a method does not keep them

    bytes that a GPU sends in a step, for rings:
    all-reduce of X bytes      2 (N - 1) / N X
    all-gather, reduce-scatter   (N - 1) / N X each, X of all GPUs together
    DDP    one all-reduce of the gradients; buffers go from the first GPU to the others: (N - 1) / N of them on average
    FSDP   all-gathers of all weights in the forward pass and of the blocks' in the backward pass, one reduce-scatter;
           every parameter padded to a multiple of N along its first dimension
    a synchronised norm of C channels: forward 2 C + 1 numbers to every other GPU, backward an all-reduce of 2 C
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dynaconv.analysis.profile import profile
from dynaconv.analysis.saved import optimizer_bytes, saved_bytes
from dynaconv.errors import DynaconvError
from dynaconv.nn import DynamicLayer

NUMBER = 4
"""Bytes of a stored number."""


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """A training step of one GPU, whatever the others do.

    Args:
        parameters: of the network, each once.
        input_size: channels and spatial sizes of an image.
        batch_size: images on the GPU.
        weight_bytes: parameters.
        gradient_bytes: of all parameters that learn.
        optimizer_bytes: what the optimiser keeps.
        average_bytes: the moving average of weights and buffers; 0 without one.
        buffer_bytes: running statistics, temperatures.
        activation_bytes: what autograd keeps for the backward pass beside parameters, images included.
        kernels: elements of the kernels that dynamic layers make for one image.
        kernel_bytes: of the kernels of the batch, if all were there at once; see ``keeps_kernels``.
        keeps_kernels: whether any method keeps them for the backward pass; they are part of the activations then.
        forward_madds: multiply-adds of a forward pass of the batch.
        step_madds: multiply-adds of a step.
        norms: name and channels of every norm with batch statistics.
        outside_bytes: weights outside of blocks, which FSDP gathers for the whole step.
        block_bytes: the largest block's weights.
        shapes: of every parameter its rows (first dimension), bytes of a row, and whether it is in a block.
    """

    parameters: int
    input_size: tuple[int, ...]
    batch_size: int
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    average_bytes: int
    buffer_bytes: int
    activation_bytes: int
    kernels: int
    kernel_bytes: int
    keeps_kernels: bool
    forward_madds: int
    step_madds: int
    norms: tuple[tuple[str, int], ...]
    outside_bytes: int
    block_bytes: int
    shapes: tuple[tuple[int, int, bool], ...]

    @property
    def state_bytes(self) -> int:
        """What does not depend on the batch, buffers apart."""
        return self.weight_bytes + self.gradient_bytes + self.optimizer_bytes + self.average_bytes


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """A step on several GPUs; bytes sent are of one GPU, the mean over all.

    Args:
        cost: of one GPU.
        gpus: how many.
        images: of all GPUs.
        madds: of all GPUs.
        ddp_memory: of one GPU, with everything replicated.
        fsdp_memory: of one GPU, with weights, gradients, moments and average divided.
        ddp_sent: gradients, with DistributedDataParallel.
        buffers_sent: buffers, with DistributedDataParallel.
        fsdp_sent: weights and gradients, fully sharded.
        norms_sent: statistics and their gradients, with synchronised norms.
    """

    cost: TrainingCost
    gpus: int
    images: int
    madds: int
    ddp_memory: int
    fsdp_memory: int
    ddp_sent: int
    buffers_sent: int
    fsdp_sent: int
    norms_sent: int


def all_reduce_bytes(size: int, gpus: int) -> int:
    """What a GPU sends in a ring all-reduce of so many bytes."""
    return round(2 * (gpus - 1) / gpus * size)


def all_gather_bytes(size: int, gpus: int) -> int:
    """What a GPU sends in a ring all-gather, or reduce-scatter, of so many bytes of all GPUs together."""
    return round((gpus - 1) / gpus * size)


def norm_bytes(channels: int, gpus: int) -> int:
    """What a GPU sends for a synchronised norm, forward and backward.

    Example:
        >>> norm_bytes(64, 1), norm_bytes(64, 2)
        (0, 1028)
    """
    return (gpus - 1) * (2 * channels + 1) * NUMBER + all_reduce_bytes(2 * channels * NUMBER, gpus)


def padded_bytes(cost: TrainingCost, gpus: int, blocks_only: bool = False) -> int:
    """Weights as FSDP cuts them: first dimensions padded to a multiple of the GPUs.

    Args:
        cost: of one GPU.
        gpus: how many.
        blocks_only: leave out what belongs to no block.
    """
    return sum(-(-rows // gpus) * gpus * row for rows, row, in_block in cost.shapes if in_block or not blocks_only)


def count_training(
    model: nn.Module,
    input_size: Sequence[int],
    batch_size: int,
    *,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    blocks: Sequence[str] = (),
    average: bool = False,
) -> TrainingCost:
    """Count a training step of a network.

    Args:
        model: converted or not, on any device; it is left as it is.
        input_size: channels and spatial sizes of an image.
        batch_size: images on a GPU.
        optimizer: makes one for a network; it takes a step of a network without memory.
        blocks: names of the modules that FSDP shards one by one.
        average: keep a moving average.

    Raises:
        DynaconvError: if the network does not take such an input.
    """
    shapes = profile(model, input_size, batch_size)
    again = _mixed_again(model, input_size)
    rows = [row for row in shapes.rows if row.kernel_bytes]
    weights = _bytes(model.parameters())
    buffers = _bytes(model.buffers())
    in_blocks = {id(p) for name in blocks for p in model.get_submodule(name).parameters()}
    inside = [_bytes(model.get_submodule(name).parameters()) for name in blocks]
    return TrainingCost(
        parameters=shapes.parameters,
        input_size=tuple(input_size),
        batch_size=batch_size,
        weight_bytes=weights,
        gradient_bytes=_bytes(p for p in model.parameters() if p.requires_grad),
        optimizer_bytes=optimizer_bytes(model, optimizer),
        average_bytes=weights + buffers if average else 0,
        buffer_bytes=buffers,
        activation_bytes=saved_bytes(model, input_size, batch_size),
        kernels=shapes.kernel_bytes // NUMBER // batch_size,
        kernel_bytes=shapes.kernel_bytes,
        keeps_kernels=any(row.name not in again for row in rows),
        forward_madds=shapes.madds,
        step_madds=3 * shapes.madds + sum(row.mixing for row in rows if row.name in again),
        norms=tuple((n, m.num_features) for n, m in model.named_modules() if isinstance(m, _BatchNorm)),
        outside_bytes=weights - sum(inside),
        block_bytes=max(inside, default=0),
        shapes=tuple((*_rows(p), id(p) in in_blocks) for p in model.parameters()),
    )


def scaled(cost: TrainingCost, gpus: int) -> Scaled:
    """The same step on every one of several GPUs.

    Args:
        cost: of one GPU.
        gpus: how many, at least one.

    Raises:
        DynaconvError: if there is no GPU.
    """
    if gpus < 1:
        raise DynaconvError(f"gpus={gpus}; expected at least 1")
    batch = cost.buffer_bytes + cost.activation_bytes
    gathered = 2 * cost.outside_bytes + cost.block_bytes if gpus > 1 else 0
    moved = 2 * padded_bytes(cost, gpus) + padded_bytes(cost, gpus, blocks_only=True)
    return Scaled(
        cost=cost,
        gpus=gpus,
        images=gpus * cost.batch_size,
        madds=gpus * cost.step_madds,
        ddp_memory=cost.state_bytes + (cost.gradient_bytes if gpus > 1 else 0) + batch,
        fsdp_memory=-(-cost.state_bytes // gpus) + gathered + batch,
        ddp_sent=all_reduce_bytes(cost.gradient_bytes, gpus),
        buffers_sent=all_gather_bytes(cost.buffer_bytes, gpus),
        fsdp_sent=all_gather_bytes(moved, gpus),
        norms_sent=sum(norm_bytes(channels, gpus) for _, channels in cost.norms),
    )


def _rows(parameter: Tensor) -> tuple[int, int]:
    """Length of the first dimension, and bytes of what stands behind one of its indices."""
    rows = parameter.shape[0] if parameter.dim() else 1
    return rows, parameter.numel() * parameter.element_size() // max(rows, 1)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _mixed_again(model: nn.Module, input_size: Sequence[int]) -> set[str]:
    """Names of the dynamic layers that keep no kernels, and so mix them again in the backward pass."""
    shapes = copy.deepcopy(model).to("meta").train()
    layers = {n: m for n, m in shapes.named_modules() if isinstance(m, DynamicLayer)}
    names: dict[nn.Module, str] = {module: name for name, module in layers.items()}
    found, seen = set[str](), set[Any]()

    def look(module: nn.Module, inputs: Any, output: Tensor) -> None:
        """Walk what the layer has added to the graph."""
        ahead = [output.grad_fn]
        while ahead:
            node = ahead.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if node.name() == "_RecomputedBackward":
                found.add(names[module])
            ahead += [following for following, _ in node.next_functions]

    for module in names:
        module.register_forward_hook(look)
    with torch.enable_grad():
        shapes(torch.empty((2, *input_size), device="meta", dtype=next(shapes.parameters()).dtype))
    return found
