"""Weights in fewer bits: cells, kernels and matrices of an ONNX file as float16 or int8; all is computed in float32.

The file then holds a half or a quarter of the bytes. Before each weight stands the operation that makes float32 of it:
``Cast``, or ``DequantizeLinear`` with a scale for every slice of an axis: a cell, an input or an output channel, chosen
by the error. Runtimes compute that once, when they load the file, or at each call and keep the small weights in memory;
docs/runtimes.md says which do what.

Branches are float16 at the least: an error in attention is one in every kernel that is mixed with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dynaconv.config import check_choice
from dynaconv.errors import DynaconvError, require
from dynaconv.files import replacing

Kind = Literal["float16", "int8"]
Array = Any
"""Of NumPy, which this layer does without until it is asked to work."""

SMALLEST = 1024
"""Numbers from which a weight is worth an operation."""
NUMBERS_A_SCALE = 64
"""At least so many share one: scales, in float32, add 6 % at most. A depth-wise kernel has fewer, and stays."""
BRANCH = re.compile(r"(^|[._])attention[._]")
"""In the name of a branch's parameter; prepared branches are constants without a parameter's name (below)."""
PREPARED = re.compile(r"(^|[._])lifted_tensor_\d+(_[a-z_]+\d+)?$")
OPSET = 13
"""From which DequantizeLinear has an axis."""
LARGEST = 127


@dataclass(frozen=True)
class StoredWeights:
    """What was stored how.

    Args:
        kind: the type.
        weights: how many tensors.
        numbers: in them.
        left: numbers of the file that stay in float32.
        error: root of the mean squared error of what is stored, relative to its root mean square.
    """

    kind: Kind
    weights: int
    numbers: int
    left: int
    error: float

    def __str__(self) -> str:
        """A line."""
        share = self.numbers / (self.numbers + self.left)
        return (
            f"{self.weights} weights, {share:.1%} of all numbers, as {self.kind}: error {self.error:.1e} of their size"
        )


def store_weights(
    source: str | Path, target: str | Path, kind: Kind, *, branches: Literal["float32", "float16", "int8"] = "float16"
) -> StoredWeights:
    """Write an ONNX file again, with its weights in fewer bits.

    Args:
        source: a file whose weights are float32.
        target: the new file; may be the same.
        kind: what weights are stored as.
        branches: what those of attention branches are stored as.

    Raises:
        DynaconvError: if the kind is not known, the file is too old, or holds no such weight.
        MissingExtraError: without onnx.
        StorageError: if the system refuses to write.
    """
    check_choice("weights", kind, ("float16", "int8"))
    check_choice("branches", branches, ("float32", "float16", "int8"))
    onnx = require("onnx", "export")
    model = onnx.load(str(source))
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if kind == "int8" and opset < OPSET:
        raise DynaconvError(
            f"{source} has opset {opset}; int8 weights need {OPSET} at least: export it with a newer one"
        )
    nodes, scales, squares, errors, numbers, left, count = [], [], 0.0, 0.0, 0, 0, 0
    for held in model.graph.initializer:
        values = onnx.numpy_helper.to_array(held)
        store = STORES[branches if _is_branch(held) else kind] if _is_weight(onnx, held) else None
        stored = None if store is None else store(onnx, held.name, values)
        if stored is None:
            left += values.size * (held.data_type == onnx.TensorProto.FLOAT)
            continue
        small, scale, node, back = stored
        held.CopyFrom(small)
        nodes.append(node)
        scales += [] if scale is None else [scale]
        squares += float((values**2).sum(dtype="float64"))
        errors += float(((values - back) ** 2).sum(dtype="float64"))
        numbers += values.size
        count += 1
    if not count:
        raise DynaconvError(
            f"{Path(source).name} holds no float32 weight of {SMALLEST} numbers or more that {kind} would shrink"
        )
    model.graph.initializer.extend(scales)
    # In front of all that use them.
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    with replacing(Path(target)) as temporary:
        onnx.save(model, str(temporary))
    return StoredWeights(kind, count, numbers, left, (errors / squares) ** 0.5 if squares else 0.0)


def _is_weight(onnx: Any, held: Any) -> bool:
    numbers = 1
    for side in held.dims:
        numbers *= side
    return held.data_type == onnx.TensorProto.FLOAT and len(held.dims) >= 2 and numbers >= SMALLEST


def _is_branch(held: Any) -> bool:
    """A parameter of a branch, or a prepared branch's matrix; cells into which a branch was folded have more sides."""
    return bool(BRANCH.search(held.name) or (len(held.dims) == 2 and PREPARED.search(held.name)))


def _as_float16(onnx: Any, name: str, values: Array) -> tuple[Any, None, Any, Array] | None:
    """The stored tensor, no scale, the operation that makes float32 of it, and what that gives; None out of range."""
    np = require("numpy", "export")
    if np.abs(values).max() > np.finfo(np.float16).max:
        return None
    small = values.astype(np.float16)
    node = onnx.helper.make_node("Cast", [f"{name}.float16"], [name], f"{name}.Cast", to=onnx.TensorProto.FLOAT)
    return onnx.numpy_helper.from_array(small, f"{name}.float16"), None, node, small.astype(np.float32)


def _as_int8(onnx: Any, name: str, values: Array) -> tuple[Any, Any, Any, Array] | None:
    """The stored tensor, its scales, the operation that makes float32 of them, and what that gives."""
    axes = [axis for axis, side in enumerate(values.shape) if values.size >= NUMBERS_A_SCALE * side]
    if not axes:
        return None
    found = [(axis, *round_to_int8(values, axis)) for axis in axes]
    np = require("numpy", "export")
    back = {axis: small.astype(np.float32) * scale for axis, small, scale in found}
    axis, small, scale = min(found, key=lambda entry: float(((values - back[entry[0]]) ** 2).sum(dtype="float64")))
    from_array, (stored, scales) = onnx.numpy_helper.from_array, (f"{name}.int8", f"{name}.scale")
    node = onnx.helper.make_node("DequantizeLinear", [stored, scales], [name], f"{name}.DequantizeLinear", axis=axis)
    return from_array(small, stored), from_array(scale.reshape(-1), scales), node, back[axis]


STORES: dict[str, Callable[..., tuple[Any, Any, Any, Array] | None] | None] = {
    "float32": None,
    "float16": _as_float16,
    "int8": _as_int8,
}


def round_to_int8(values: Array, axis: int) -> tuple[Array, Array]:
    """The nearest multiples of a scale, which lets the largest number of every slice be 127.

    Args:
        values: float32, of any shape.
        axis: whose slices have a scale each.

    Returns:
        int8 of the same shape, and scales in float32 of as many dimensions, 1 long but for the axis.
    """
    np = require("numpy", "export")
    others = tuple(other for other in range(values.ndim) if other != axis)
    largest = np.abs(values).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    return np.clip(np.rint(values / scale), -LARGEST, LARGEST).astype(np.int8), scale
