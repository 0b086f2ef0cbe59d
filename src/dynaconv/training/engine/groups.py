"""What every parameter of a network is when it goes on from a trained one, and how fast each kind may move."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from torch import nn

from dynaconv.nn import DynamicLayer, Gate, Warehouse
from dynaconv.training.config import OptimizerConfig, TuneConfig

Role = Literal["static", "kernel", "branch", "head"]


def roles(model: nn.Module, fresh: Collection[str] = ()) -> dict[str, Role]:
    """Sort parameters by what they are.

    Args:
        model: a network, converted or not.
        fresh: names of modules that were made anew, such as a classifier for other classes.

    Returns:
        Parameter's name -> ``"static"``: of layers that were not converted; ``"kernel"``: cells, experts and what else
        kernels are made from; ``"branch"``: of attention branches and gates; ``"head"``: of fresh modules.
    """
    found: dict[str, Role] = {name: "static" for name, _ in model.named_parameters()}
    for prefix, module in model.named_modules():
        role: Role | None = None
        if isinstance(module, DynamicLayer | Warehouse):
            role = "branch" if isinstance(module, Gate) else "kernel"
        elif prefix in fresh:
            role = "head"
        if role is None:
            continue
        for name, _ in module.named_parameters(prefix):
            attention = role == "kernel" and name.removeprefix(f"{prefix}.").startswith("attention.")
            found[name] = "branch" if attention else role
    return found


def parameter_groups(
    model: nn.Module, roles: Mapping[str, Role], tune: TuneConfig, config: OptimizerConfig
) -> list[dict[str, Any]]:
    """Groups for an optimiser, one a role with and one without weight decay.

    Without are parameters of one dimension, unless the config lets them decay. Every group has its ``role``
    beside ``lr`` and ``weight_decay``.
    """
    relative: dict[Role, float] = {
        "static": tune.static_lr,
        "kernel": tune.kernel_lr,
        "branch": tune.branch_lr,
        "head": 1.0,
    }
    spared = set(getattr(model, "no_weight_decay", lambda: ())())
    groups: dict[tuple[Role, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = config.decay_norms or (parameter.dim() > 1 and name not in spared)
            groups.setdefault((roles[name], decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr * relative[role],
            "weight_decay": config.weight_decay if decays else 0.0,
            "role": role,
        }
        for (role, decays), parameters in groups.items()
    ]
