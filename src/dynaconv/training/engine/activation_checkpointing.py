"""Gradient checkpointing: activations inside blocks are computed again in the backward pass, and not kept.

timm's networks know how to (``set_grad_checkpointing``). What they leave open is that BatchNorm sees every batch twice
then, and moves its running statistics twice; here the second time leaves them alone, so the function is the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dynaconv.errors import DynaconvError


def checkpoint_activations(model: nn.Module) -> None:
    """Let a network keep only what goes between its blocks, and compute the rest again in the backward pass.

    Args:
        model: a network with timm's ``set_grad_checkpointing``, converted or not.

    Raises:
        DynaconvError: if the network has none.
    """
    switch = getattr(model, "set_grad_checkpointing", None)
    try:
        if switch is None:
            raise AssertionError("it has no set_grad_checkpointing()")
        switch(True)
    except AssertionError as error:  # timm's way to say that a network can not
        raise DynaconvError(
            f"{type(model).__name__} can not compute its activations again ({error}); expected one of timm's networks "
            "that can. Drop run.checkpoint_activations, or take a smaller batch with run.accumulate"
        ) from error
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            module.register_forward_pre_hook(_hold_statistics)
            module.register_forward_hook(_release_statistics, always_call=True)


def _hold_statistics(module: _BatchNorm, inputs: Any) -> None:
    """Take the momentum out of a norm that runs within a backward pass."""
    if module.training and torch._C._current_graph_task_id() != -1:  # as torch.utils.checkpoint asks
        assert module.num_batches_tracked is not None  # of every norm with running statistics
        module.__dict__["held"] = module.momentum, int(module.num_batches_tracked)
        module.momentum = 0.0


def _release_statistics(module: _BatchNorm, inputs: Any, output: Any) -> None:
    """Put it back."""
    held = module.__dict__.pop("held", None)
    if held is not None and module.num_batches_tracked is not None:
        module.momentum, count = held
        module.num_batches_tracked.fill_(count)
