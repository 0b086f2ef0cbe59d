"""Which BatchNorm follows which layer: followed through the network's own code, not guessed from names or order.

A module's ``forward`` runs once on symbols (torch.fx) in place of tensors. What it calls are boxes, but for modules in
which layers wait for an answer. A norm follows a layer if both are called once, and the layer's output goes to that
norm and nowhere else. Code that looks at values, as on sizes, has no answer that holds for all, and its layers and
norms stay as they are.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from dynaconv.nn.base import DynamicLayer
from dynaconv.nn.dressing import why_not_dressed
from dynaconv.nn.following import norm_kind


@dataclass(frozen=True)
class Followed:
    """A layer and the norm behind it, in one call of a module.

    Args:
        norm: behind the layer.
        owner: the module whose forward calls both.
        opened: the owner, and the modules inside it that were followed too.
        arity: tensors that the owner is called with.
    """

    norm: nn.Module
    owner: nn.Module
    opened: tuple[nn.Module, ...]
    arity: int


class _Caller(nn.Module):
    """A module that calls another, whose optional inputs stay what they are by default."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


_CALLERS = [
    type("Caller", (_Caller,), {"forward": forward})
    for forward in (  # torch.fx counts the inputs by their names
        lambda self, a: self.module(a),
        lambda self, a, b: self.module(a, b),
        lambda self, a, b, c: self.module(a, b, c),
        lambda self, a, b, c, d: self.module(a, b, c, d),
    )
]


class _Tracer(fx.Tracer):
    """Follows a call of a module; its outputs are watched, since code may keep them where the graph does not show."""

    def __init__(self, opened: Sequence[nn.Module]) -> None:
        super().__init__()
        self.opened = {id(module) for module in opened}
        self.outputs: dict[fx.Node, weakref.ref[fx.Proxy]] = {}
        self.kept: set[fx.Node] = set()
        self.thread = threading.get_ident()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return id(m) not in self.opened

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self.thread:  # torch.fx stands between all modules and all threads
            return forward(*args, **kwargs)
        if id(m) in self.opened:
            return m.forward(*args, **kwargs)  # without hooks, which are not meant for symbols
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        proxy = super().proxy(node)
        self.outputs[node] = weakref.ref(proxy)
        return proxy

    def follow(self, caller: nn.Module) -> fx.Graph:
        """The graph of a call, and in ``kept`` the outputs that somebody still holds after it."""
        graph = self.trace(caller)
        self.kept = {node for node, output in self.outputs.items() if output() is not None}
        return graph


@contextmanager
def _unchanged(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Take back what code writes to modules."""
    before = [dict(vars(module)) for module in modules]
    tables = [{name: dict(vars(m)[name]) for name in ("_parameters", "_buffers", "_modules")} for m in modules]
    try:
        yield
    finally:
        for module, attributes, contents in zip(modules, before, tables, strict=True):
            vars(module).clear()
            vars(module).update(attributes)
            for name, content in contents.items():
                vars(module)[name].clear()
                vars(module)[name].update(content)


def find_norms(model: nn.Module, layers: Sequence[DynamicLayer]) -> dict[DynamicLayer, Followed | str]:
    """The norm behind every layer.

    Args:
        model: a network in evaluation.
        layers: of the network.

    Returns:
        For every layer what was found, or why there is nothing to fold.
    """
    found: dict[DynamicLayer, Followed | str] = {}
    waiting = {id(layer) for layer in layers}
    for owner in reversed([m for m in model.modules() if not isinstance(m, DynamicLayer)]):
        opened = [m for m in owner.modules() if not isinstance(m, DynamicLayer) and _contains(m, waiting)]
        if not opened or type(owner).forward is nn.Module.forward or isinstance(owner, _WITHOUT_FORWARD):
            continue
        for layer, answer in _follow(owner, opened, waiting).items():
            found[layer] = answer
            waiting.discard(id(layer))
    return {layer: found.get(layer, "no module that calls it hands its output to a BatchNorm") for layer in layers}


_WITHOUT_FORWARD = (nn.ModuleList, nn.ModuleDict)


def _contains(module: nn.Module, waiting: set[int]) -> bool:
    return any(id(inner) in waiting for inner in module.modules())


def _follow(owner: nn.Module, opened: Sequence[nn.Module], waiting: set[int]) -> dict[DynamicLayer, Followed | str]:
    """Answers for the layers in a module, of those that wait; none for those whose output the module returns."""
    inside = [m for m in owner.modules() if isinstance(m, DynamicLayer) and id(m) in waiting]
    name = type(owner).__name__
    reason = why_not_dressed(owner)
    if reason is not None:
        return dict.fromkeys(inside, f"{name}, which calls it, {reason}")
    required = [
        p
        for p in inspect.signature(owner.forward).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    arity = max(len(required), 1)
    if arity > len(_CALLERS):
        return dict.fromkeys(inside, f"{name}, which calls it, takes {arity} inputs")
    caller, tracer = _CALLERS[arity - 1](owner), _Tracer(opened)
    try:
        with _unchanged(opened):
            graph = tracer.follow(caller)
    except Exception as error:  # whatever the code of a network may raise on symbols
        text = str(error).strip().partition("\n")[0]
        return dict.fromkeys(inside, f"{name}, which calls it, can not be followed ({type(error).__name__}: {text})")
    calls: dict[nn.Module, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls.setdefault(caller.get_submodule(node.target), []).append(node)
    found: dict[DynamicLayer, Followed | str] = {}
    for layer in inside:
        answer = _norm_behind(calls.get(layer, []), calls, caller, tracer)
        if isinstance(answer, nn.Module):
            found[layer] = Followed(answer, owner, tuple(opened), arity)
        elif answer is not None:
            found[layer] = answer
    return found


def _norm_behind(
    nodes: list[fx.Node], calls: dict[nn.Module, list[fx.Node]], caller: nn.Module, tracer: _Tracer
) -> nn.Module | str | None:
    """The norm behind a layer that is called there; or why there is none; None if the output is handed out."""
    if not nodes:
        return None
    if len(nodes) > 1:
        return f"it is called {len(nodes)} times"
    (node,) = nodes
    if node in tracer.kept:
        return "its output is kept"
    if len(node.users) != 1:
        return f"its output goes to {len(node.users)} places"
    (user,) = node.users
    if user.op == "output":
        return None
    if user.op != "call_module":
        return f"its output goes to {getattr(user.target, '__name__', user.target)}"
    module = caller.get_submodule(str(user.target))
    if norm_kind(module) is None:
        return f"its output goes to a {type(module).__name__}"
    if len(calls[module]) > 1:
        return f"its norm is called {len(calls[module])} times"
    if user.args != (node,) or user.kwargs:
        return "its norm takes other inputs too"
    return module
