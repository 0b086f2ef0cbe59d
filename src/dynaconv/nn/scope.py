"""The part of a network in which layers are known to be followed by their norms: one module's ``forward``.

What was found out about a forward holds while it runs. A layer that is called from elsewhere (a feature extractor, a
test, another module) gives what it always gives.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.nn.dressing import dress, plain_class, undress

SCOPE = "_norm_scope"


class _Running(threading.local):
    """Scopes that run in this thread, the innermost last."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []


_running = _Running()


class Scope:
    """A module whose forward was followed with so many tensors, and what it was when it was.

    Args:
        owner: the module.
        opened: the owner, and the modules inside it that were followed too.
        arity: tensors that forward was called with.
    """

    def __init__(self, owner: nn.Module, opened: Sequence[nn.Module], arity: int) -> None:
        self.owner, self.arity = owner, arity
        self.inner = [module for module in opened if module is not owner]
        self.children = [(module, tuple(module._modules.values())) for module in opened]

    def holds(self) -> bool:
        """Whether the modules are what they were: in evaluation, with the same children, and nobody's hooks inside."""
        for module, children in self.children:
            if module.training or tuple(module._modules.values()) != children:
                return False
        for module in self.inner:
            if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
                return False
        return True

    def covers(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call is one that was followed."""
        if module is not self.owner or kwargs or len(args) != self.arity:
            return False
        for value in args:
            if not isinstance(value, Tensor):
                return False
        return self.holds()

    def is_running(self) -> bool:
        """Whether its module's forward runs now, in this thread."""
        return self in _running.scopes


@functools.cache
def _scoped(cls: type[nn.Module]) -> Callable[..., Any]:
    """A module's forward that says while it runs."""
    plain = cls.forward

    @functools.wraps(plain)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        scope = getattr(self, SCOPE, None)
        if scope is None or torch.compiler.is_compiling() or torch.is_grad_enabled():
            return plain(self, *args, **kwargs)
        if not scope.covers(self, args, kwargs):
            return plain(self, *args, **kwargs)
        _running.scopes.append(scope)
        try:
            return plain(self, *args, **kwargs)
        finally:
            _running.scopes.pop()

    return forward


def open_scope(module: nn.Module, opened: Sequence[nn.Module], arity: int) -> Scope:
    """From now on the module's forward is a scope."""
    scope = Scope(module, opened, arity)
    dress(module, _scoped(plain_class(module)), SCOPE)
    vars(module)[SCOPE] = scope
    return scope


def close_scope(module: nn.Module) -> None:
    """From now on the module's forward is no scope."""
    if SCOPE in vars(module):
        undress(module, SCOPE)
