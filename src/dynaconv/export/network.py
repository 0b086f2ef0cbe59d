"""The network that is exported: a copy, in evaluation, with all that does not depend on its input computed."""

from __future__ import annotations

import copy
import itertools

from torch import nn

from dynaconv.nn import prepare_inference


def deployable(model: nn.Module, max_extra_mb: float = 0.0) -> nn.Module:
    """A copy of a network that is ready to be traced; the network itself stays as it is.

    Args:
        model: a network, in training or evaluation.
        max_extra_mb: memory (1e6 bytes) for branches folded into cells.
    """
    model = copy.deepcopy(model)
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        tensor.data = tensor.data.contiguous()  # files know no other layout, and graphs take constants as they lie
    return prepare_inference(model, max_extra_mb=max_extra_mb)
