"""Computing while a graph is traced: for which runtime, and with how many samples.

What a layer computes does not depend on it, only how: see :mod:`dynaconv.ops.graph_forms`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class GraphTarget:
    """What a graph is traced for.

    Args:
        runtime: that will run it: ``"onnxruntime"``, ``"openvino"``, ``"tensorrt"`` or ``"inductor"``.
        any_batch: whether it takes any number of samples.
    """

    runtime: str
    any_batch: bool


_target: ContextVar[GraphTarget | None] = ContextVar("graph_target", default=None)


@contextmanager
def graph_for(runtime: str, any_batch: bool) -> Iterator[GraphTarget]:
    """Within it, traced layers take the forms that suit a runtime.

    Example:
        >>> with graph_for("openvino", any_batch=True):
        ...     graph_target().runtime
        'openvino'
        >>> graph_target() is None
        True
    """
    target = GraphTarget(runtime, any_batch)
    token = _target.set(target)
    try:
        yield target
    finally:
        _target.reset(token)


def graph_target() -> GraphTarget | None:
    """What is traced for; None if nothing is, and under ``torch.compile``."""
    return _target.get() if torch.compiler.is_exporting() else None


def example_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """Sizes of the example, where some are symbols: a choice by them must not become a condition of the graph."""
    return tuple(int(size.node.hint) if isinstance(size, torch.SymInt) else size for size in sizes)  # pyright: ignore[reportArgumentType]
