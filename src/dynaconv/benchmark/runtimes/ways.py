"""Ways to run a network: as PyTorch runs it, through ``torch.compile``, or from a file in another runtime."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dynaconv.benchmark.contenders import CONTENDERS, REFERENCE, build
from dynaconv.benchmark.runtimes.settings import Runtime, RuntimeSettings
from dynaconv.export import export
from dynaconv.export.runtimes import open_session
from dynaconv.export.settings import SUFFIXES, Format, Target
from dynaconv.nn import prepare_inference

STATIC, OURS, DYNAMIC = "static", "ours", "ours_dynamic_batch"
SIDES = {STATIC: "static", OURS: "ours", DYNAMIC: "ours, any batch"}
"""The static backbone; the preset, for one number of images; and for any."""
FILES: dict[Runtime, tuple[Format, Target]] = {
    "onnxruntime": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
    "aoti": ("aoti", "inductor"),
}
"""What a runtime reads, and for whom it is made."""
PROGRESS = 0.5
"""Of the temperature's schedule: one more addition per attention; at its end, outputs of fresh networks can not be
compared."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A network, ready to run.

    Args:
        run: from images ``(B, C, H, W)`` to logits.
        runtime: its name with its version; None for PyTorch, whose version stands in every environment.
        make_seconds: to trace and write the file, or to compile.
        load_seconds: to load the file.
        file_bytes: of the file; None without one.
    """

    run: Callable[[Tensor], Tensor]
    runtime: str | None = None
    make_seconds: float = 0.0
    load_seconds: float = 0.0
    file_bytes: int | None = None


def build_sides(network: str, settings: RuntimeSettings) -> dict[str, nn.Module]:
    """The static backbone and the preset, in evaluation, their weights those of the benchmark of PyTorch.

    Args:
        network: a preset.
        settings: the image size.
    """
    contenders = {STATIC: CONTENDERS[REFERENCE], OURS: CONTENDERS["ours"]}
    return {
        side: build(contender, network, "cpu", 0, settle_on=settings.image_size, progress=PROGRESS).eval()
        for side, contender in contenders.items()
    }


def make_way(
    runtime: Runtime, side: str, models: dict[str, nn.Module], images: Tensor, settings: RuntimeSettings, folder: Path
) -> Way:
    """Prepare a network for a runtime.

    Args:
        runtime: which.
        side: of :data:`SIDES`.
        models: of :func:`build_sides`.
        images: a batch of the number that the way is for, ``(B, C, H, W)``.
        settings: threads, and memory for folding.
        folder: where a file may lie.
    """
    model = models[STATIC if side == STATIC else OURS]
    if runtime in FILES:
        return _from_file(runtime, side, model, images, settings, folder)
    return _in_pytorch(runtime, model, images, settings)


def _in_pytorch(runtime: Runtime, model: nn.Module, images: Tensor, settings: RuntimeSettings) -> Way:
    # With weights as they lie: those that are made for a file lie as in files, which slows PyTorch's convolutions.
    prepared = prepare_inference(copy.deepcopy(model), max_extra_mb=settings.max_extra_mb)
    if runtime == "compile":
        torch._dynamo.reset()
        prepared = torch.compile(prepared, dynamic=False)

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            return prepared(images.contiguous(memory_format=torch.channels_last))

    began = time.perf_counter()
    run(images)
    seconds = time.perf_counter() - began if runtime == "compile" else 0.0
    return Way(run=run, make_seconds=seconds)


def _from_file(
    runtime: Runtime, side: str, model: nn.Module, images: Tensor, settings: RuntimeSettings, folder: Path
) -> Way:
    kind, target = FILES[runtime]
    path = folder / f"{runtime}-{side}-{len(images)}{SUFFIXES[kind]}"
    began = time.perf_counter()
    export(
        model,
        path,
        format=kind,
        target=target,
        input_size=tuple(images.shape[1:]),
        batch_size=1 if side == DYNAMIC else len(images),
        dynamic_batch=side == DYNAMIC,
        max_extra_mb=settings.max_extra_mb,
        check=False,  # outputs are compared where all are
    )
    made = time.perf_counter()
    session = open_session(runtime, path, settings.threads or torch.get_num_threads())  # type: ignore[arg-type]
    loaded = time.perf_counter()
    return Way(
        run=lambda images: session.run(images)[0],
        runtime=session.runtime,
        make_seconds=made - began,
        load_seconds=loaded - made,
        file_bytes=path.stat().st_size,
    )
