"""What a training step keeps for its backward pass, and an optimiser for its next step, counted on shapes alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.errors import DynaconvError


def saved_bytes(model: nn.Module, input_size: Sequence[int], batch_size: int) -> int:
    """Bytes of activations that autograd keeps between forward and backward of one batch of images.

    Storages are counted once; weights and buffers not at all, nor what a layer needs for a moment. Counted along
    PyTorch's own operators in the network's type: the CPU's compiled kernels keep the same or less.

    Args:
        model: from images to logits; it is left as it is.
        input_size: channels and spatial sizes of an image.
        batch_size: images.

    Raises:
        DynaconvError: if the network does not take such an input, or can not run on shapes alone.

    Example:
        >>> saved_bytes(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2), 2)  # 96 + 40 + 16 + 4
        156
    """
    shapes = copy.deepcopy(model).to("meta").train()
    own = {t.untyped_storage()._cdata for t in (*shapes.parameters(), *shapes.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no other storage takes its place
        return tensor

    first = next(shapes.parameters(), None)
    dtype = torch.float32 if first is None else first.dtype
    images = torch.empty((batch_size, *input_size), device="meta", dtype=dtype)
    labels = torch.empty(batch_size, device="meta", dtype=torch.long)
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            F.cross_entropy(shapes(images).float(), labels)
    except Exception as error:  # whatever a network of somebody's may raise
        raise DynaconvError(
            f"what {type(model).__name__} keeps of an input of shape {tuple(images.shape)} can not be counted on "
            f"shapes alone: {error}"
        ) from error
    return sum(storage.nbytes() for storage in kept.values())


def optimizer_bytes(model: nn.Module, make: Callable[[nn.Module], torch.optim.Optimizer]) -> int:
    """Bytes that an optimiser keeps after its first step.

    Args:
        model: whose parameters it moves; it is left as it is.
        make: the optimiser of a network, here of a copy without memory.

    Example:
        >>> optimizer_bytes(nn.Linear(3, 2), lambda m: torch.optim.SGD(m.parameters(), momentum=0.9))
        32
    """
    shapes = copy.deepcopy(model).to("meta")
    for parameter in shapes.parameters():
        parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
    optimizer = make(shapes)
    optimizer.step()
    kept = (value for state in optimizer.state.values() for value in state.values())
    return sum(value.numel() * value.element_size() for value in kept if isinstance(value, Tensor))
