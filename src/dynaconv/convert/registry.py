"""Which code plans and builds which method: a registry from config class to handler.

A method registers itself once::

    @register_method(MyConfig)
    class MyMethod:
        def plan(self, selected, config, *, trunk, other_parameters, left_static, refused): ...
        def apply(self, model, plan): ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from dynaconv.errors import DynaconvError
from dynaconv.planning import LayerSpec, Plan


class Method(Protocol):
    """How a method turns a selection into a plan, and a plan into layers."""

    def plan(
        self,
        selected: Sequence[LayerSpec],
        config: Any,
        *,
        trunk: Sequence[LayerSpec],
        other_parameters: int,
        left_static: Sequence[str],
        refused: Mapping[str, str],
    ) -> Plan:
        """Plan the selected layers."""
        ...

    def apply(self, model: nn.Module, plan: Plan) -> nn.Module:
        """Replace the planned layers; returns the network."""
        ...


_METHODS: dict[type, Method] = {}


def register_method(config_type: type) -> Callable[[type[Any]], type[Any]]:
    """Register a method's handler for its config class.

    Raises:
        DynaconvError: if the class has a handler already.
    """

    def register(handler: type[Any]) -> type[Any]:
        if config_type in _METHODS:
            raise DynaconvError(
                f"{config_type.__name__} is registered already, by {type(_METHODS[config_type]).__name__}"
            )
        _METHODS[config_type] = handler()
        return handler

    return register


def method_of(config: object) -> Method:
    """The handler of a config.

    Raises:
        DynaconvError: if there is none; it names those that exist.
    """
    handler = _METHODS.get(type(config))
    if handler is None:
        known = ", ".join(sorted(t.__name__ for t in _METHODS))
        raise DynaconvError(f"expected a config ({known}) or a Plan, got {type(config).__name__}: {config!r}")
    return handler
