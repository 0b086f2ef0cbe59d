"""Looking at attention where a layer computes it, or putting another in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from dynaconv.errors import DynaconvError
from dynaconv.nn.base import Attentions, DynamicLayer

Watcher = Callable[[Attentions], Attentions | None]
"""Is given what a layer attends with, by kind; what it returns takes its place, nothing leaves it."""


def attending_layers(model: nn.Module) -> dict[str, DynamicLayer]:
    """Layers that mix kernels by attention and let others see it, by name, in module order.

    KernelWarehouse, ODConv, DY-Conv and CondConv do. A layer that stands in two places has the name of the first.
    """
    return {name: m for name, m in model.named_modules() if isinstance(m, DynamicLayer) and m.shows_attention}


@contextmanager
def watching(watchers: Mapping[DynamicLayer, Watcher]) -> Iterator[None]:
    """Within it, each layer shows its attention to its watcher, at every forward pass.

    Attention comes by kind: ``"cells"`` of shape ``(B, m, n)`` (KernelWarehouse), ``"kernel"`` of shape ``(B, K)``
    (ODConv, DY-Conv, CondConv), ``"channel"``, ``"filter"`` and ``"spatial"`` of shape ``(B, size)`` (ODConv).
    Layers that are prepared for inference compute it as they would unprepared.

    Args:
        watchers: one for each layer of interest.

    Raises:
        DynaconvError: if a layer does not mix by attention, or is watched already.

    Example:
        >>> import torch
        >>> from dynaconv.nn import DYConv2d
        >>> layer, seen = DYConv2d(3, 4, 3), []
        >>> with watching({layer: lambda attentions: seen.append(attentions["kernel"])}):
        ...     y = layer(torch.randn(2, 3, 5, 5))
        >>> seen[0].shape
        torch.Size([2, 4])
    """
    for layer in watchers:
        if not layer.shows_attention:
            raise DynaconvError(
                f"{type(layer).__name__} does not mix kernels by attention; expected a layer of KernelWarehouse, "
                "ODConv, DY-Conv or CondConv"
            )
        if layer.watcher is not None:
            raise DynaconvError(f"{type(layer).__name__} '{layer.layer_name}' is watched already; leave that first")
    try:
        for layer, watcher in watchers.items():
            layer.watcher = watcher
        yield
    finally:
        for layer in watchers:
            layer.watcher = None
