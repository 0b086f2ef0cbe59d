"""What an ONNX graph says beside its operators and numbers: names of nodes, values and sizes; all else goes.

In networks of many small layers that is what a file takes beyond its checkpoint.
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Collection, Iterator
from typing import Any

from dynaconv.errors import require
from dynaconv.export.signature import axis_names

NOWHERE = "_empty_nn_module_stack_from_metadata_hook"
"""In place of a module's name at nodes that PyTorch adds for sizes of inputs."""


def name_nodes(graph: Any) -> None:
    """Name nodes by the module whose code they come from, ``layer1.0.conv1/MatMul_12``; drop traces of the code."""
    for number, node in enumerate(graph.all_nodes()):
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
        names = [name for name in _strings(scopes)[:-1] if name and name != NOWHERE]
        node.name = "/".join([*names[-1:], f"{node.op_type}_{number}"])
        node.metadata_props.clear()
        node.doc_string = None


def _strings(text: str) -> list[str]:
    """The texts of a list as Python prints it."""
    try:
        return [str(part) for part in json.loads(text.replace("'", '"'))] if text else []
    except json.JSONDecodeError:
        return []


def name_dimensions(graph: Any) -> None:
    """Call what varies by its name, and leave to runtimes what follows from it."""
    ir = require("onnx_ir", "export")
    named: dict[str, str] = {}
    for value in graph.inputs:
        shape = [] if value.shape is None else list(value.shape)
        for axis, dim in enumerate(shape):
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                named.setdefault(dim.value, axis_names(len(shape))[axis])
    for value in (*graph.inputs, *graph.outputs):
        value.metadata_props.clear()
        value.doc_string = None
        if value.shape is not None:
            value.shape = ir.Shape(
                [
                    ir.SymbolicDim(named.get(dim.value)) if isinstance(dim, ir.SymbolicDim) else dim
                    for dim in value.shape
                ]
            )
    kept = {id(value) for value in (*graph.inputs, *graph.outputs)}
    for node in graph.all_nodes():
        for value in node.outputs:
            value.metadata_props.clear()
            if id(value) not in kept:
                value.shape = value.type = None
    for value in graph.initializers.values():
        value.metadata_props.clear()
        value.doc_string = None
        if id(value) not in kept:
            value.shape = value.type = None  # the numbers have both


def shorten_names(graph: Any, kept: Collection[str]) -> None:
    """Give values that nobody asks for the shortest names that are free.

    Args:
        graph: of onnx_ir.
        kept: names that stay, beside those of inputs and outputs.
    """
    made = [value for node in graph.all_nodes() for value in node.outputs]
    stay = {id(value) for value in (*graph.inputs, *graph.outputs)}
    values = [value for value in (*graph.initializers.values(), *made) if value.name and id(value) not in stay]
    read = {value.name for node in graph.all_nodes() for value in node.inputs if value is not None}
    taken = {*kept, *read, *(value.name for value in (*graph.inputs, *graph.outputs, *values))}
    free = (name for name in _short_names() if name not in taken)
    for value in values:
        if value.name not in kept:
            value.name = next(free)


def _short_names() -> Iterator[str]:
    """a, b, ..., z, aa, a0, ...: a letter, then letters and digits."""
    for length in itertools.count():
        for parts in itertools.product(string.ascii_lowercase, *[string.ascii_lowercase + string.digits] * length):
            yield "".join(parts)


def drop_defaults(model: Any) -> None:
    """Drop attributes that say what their operator does without them."""
    schemas, helper = require("onnx.defs", "export"), require("onnx.helper", "export")
    number, known = model.opset_imports[""], dict[str, dict[str, Any]]()
    for node in model.graph.all_nodes():
        if node.domain:
            continue
        if node.op_type not in known:
            attributes = schemas.get_schema(node.op_type, number).attributes.items()
            known[node.op_type] = {
                name: helper.get_attribute_value(one.default_value)
                for name, one in attributes
                if one.default_value.name
            }
        for name, default in known[node.op_type].items():
            if name in node.attributes and _equal(node.attributes[name].value, default):
                node.attributes.pop(name)
        if "allowzero" in node.attributes and node.inputs[1].const_value is not None:
            if node.inputs[1].const_value.numpy().all():
                node.attributes.pop("allowzero")  # which says what a side of 0 means


def _equal(value: Any, default: Any) -> bool:
    """Whether an attribute is its default, which is in float32, and a text in bytes."""
    if isinstance(value, str):
        return value.encode() == default
    return bool(require("numpy", "export").float32(value) == default) if isinstance(value, float) else value == default
