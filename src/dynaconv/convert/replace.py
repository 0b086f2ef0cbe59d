"""Put a module in another's place, everywhere it is used."""

from __future__ import annotations

from torch import nn

from dynaconv.convert.select import layer_spec
from dynaconv.errors import PlanError
from dynaconv.nn.unfused import keep_unfused
from dynaconv.planning import LayerSpec


def find_layer(model: nn.Module, spec: LayerSpec) -> nn.Module:
    """The module that a spec describes.

    Raises:
        PlanError: if there is none of that name, or its sizes differ.
    """
    try:
        module = model.get_submodule(spec.name)
    except AttributeError as error:
        raise PlanError(
            f"the plan names '{spec.name}', which {type(model).__name__} does not have; plan this network itself"
        ) from error
    found = layer_spec(spec.name, module)
    if found != spec:
        raise PlanError(f"the plan was made for another '{spec.name}': it expects {spec}, the network has {found}")
    return module


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Replace the module of that name wherever the network uses it, so that shared modules stay shared.

    Blocks whose framework would fuse it away are kept from that, see :mod:`dynaconv.nn.unfused`.
    """
    old = model.get_submodule(name)
    for parent in list(model.modules()):
        for child_name, child in list(parent._modules.items()):
            if child is old:
                parent._modules[child_name] = new
                keep_unfused(parent)


_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Let the hooks that were registered on a module run on its replacement."""
    for name in _HOOKS:
        getattr(new, name).update(getattr(old, name))
