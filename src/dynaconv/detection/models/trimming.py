"""Taking out of a network what its levels do not need, so that all that is left is trained.

A parameter without a gradient stops training on several processes. The classifier goes, and with it a warehouse that it
alone drew on; a warehouse that it shared with others stays whole, as its other layers train it.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from dynaconv.nn import Warehouses, dynamic_layers


def trim(network: nn.Module, needed: Collection[str]) -> None:
    """Replace modules none of whose parameters are needed by identities; what can not be taken out stands still.

    Args:
        network: it is changed.
        needed: names of parameters.
    """
    needed_ids = {id(parameter) for name, parameter in network.named_parameters() if name in set(needed)}
    _trim_children(network, needed_ids)
    houses = getattr(network, "warehouses", None)
    if isinstance(houses, Warehouses) and not len(houses):
        del network.warehouses
    for parameter in network.parameters():
        if id(parameter) not in needed_ids:
            parameter.requires_grad_(False)


def _trim_children(module: nn.Module, needed: Collection[int]) -> None:
    for name, child in list(module.named_children()):
        parameters = list(child.parameters())
        if any(id(parameter) in needed for parameter in parameters):
            _trim_children(child, needed)
        elif isinstance(module, Warehouses):
            del module[name]
        elif parameters:
            setattr(module, name, nn.Identity())


def still_modules(network: nn.Module, needed: Collection[str]) -> list[str]:
    """Names of the modules that stand still with the first stages: those that hold nothing else.

    A warehouse is one of them only if no layer outside draws on its cells.

    Args:
        network: trimmed.
        needed: names of the parameters that the last of these stages depends on.
    """
    needed = set(needed)
    frozen = {id(p) for name, p in network.named_parameters() if name in needed}
    for layer in dynamic_layers(network):
        parts = layer.borrowed_parts().values()
        if not all(id(parameter) in frozen for parameter in layer.parameters()):
            frozen -= {id(parameter) for part in parts for parameter in part.parameters()}
    names: list[str] = []
    for name, module in network.named_modules():
        parameters = list(module.parameters())
        inside = any(name == outer or name.startswith(f"{outer}.") for outer in names)
        if name and not inside and parameters and all(id(parameter) in frozen for parameter in parameters):
            names.append(name)
    return names
