"""Fields of settings: from plain types and back, each of its declared type and finite.

No torch here: the command line reads settings to build its flags, and must start quickly.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any

from dynaconv.errors import DynaconvError


def require_that(holds: bool, name: str, value: object, expected: str) -> None:
    """Refuse a setting outside its domain.

    Raises:
        DynaconvError: if it does not hold.
    """
    if not holds:
        raise DynaconvError(f"{name}={shown(value)}; expected {expected}")


def check_fields(config: Any, name: str) -> None:
    """Refuse a dataclass with a value of another type than declared, or a number that is not finite.

    Args:
        config: an instance.
        name: of it, for errors; empty for the outermost.

    Raises:
        DynaconvError: which names the field.
    """
    for key, hint in _hints(type(config)).items():
        value = getattr(config, key)
        if not _fits(value, hint):
            raise DynaconvError(f"{name}{'.' if name else ''}{key}={shown(value)}; expected {_said(hint)}")


def build(cls: type, values: Any, name: str) -> Any:
    """An instance of a dataclass from plain types; fields that are missing keep their defaults.

    Args:
        cls: the dataclass, whose fields may be dataclasses.
        values: a mapping of fields.
        name: of it, for errors.

    Raises:
        DynaconvError: on unknown fields, or values outside their domain.
    """
    if not isinstance(values, Mapping):
        raise DynaconvError(f"{name} is a {type(values).__name__}; expected a mapping of fields")
    hints = _hints(cls)
    if unknown := sorted(map(str, set(values) - hints.keys())):
        raise DynaconvError(f"{name} has unknown fields {unknown}; known are {sorted(hints)}")
    built = {}
    for key, value in values.items():
        choices = typing.get_args(hints[key]) or (hints[key],)
        inner = [choice for choice in choices if is_dataclass(choice)]
        if inner and (value is not None or types.NoneType not in choices):
            value = build(typing.cast(type, inner[0]), value, key)
        elif isinstance(value, list) and any(typing.get_origin(t) is tuple for t in (hints[key], *choices)):
            value = tuple(value)
        elif not _fits(value, hints[key]):
            raise DynaconvError(f"{name}.{key}={shown(value)}; expected {_said(hints[key])}")
        built[key] = value
    needed = [field.name for field in fields(cls) if field.default is field.default_factory is MISSING]
    if missing := [key for key in needed if key not in built]:
        raise DynaconvError(f"{name} has no {' and no '.join(missing)}, and needs it")
    return cls(**built)


def plain(value: Any) -> Any:
    """Mappings and sequences as dictionaries and lists, ready for YAML or JSON."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def shown(value: object) -> str:
    """A value as text for an error, not too long; Python shows no number of thousands of digits."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:200]}..."


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def _said(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(typing.get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in arguments)
    if origin is typing.Literal:
        return isinstance(value, str) and value in arguments
    if origin is tuple:
        if not isinstance(value, tuple | list):
            return False
        items = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        return len(items) == len(value) and all(map(_fits, value, items))
    if origin is list:
        return isinstance(value, list) and all(_fits(item, arguments[0]) for item in value)
    if origin is not None:  # mappings
        return isinstance(value, origin) and all(_fits(key, arguments[0]) for key in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)
    if hint is int and isinstance(value, bool):
        return False
    return isinstance(value, hint)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False
