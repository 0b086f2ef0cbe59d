"""Programs as ONNX files: written by PyTorch's exporter, folded, named, described and checked."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from dynaconv._version import __version__
from dynaconv.errors import DynaconvError, require
from dynaconv.export.locate import last_nodes
from dynaconv.export.onnx_names import drop_defaults, name_dimensions, name_nodes, shorten_names
from dynaconv.export.opsets import NATIVE, lower

LARGEST_BYTES = 2 * 10**9
"""A file of ONNX ends at 2 GiB; larger networks keep their numbers beside it."""
FOLDED_NUMBERS = 2**6
"""Results of more are not computed ahead where they take more room than what they are computed from."""
HASH_LETTERS = 12
"""Of the content in the name of a file of numbers."""
PREFIX = "dynaconv."
"""Of the keys of what a file says of itself."""


@dataclass(frozen=True)
class OnnxFile:
    """What was written.

    Args:
        program: PyTorch's program after decomposition; the values that its modules end with bear its nodes' names.
        opset: of ONNX's operators.
        external: file of the numbers, if they stand beside the graph.
    """

    program: ExportedProgram
    opset: int
    external: Path | None


def write_onnx(
    program: ExportedProgram,
    path: Path,
    opset: int = NATIVE,
    inputs: Sequence[str] = ("images",),
    outputs: Sequence[str] = ("logits",),
    properties: Mapping[str, Any] | None = None,
) -> OnnxFile:
    """Write a program.

    Args:
        program: of :func:`dynaconv.export.program.trace`.
        path: the file; where the network is too large for one, its numbers go to a file with ``.data`` behind the name.
        opset: of ONNX's operators, one of :data:`dynaconv.export.opsets.OPSETS`.
        inputs: names of the inputs.
        outputs: names of the outputs.
        properties: what the file says of itself; a text as it is, other values as JSON.

    Raises:
        DynaconvError: if the exporter refuses the program.
        MissingExtraError: without onnx, onnxscript.
    """
    ir = require("onnx_ir", "export")
    require("onnxscript", "export")
    try:
        with _quiet():
            made = torch.onnx.export(
                program,
                (),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=max(opset, NATIVE),
                input_names=list(inputs),
                output_names=list(outputs),
            )
    except torch.onnx.errors.OnnxExporterError as error:
        cause = error.__cause__ or error
        raise DynaconvError(f"PyTorch's ONNX exporter refuses the network: {str(cause).splitlines()[0]}") from error
    if made is None or made.exported_program is None:
        raise DynaconvError("PyTorch's ONNX exporter gave no program")
    model: Any = made.model
    kept = {*model.graph.initializers, *(node.name for node in last_nodes(made.exported_program.graph).values())}
    _fold(model)
    named = (*zip(model.graph.inputs, inputs, strict=False), *zip(model.graph.outputs, outputs, strict=False))
    for value, name in named:  # where a value is given twice, or an input is given, folding changes names
        value.name = name
    if opset < NATIVE:
        lower(model)
    name_nodes(model.graph)
    name_dimensions(model.graph)
    shorten_names(model.graph, kept)
    drop_defaults(model)
    model.producer_name, model.producer_version = "dynaconv", __version__
    model.metadata_props.clear()
    model.graph.metadata_props.clear()  # PyTorch's program, spelt out
    for key, value in (properties or {}).items():
        model.metadata_props[PREFIX + key] = value if isinstance(value, str) else json.dumps(value)
    helper, number = require("onnx.helper", "export"), model.opset_imports[""]
    model.ir_version = helper.find_min_ir_version_for([helper.make_opsetid("", number)])
    external = None
    if sum(value.const_value.nbytes for value in model.graph.initializers.values()) > LARGEST_BYTES:
        external = path.with_name(path.name + ".data")
    ir.save(model, path, external_data=None if external is None else external.name)
    require("onnx.checker", "export").check_model(str(path), full_check=True)
    return OnnxFile(made.exported_program, model.opset_imports[""], external)


def move_numbers(path: Path, file: Path, name: str) -> Path:
    """Give the file of a graph's numbers another name, which the graph then refers to.

    Args:
        path: the graph.
        file: the numbers, in the same folder.
        name: new.

    Returns:
        The renamed file.
    """
    onnx = require("onnx", "export")
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name
    path.write_bytes(model.SerializeToString())
    return file.replace(file.with_name(name))


def name_by_content(path: Path, file: Path) -> Path:
    """Name the file of a graph's numbers by what it holds, so that no graph ever finds other numbers than its own.

    Args:
        path: the graph.
        file: the numbers.

    Returns:
        The renamed file, ``NAME.onnx.HASH.data``.
    """
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return move_numbers(path, file, f"{path.name}.{digest[:HASH_LETTERS]}.data")


def numbers_beside(path: Path) -> list[Path]:
    """Files of numbers that were written for a graph of this name, whichever graph is there now."""
    ours = re.compile(re.escape(path.name) + rf"(\.[0-9a-f]{{{HASH_LETTERS}}})?\.data")
    return [file for file in path.parent.iterdir() if ours.fullmatch(file.name)]


def read_properties(path: str | Path) -> dict[str, str]:
    """What a file of ours says of itself, by key: ``classes``, ``preprocessing`` (JSON), ``description``, ..."""
    onnx = require("onnx", "export")
    found = {entry.key: entry.value for entry in onnx.load(str(path), load_external_data=False).metadata_props}
    return {key.removeprefix(PREFIX): value for key, value in found.items() if key.startswith(PREFIX)}


def _fold(model: Any) -> None:
    """Compute what is constant, and keep everything once.

    The passes of onnxscript's optimiser but for its rewriting rules, which take nine tenths of its time; runtimes have
    rules of their own.
    """
    common = require("onnx_ir.passes.common", "export")
    folding = require("onnxscript.optimizer", "export")
    passes = (
        common.InlinePass(),
        _Function(lambda m: folding.fold_constants(m, output_size_limit=FOLDED_NUMBERS, should_fold=_may_fold)),
        _Function(_drop_zero_biases),
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(size_limit=2**31),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )
    for step in passes:
        step(model)


def _may_fold(node: Any) -> bool | None:
    """No, where a table would be stored in a wider type; else as the optimiser decides, which counts numbers alone."""
    source = node.inputs[0].const_value if node.op_type == "Cast" and node.inputs[0] is not None else None
    if source is None or source.size <= FOLDED_NUMBERS:
        return None
    ir = require("onnx_ir", "export")
    return False if ir.DataType(node.attributes["to"].value).itemsize > source.dtype.itemsize else None


def _drop_zero_biases(model: Any) -> None:
    """Take from convolutions the zeros that the exporter gives those without a bias, to 3-D ones in a wrong shape."""
    for node in model.graph.all_nodes():
        if node.op_type == "Conv" and len(node.inputs) == 3 and node.inputs[2] is not None:
            bias = node.inputs[2].const_value
            if bias is not None and not bias.numpy().any():
                node.resize_inputs(2)


@dataclass(frozen=True)
class _Function:
    """A pass that is a function."""

    call: Any

    def __call__(self, model: Any) -> None:
        self.call(model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes on versions and deprecations to itself; what matters is checked afterwards."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
