"""Runtimes that run exported files, all called alike: tensors in, tensors out, on the CPU.

What was compiled for another device runs there; its inputs and outputs are moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from dynaconv.config import check_choice
from dynaconv.errors import require
from dynaconv.export.settings import Format
from dynaconv.export.signature import program_device

Runtime = Literal["onnxruntime", "openvino", "torch-export", "aoti"]

RUNTIMES: dict[Format, tuple[Runtime, ...]] = {
    "onnx": ("onnxruntime", "openvino"),
    "torch-export": ("torch-export",),
    "aoti": ("aoti",),
}
"""Runtimes in which a format's files are checked."""
PACKAGES: dict[Runtime, str] = {"onnxruntime": "onnxruntime", "openvino": "openvino"}
"""What has to be installed beside PyTorch."""


@dataclass(frozen=True)
class Session:
    """A file, loaded and ready.

    Args:
        runtime: name and version.
        outputs: names of the outputs.
        run: from inputs to outputs, in order.
    """

    runtime: str
    outputs: tuple[str, ...]
    run: Callable[..., list[Tensor]]


def import_runtime(runtime: Runtime) -> None:
    """Import a runtime's package, to see whether it is there and works.

    Raises:
        MissingExtraError: if it is not installed.
        ImportError: if it, or a library of the system that it needs, can not be loaded; also an OSError.
    """
    if runtime in PACKAGES:
        require(PACKAGES[runtime], "export")


def open_session(runtime: Runtime, path: str | Path, threads: int | None = None) -> Session:
    """Load a file into a runtime.

    Args:
        runtime: which.
        path: of a file in its format.
        threads: for one call; the runtime's choice if None. PyTorch's own runtimes use PyTorch's.

    Raises:
        DynaconvError: if the runtime is not known.
        MissingExtraError: if its package is not installed.
    """
    check_choice("runtime", runtime, get_args(Runtime))
    return _OPENERS[runtime](Path(path), threads)


def _open_onnxruntime(path: Path, threads: int | None) -> Session:
    ort = require("onnxruntime", "export")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names, outputs = ([value.name for value in values] for values in (session.get_inputs(), session.get_outputs()))

    def run(*inputs: Tensor) -> list[Tensor]:
        feed = {name: x.contiguous().numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.from_numpy(y) for y in session.run(None, feed)]

    return Session(f"onnxruntime {ort.__version__}", tuple(outputs), run)


def _open_openvino(path: Path, threads: int | None) -> Session:
    openvino = require("openvino", "export")
    core = openvino.Core()
    # Its own choice rounds to bfloat16 on processors that are quick at it, and, where weights are int8, their inputs.
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(core.read_model(str(path)), "CPU", config)
    request = compiled.create_infer_request()

    def run(*inputs: Tensor) -> list[Tensor]:
        found = request.infer([x.contiguous().numpy() for x in inputs], share_inputs=True)
        return [torch.from_numpy(found[i].copy()) for i in range(len(compiled.outputs))]

    outputs = tuple(output.get_any_name() for output in compiled.outputs)
    return Session(f"openvino {openvino.__version__.split('-')[0]}", outputs, run)


def _open_torch_export(path: Path, threads: int | None) -> Session:
    program = torch.export.load(str(path))
    names = program.graph_signature.user_outputs
    run = _calling(program.module(), program_device(program))
    return Session(f"torch {torch.__version__}", tuple(map(str, names)), run)


def _open_aoti(path: Path, threads: int | None) -> Session:
    compiled = torch._inductor.aoti_load_package(str(path))
    device = torch.device(compiled.get_metadata().get("AOTI_DEVICE_KEY", "cpu"))
    return Session(f"torch {torch.__version__}, AOTInductor", (), _calling(compiled, device))


def _calling(function: Callable[..., Any], device: torch.device) -> Callable[..., list[Tensor]]:
    def run(*inputs: Tensor) -> list[Tensor]:
        with torch.inference_mode():
            return [y.cpu() for y in tensors_of(function(*(x.to(device) for x in inputs)))]

    return run


def tensors_of(outputs: Any) -> list[Tensor]:
    """The tensors of a network's output, in the order in which exported files give them."""
    found: Sequence[Any] = pytree.tree_leaves(outputs)
    return [value for value in found if isinstance(value, Tensor)]


_OPENERS: dict[Runtime, Callable[[Path, int | None], Session]] = {
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
    "torch-export": _open_torch_export,
    "aoti": _open_aoti,
}
