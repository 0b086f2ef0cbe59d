"""Computing while a graph is traced: for which runtime, and with how many samples.

What a layer computes does not depend on it, only how. Runtimes read no convolution whose groups depend on the number of
samples. What is left, and was measured by ``benchmarks/export_graphs.py`` (``docs/export-graphs.md``):

``"patches"``: the input under every position of the kernel, one above the other, times the kernels: one batched
product (:mod:`dynaconv.ops.patches`). Nothing depends on the number of samples. Of depth-wise layers a product is a
factor a channel, and sums are taken one position after the other.

``"conv"``: one convolution with weights that are computed; samples are groups, so their number is fixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from dynaconv.ops.geometry import Geometry


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
        >>> with graph_for("openvino", any_batch=True) as target:
        ...     target.runtime
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


def copied(x: Tensor) -> Tensor:
    """Before an operator that would ask, and make it a condition of the graph, whether the batch is 1: view or copy."""
    return x.clone(memory_format=torch.contiguous_format)


def apart(x: Tensor) -> Tensor:
    """A layer's input: where it is a view in a traced graph, such as a part of another map's channels, its copy."""
    target = graph_target()
    return copied(x) if target is not None and target.any_batch and x._is_view() else x


LARGEST_CONV_KERNEL = {"onnxruntime": 2**20, "openvino": 2**19, "tensorrt": 0, "inductor": 2**20}
"""Elements of a sample's kernel up to which ``"conv"`` takes less time than ``"patches"``, by runtime.

TensorRT was not measured; a convolution whose weights are computed is none of its ordinary operators.
"""


def choose_form(target: GraphTarget, kernel: Sequence[int], geometry: Geometry) -> str:
    """The form that takes least time.

    Args:
        target: what is traced for.
        kernel: shape of a sample's kernel, ``(O, C / groups, *k)``.
        geometry: of the convolution.
    """
    depthwise = kernel[1] == 1 and geometry.groups == kernel[0]
    if target.any_batch or (geometry.is_pointwise and not depthwise):
        return "patches"
    return "conv" if math.prod(kernel) <= LARGEST_CONV_KERNEL[target.runtime] else "patches"
