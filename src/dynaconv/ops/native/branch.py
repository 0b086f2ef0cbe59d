"""The call of the compiled attention branch."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dynaconv.ops.attention import EPSILON
from dynaconv.ops.native.build import library
from dynaconv.ops.watching import watched

if TYPE_CHECKING:
    from dynaconv.ops.branch import BranchWeights

RESULTS = {"logits": 0, "contrasting": 1, "nonnegative": 2, "hidden": 3}  # as in kernels.c
POINTERS = ("fc1", "shift", "norm_weight", "norm_bias", "fc2", "bias", "basis", "start")
SIZES = ("channels", "hidden", "mixtures", "logits", "columns", "local", "coded", "first", "cells", "private", "kind")


class _Branch(ctypes.Structure):
    """``Branch`` of branch.inc."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((name, ctypes.c_long) for name in SIZES),
        *((name, ctypes.c_double) for name in ("floor", "epsilon", "norm_epsilon", "share")),
    )


@functools.cache
def _function(dtype: torch.dtype) -> Callable[..., int]:
    found = library()
    assert found is not None, "ask branch_supports() first"
    function = found.branch_f32 if dtype == torch.float32 else found.branch_f64
    pointer, number = ctypes.c_void_p, ctypes.c_long
    function.argtypes = [pointer, pointer, number, number, ctypes.c_int, pointer, ctypes.c_int]
    function.restype = ctypes.c_int
    return function


def branch_supports(x: Tensor, *weights: Tensor) -> bool:
    """Whether the kernel exists and can do a branch: on the CPU, in one floating type, no gradients, no tracing."""
    if torch.compiler.is_compiling() or x.dtype not in (torch.float32, torch.float64) or x.device.type != "cpu":
        return False
    if type(x) not in (Tensor, nn.Parameter) or any(w.dtype != x.dtype or w.device != x.device for w in weights):
        return False
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *weights)):
        return False
    if torch.is_autocast_enabled("cpu") or watched() or not x.numel():
        return False
    return library() is not None


_Description = tuple[_Branch, list[Tensor], tuple[int, int]]


def describe_branch(weights: BranchWeights, result: str) -> _Description:
    """The branch as the kernel wants it, tensors that must live as long, and the shape of a sample's result.

    Made at the first call, and kept with the weights.
    """
    known: dict[str, _Description] = weights.__dict__.setdefault("_described", {})
    if result not in known:
        known[result] = _describe(weights, result)
    return known[result]


def _describe(weights: BranchWeights, result: str) -> _Description:
    norm, basis = weights.norm, weights.basis
    tensors: dict[str, Tensor | None] = {
        "fc1": weights.fc1,
        "shift": weights.shift,
        "norm_weight": None if norm is None else norm.weight,
        "norm_bias": None if norm is None else norm.bias,
        "fc2": weights.per_mixture,
        "bias": weights.bias,
        "basis": None if basis is None else basis.weight.t(),
        "start": weights.start,
    }
    kept = {name: t.detach().to(weights.fc1.dtype).contiguous() for name, t in tensors.items() if t is not None}
    mixtures, hidden, columns = weights.per_mixture.shape
    logits = weights.bias.shape[1]
    cells = weights.num_cells if weights.places is not None else logits - 1
    described = _Branch(
        **{name: t.data_ptr() for name, t in kept.items()},
        channels=weights.fc1.shape[1],
        hidden=hidden,
        mixtures=mixtures,
        logits=logits,
        columns=columns,
        local=0 if basis is None else basis.num_local,
        coded=0 if basis is None else basis.weight.shape[1],
        first=0 if basis is None else basis.first,
        cells=cells,
        private=weights.places is not None,
        kind=RESULTS[result],
        floor=EPSILON if weights.normaliser == "unit" else 0.0,
        epsilon=0.0 if weights.normaliser == "unit" else EPSILON,
        norm_epsilon=0.0 if norm is None else norm.eps,
        share=weights.share,
    )
    width = {"logits": logits, "hidden": hidden + 1}.get(result, cells)
    return described, list(kept.values()), (mixtures, width)


def branch(x: Tensor, weights: BranchWeights, result: str) -> Tensor:
    """:func:`dynaconv.ops.branch.branch`, compiled."""
    described, _, shape = describe_branch(weights, result)
    batch, channels = x.shape[:2]
    pixels = x.numel() // (batch * channels)
    rows = pixels > 1 and x.is_contiguous()  # channel by channel; else channels last
    x = x if rows else x.movedim(1, -1).contiguous()
    out = x.new_empty(batch, *shape)
    call = _function(x.dtype)
    if call(ctypes.addressof(described), x.data_ptr(), batch, pixels, rows, out.data_ptr(), torch.get_num_threads()):
        raise MemoryError("no memory for the scratch space of an attention branch")
    return out
