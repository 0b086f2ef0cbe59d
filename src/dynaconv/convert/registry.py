"""Which code plans and builds which method: a registry from config class to handler.

A method is registered with one line, see :mod:`dynaconv.convert.methods`; a method whose layers take a config and
stand alone needs no handler of its own, :class:`dynaconv.convert.layers.LayerMethod` is one for all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from dynaconv.config import MethodConfig
from dynaconv.convert.select import Candidates, Selection
from dynaconv.convert.warm_start import WarmStart
from dynaconv.errors import DynaconvError
from dynaconv.planning import LayerSpec, Plan


class Method(Protocol):
    """How a method turns a selection into a plan, and a plan into layers."""

    def default(self, candidates: Candidates, config: Any) -> Sequence[LayerSpec]:
        """The layers that are converted unless the user says which."""
        ...

    def narrow(
        self, chosen: Sequence[LayerSpec], literal: Collection[str], candidates: Candidates, config: Any
    ) -> Sequence[LayerSpec]:
        """Of the layers that a user's ``where`` selects, those that are meant; ``literal`` are named themselves."""
        ...

    def refuses(self, spec: LayerSpec, config: Any) -> str | None:
        """Why the method can not take a layer's place, or None."""
        ...

    def plan(self, selection: Selection, config: Any) -> Plan:
        """Plan the selected layers."""
        ...

    def apply(self, model: nn.Module, plan: Any, start: WarmStart | None = None) -> nn.Module:
        """Replace the planned layers, from their trained kernels or afresh (None); returns the network."""
        ...


_METHODS: dict[type[MethodConfig], Method] = {}


def register_method(config_type: type[MethodConfig], method: Method) -> None:
    """Register a method's handler for its config class.

    Raises:
        DynaconvError: if the class, or its method's name, has a handler already.
    """
    taken = {known.method: known for known in _METHODS}
    if config_type.method in taken:
        raise DynaconvError(
            f"method '{config_type.method}' is registered already, with {taken[config_type.method].__name__}"
        )
    _METHODS[config_type] = method


def config_types() -> dict[str, type[MethodConfig]]:
    """The config class of every registered method, by the method's name."""
    return {config_type.method: config_type for config_type in _METHODS}


def method_of(config: object) -> Method:
    """The handler of a config.

    Raises:
        DynaconvError: if there is none; it names those that exist.
    """
    handler = _METHODS.get(type(config))  # pyright: ignore[reportArgumentType]
    if handler is None:
        known = ", ".join(sorted(t.__name__ for t in _METHODS))
        raise DynaconvError(f"expected a config ({known}) or a Plan, got {type(config).__name__}: {config!r}")
    return handler


def config_from_dict(values: Mapping[str, Any]) -> MethodConfig:
    """Make the config that a dictionary describes; its ``method`` names the class, KernelWarehouse's if it does not.

    Raises:
        DynaconvError: if it is no mapping, or the method or a field is unknown.
    """
    if not isinstance(values, Mapping):
        raise DynaconvError(f"a method is a {type(values).__name__}, {values!r}; expected a mapping of its fields")
    known = config_types()
    method = values.get("method", "kernel_warehouse")
    if not isinstance(method, str) or method not in known:
        raise DynaconvError(f"method={method!r} is not known; expected one of {sorted(known)}")
    try:
        return known[method].from_dict(values)
    except DynaconvError:
        raise
    except (
        TypeError,
        ValueError,
        AttributeError,
        KeyError,
        OverflowError,
    ) as error:  # a value of a type nobody expects
        raise DynaconvError(f"the fields of method '{method}' do not fit together: {error}; got {values!r}") from error
