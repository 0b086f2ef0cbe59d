"""The optimiser of a network, and the weight of an iteration within its step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from dynaconv.errors import DynaconvError, require
from dynaconv.training.config import OptimizerConfig


def window_factor(iteration: int, iterations: float, accumulate: int) -> float:
    """What makes the gradient of an optimiser step the mean over its iterations, also where an epoch ends within one.

    Lightning divides by ``accumulate`` always, and so would make an epoch's last, shorter step too small.

    Args:
        iteration: of the epoch, from 0.
        iterations: of the epoch; infinite where that is not known.
        accumulate: iterations per optimiser step.

    >>> [window_factor(i, 5, 2) for i in range(5)]
    [1.0, 1.0, 1.0, 1.0, 2.0]
    """
    left = iterations % accumulate if math.isfinite(iterations) else 0
    return accumulate / left if left and iteration >= iterations - left else 1.0


def make_optimizer(model: nn.Module | list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """An optimiser of timm's factory; parameters of one dimension have no weight decay, unless the config says so.

    Args:
        model: a network, or groups of parameters with paces and decays of their own.
        config: which optimiser, and how fast.

    Raises:
        DynaconvError: if timm does not know the name, or the optimiser does not take the arguments.
    """
    factory = require("timm.optim", "train")
    try:
        return factory.create_optimizer_v2(
            model,
            opt=config.name,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            filter_bias_and_bn=not config.decay_norms,
            **config.options,
        )
    except (AssertionError, TypeError, ValueError) as error:
        known = ", ".join(factory.list_optimizers()[:12])
        raise DynaconvError(f"optimizer.name={config.name!r}: {error}; timm has {known}, ...") from error
