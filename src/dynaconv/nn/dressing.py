"""Modules that compute otherwise while a network is prepared: by a class of the same name with another ``forward``.

The class is put on the instance, as ``torch.nn.utils.parametrize`` does; hooks can not skip a forward, and a function
on the instance would go with copies and bind them to the original. A dressed module is copied and pickled as the plain
module that it was.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

PLAIN = "_plain_class"
HIDDEN = "_hidden_attribute"


class _Dressed:
    """Base of all dressed classes."""

    _plain_class: type[nn.Module]
    _hidden_attribute: str

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles are of the plain class.

        By the first protocol, since pickle refuses another class than the object's in the later ones.
        """
        plain = object.__new__(self._plain_class)
        vars(plain).update({name: value for name, value in vars(self).items() if name != self._hidden_attribute})
        return plain.__reduce_ex__(1)


@functools.cache
def _dressed(cls: type[nn.Module], forward: Callable[..., Any], hidden: str) -> type[nn.Module]:
    names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    contents = {**names, PLAIN: cls, HIDDEN: hidden, "forward": forward}
    return type(cls)(cls.__name__, (_Dressed, cls), contents)  # pyright: ignore[reportCallIssue]


def is_dressed(module: nn.Module) -> bool:
    """Whether a module computes otherwise now, and nothing was put on top of that."""
    return PLAIN in vars(type(module))


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module, the plain one if it is dressed."""
    return vars(type(module)).get(PLAIN, type(module))


def why_not_dressed(module: nn.Module) -> str | None:
    """Why a module can not be dressed; None if it can."""
    cls = plain_class(module)
    if "forward" in vars(module):
        return "has a forward of its own"
    if hasattr(cls, "__deepcopy__") or cls.__reduce_ex__ is not object.__reduce_ex__:
        return "is copied in a way of its own"
    return None


def dress(module: nn.Module, forward: Callable[..., Any], hidden: str) -> None:
    """Let a module compute with another ``forward``.

    Args:
        module: which :func:`why_not_dressed` lets.
        forward: one for all modules of a class, called with the module.
        hidden: attribute of the module that copies are not to have.
    """
    module.__class__ = _dressed(type(module), forward, hidden)


def undress(module: nn.Module, hidden: str) -> None:
    """Let a module compute as ever, and take away the hidden attribute."""
    vars(module).pop(hidden, None)
    if is_dressed(module):
        module.__class__ = plain_class(module)
