"""The network that is exported: a copy, in evaluation, with all that does not depend on its input computed."""

from __future__ import annotations

import copy
import itertools

import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from dynaconv.nn import prepare_inference


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside of torch.compile, DataParallel and DistributedDataParallel; others as they are."""
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:  # of torch.compile
            model = model.get_submodule("_orig_mod")
        else:
            return model


def copied(model: nn.Module) -> nn.Module:
    """A copy of a network, also of one whose modules hold what autograd made: ``copy.deepcopy`` refuses such tensors.

    Old ``torch.nn.utils.weight_norm`` and ``spectral_norm`` leave them there, and networks that note an activation or
    a loss.
    """
    held = (value for module in model.modules() for value in pytree.tree_leaves(vars(module)))
    made = [value for value in held if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(model, {id(value): value.detach().clone() for value in made})


def deployable(model: nn.Module, max_extra_mb: float = 0.0) -> nn.Module:
    """A copy of a network that is ready to be traced; the network itself stays as it is.

    Args:
        model: a network, in training or evaluation.
        max_extra_mb: memory (1e6 bytes) for branches folded into cells.
    """
    model = copied(model)
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        tensor.data = tensor.data.contiguous()  # files know no other layout, and graphs take constants as they lie
    return prepare_inference(model, max_extra_mb=max_extra_mb)
