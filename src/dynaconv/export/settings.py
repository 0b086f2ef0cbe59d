"""What to export: the format, what of the input may vary, and how weights are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from dynaconv.config import check_choice, check_count
from dynaconv.errors import DynaconvError

Format = Literal["onnx", "torch-export", "aoti"]
Target = Literal["onnxruntime", "openvino", "tensorrt", "inductor"]
Weights = Literal["float32", "float16", "int8"]

FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch-export": ".pt2", "aoti": ".pt2"}
"""What files of a format end with."""
TARGETS: dict[Format, tuple[Target, ...]] = {
    "onnx": ("onnxruntime", "openvino", "tensorrt"),
    "torch-export": ("inductor",),
    "aoti": ("inductor",),
}
"""Runtimes that a graph can be made for; the first is the usual one."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """How a network becomes a file.

    Args:
        format: ``"onnx"``, ``"torch-export"`` (a saved ``torch.export`` program), or ``"aoti"`` (compiled ahead of time
            by AOTInductor, for the machine it is compiled on).
        batch_size: images that the file takes, where that is fixed; 1 with ``dynamic_batch``.
        dynamic_batch: whether it takes any number of images from 1 on.
        dynamic_size: whether it takes images of any size that the network takes.
        half: whether the network computes in float16; its weights are, too, so that ``weights`` stays as it is.
        opset: of ONNX; a usual one if None.
        target: the runtime whose speed decides between graphs of the same function; the format's usual one if None.
        weights: how cells and kernels are stored; ``"float16"`` and ``"int8"`` are for ONNX.
        max_extra_mb: memory (1e6 bytes) that branches folded into cells may take in the file, see
            :func:`dynaconv.prepare_inference`; a file that is larger than its checkpoint for another reason may, too.
        check: whether the file is run in its runtimes and compared.
        tolerance: largest error that passes, relative to how far outputs spread over the samples; by type if None.

    Raises:
        DynaconvError: on any value outside its domain.
    """

    format: Format = "onnx"
    batch_size: int = 1
    dynamic_batch: bool = False
    dynamic_size: bool = False
    half: bool = False
    opset: int | None = None
    target: Target | None = None
    weights: Weights = "float32"
    max_extra_mb: float = 0.0
    check: bool = True
    tolerance: float | None = None

    def __post_init__(self) -> None:
        check_choice("format", self.format, FORMATS)
        check_count("batch_size", self.batch_size)
        check_choice("weights", self.weights, get_args(Weights))
        if self.target is not None:
            check_choice("target", self.target, TARGETS[self.format])
        if self.opset is not None:
            check_count("opset", self.opset)
        for name, value in (("opset", self.opset), ("weights", None if self.weights == "float32" else self.weights)):
            if value is not None and self.format != "onnx":
                raise DynaconvError(f"{name}={value!r} is for format 'onnx'; format is {self.format!r}")
        if self.format == "onnx":
            from dynaconv.export.opsets import check_opset  # which needs the types above

            check_opset(self.opset, self.runtime)
        if self.half and self.weights != "float32":
            raise DynaconvError(
                f"half=True with weights={self.weights!r}: a network in float16 has weights in float16; "
                "expected one of both"
            )
        if self.dynamic_batch and self.batch_size != 1:
            raise DynaconvError(
                f"batch_size={self.batch_size} with dynamic_batch=True: the file takes any number of images then; "
                "expected one of both"
            )
        if not self.max_extra_mb >= 0:
            raise DynaconvError(f"max_extra_mb={self.max_extra_mb!r}; expected a number of at least 0")
        if self.tolerance is not None and not self.tolerance > 0:
            raise DynaconvError(f"tolerance={self.tolerance!r}; expected a number above 0")

    @property
    def runtime(self) -> Target:
        """Whose speed decides."""
        return self.target or TARGETS[self.format][0]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON."""
        return dict(vars(self))
