"""Versions of ONNX's operators: which can be written, and how a graph gets to the oldest of them."""

from __future__ import annotations

from typing import Any

from dynaconv.errors import DynaconvError, require
from dynaconv.export.settings import Target

NATIVE = 18
"""What PyTorch's exporter writes; it converts to newer ones itself."""
OPSETS = (17, 18, 19, 20, 21, 22, 23)
"""What files can be written in: up to the newest that PyTorch's exporter, onnxruntime and OpenVINO all take. 17 is the
newest that ONNX-TensorRT's list of operators names for TensorRT 8.6; not run here."""
USUAL: dict[Target, int] = {"onnxruntime": 23, "openvino": 23, "tensorrt": 17}
"""What is written if nothing is asked for."""
AXES_TO_ATTRIBUTE = (
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
)
"""Operators whose axes became an input with opset 18."""


def check_opset(opset: int | None, target: Target = "onnxruntime") -> int:
    """The opset to write.

    Args:
        opset: what was asked for.
        target: decides if nothing was.

    Raises:
        DynaconvError: if it can not be written.
    """
    if opset is not None and opset not in OPSETS:
        known = ", ".join(map(str, OPSETS))
        raise DynaconvError(f"opset={opset}; expected one of {known}, or none for {USUAL[target]}")
    return USUAL[target] if opset is None else opset


def lower(model: Any) -> None:
    """Rewrite a model of opset 18, whose constants are initializers, for opset 17; in place.

    ONNX's own converter knows no way back for Pad, and leaves attributes that 17 does not have.

    Args:
        model: of onnx_ir.

    Raises:
        DynaconvError: if it holds operators that 17 does not have.
    """
    ir, schemas = require("onnx_ir", "export"), require("onnx.defs", "export")
    for node in model.graph.all_nodes():
        if node.domain:
            continue
        if node.op_type in AXES_TO_ATTRIBUTE:
            _axes_to_attribute(node, ir)
        elif node.op_type == "Split" and "num_outputs" in node.attributes:
            node.attributes.pop("num_outputs")  # as many as there are outputs, of equal parts: 17 knows no other
        elif node.op_type == "Resize":
            for name in ("antialias", "axes", "keep_aspect_ratio_policy"):
                if name in node.attributes and node.attributes[name].value not in (0, "stretch"):
                    raise DynaconvError(f"opset 17 has no Resize with {name}; expected 18 or newer")
                node.attributes.pop(name, None)
        elif node.op_type == "Pad" and len(node.inputs) > 3 and node.inputs[3] is not None:
            raise DynaconvError("opset 17 has no Pad of some axes; expected opset 18 or newer")
        try:
            schemas.get_schema(node.op_type, 17)
        except schemas.SchemaError as error:
            raise DynaconvError(f"opset 17 has no operator {node.op_type}; expected opset 18 or newer") from error
    model.graph.opset_imports[""] = 17


def _axes_to_attribute(node: Any, ir: Any) -> None:
    whole = node.attributes.pop("noop_with_empty_axes", None)
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is None:
        if whole is not None and whole.value:
            raise DynaconvError(f"opset 17 has no {node.op_type} of no axes; expected opset 18 or newer")
        return
    if axes.const_value is None:
        raise DynaconvError(f"opset 17 has no {node.op_type} whose axes are computed; expected opset 18 or newer")
    node.attributes["axes"] = ir.AttrInt64s("axes", axes.const_value.numpy().tolist())
    node.resize_inputs(1)
