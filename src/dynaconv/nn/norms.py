"""Folding every BatchNorm of a network into the dynamic layer that it follows, and taking it back."""

from __future__ import annotations

from torch import nn

from dynaconv.nn.base import DynamicLayer
from dynaconv.nn.dressing import why_not_dressed
from dynaconv.nn.following import (
    FoldedNorm,
    let_through,
    scale_and_shift_of,
    stop_letting_through,
    why_not,
)
from dynaconv.nn.prepared import Watch
from dynaconv.nn.scope import Scope, close_scope, open_scope
from dynaconv.nn.tracing import Followed, find_norms


def fold_norms(model: nn.Module, all_methods: bool) -> None:
    """Let dynamic layers compute the BatchNorm behind them, where there is one and it is known to be there.

    Args:
        model: a network in evaluation, nothing of it folded.
        all_methods: those too that it does not make faster.
    """
    names = {module: name for name, module in model.named_modules()}
    layers = [module for module in names if isinstance(module, DynamicLayer) and module.folds_norm]
    for layer in layers:
        if not layer.norm_pays and not all_methods:
            layer.keep_norm("its method gains nothing by it, see fold_norms='all'")
    layers = [layer for layer in layers if layer.norm_pays or all_methods]
    scopes: dict[nn.Module, Scope] = {}
    for layer, found in find_norms(model, layers).items():
        reason = found if isinstance(found, str) else _why_not(layer, found, names)
        if isinstance(found, str) or reason is not None:
            layer.keep_norm(reason)
            continue
        if found.owner not in scopes:
            scopes[found.owner] = open_scope(found.owner, found.opened, found.arity)
        layer.keep_norm(_fold(layer, found.norm, names[found.norm], scopes[found.owner]))


def _why_not(layer: DynamicLayer, found: Followed, names: dict[nn.Module, str]) -> str | None:
    channels = getattr(layer, "out_channels", None) or layer.out_features
    reason = why_not(found.norm, channels, getattr(layer, "dims", 0), next(layer.parameters()))
    reason = reason or why_not_dressed(found.norm)
    return None if reason is None else f"{names[found.norm]} {reason}"


def _fold(layer: DynamicLayer, norm: nn.Module, name: str, scope: Scope) -> FoldedNorm:
    output = layer.fold_output(*scale_and_shift_of(norm)).rounded(next(layer.parameters()).dtype)
    watch = Watch(alone=(norm, *layer.parts_of_output()))
    return FoldedNorm(name, norm, norm.eps, output, let_through(norm), scope, watch)  # pyright: ignore[reportArgumentType]


def unfold_norms(model: nn.Module) -> None:
    """Let every norm act again."""
    for module in model.modules():
        if isinstance(module, DynamicLayer):
            module.keep_norm(None)
        stop_letting_through(module)
        close_scope(module)
