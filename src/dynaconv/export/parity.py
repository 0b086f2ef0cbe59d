"""Does a file compute its network's function? It is run where it will be run, and compared with PyTorch in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.errors import DynaconvError
from dynaconv.export.network import copied
from dynaconv.export.runtimes import RUNTIMES, Runtime, import_runtime, open_session, tensors_of
from dynaconv.export.settings import ExportSettings

TOLERANCES = {"float32": 1e-4, "float16": 2e-2}
"""Usual tolerances, by the type that the file computes in."""
OWN_ERRORS = 10
"""A file may be so many times as far from float64 as PyTorch itself in the file's type ..."""
LARGEST_TOLERANCE = 0.05
"""... but no further than this: what is as far off as that was not compared."""


@dataclass(frozen=True)
class Expected:
    """What a network says to inputs.

    Args:
        inputs: as the file takes them.
        outputs: in float64.
        own_error: of PyTorch in the file's type, relative to ``scales``.
    """

    inputs: tuple[Tensor, ...]
    outputs: list[Tensor]
    own_error: float = 0.0

    @property
    def batch(self) -> int:
        """Samples."""
        return self.inputs[0].shape[0]

    @property
    def size(self) -> tuple[int, ...]:
        """Of one sample of the first input."""
        return tuple(self.inputs[0].shape[1:])


@dataclass(frozen=True)
class Comparison:
    """One run of a file.

    Args:
        runtime: name and version.
        batch: samples.
        size: of one sample of the first input.
        error: the worst, relative to how far the network's outputs spread over samples.
        tolerance: that it must not exceed.
        case: which of the reference's inputs it was, from 0.
        refused: what the runtime said, if it did not run the file; the error is infinite then.
    """

    runtime: str
    batch: int
    size: tuple[int, ...]
    error: float
    tolerance: float
    case: int
    refused: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; one that is no number is not."""
        return self.error <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True)
class Reference:
    """The network's side of the comparison.

    Args:
        expected: by inputs.
        scales: of every output, what errors are relative to.
        own_error: worst of PyTorch in the file's type.
        reference_type: that the network was computed in.
        notes: what to know of it.
    """

    expected: list[Expected]
    scales: list[float]
    own_error: float
    reference_type: str
    notes: tuple[str, ...] = ()

    def error(self, outputs: Sequence[Tensor], expected: Expected) -> float:
        """The worst error of outputs, relative to their scales; infinite where shapes or numbers are wrong."""
        if len(outputs) != len(expected.outputs):
            return math.inf
        errors = map(error_of, outputs, expected.outputs, self.scales)
        return max(errors, default=0.0)


def error_of(found: Tensor, expected: Tensor, scale: float) -> float:
    """The largest difference of two tensors, relative to a scale; infinite if a shape or number is wrong."""
    if found.shape != expected.shape:
        return math.inf
    if not found.numel():
        return 0.0
    worst = float((found.double() - expected.double()).abs().max())
    return worst / scale if math.isfinite(worst) else math.inf


def make_reference(model: nn.Module, inputs: Sequence[tuple[Tensor, ...]], dtype: torch.dtype) -> Reference:
    """Compute what a file must say: by the network itself, as it is, in float64 on the CPU.

    Args:
        model: the network, as the user has it; it is copied.
        inputs: of :func:`dynaconv.export.inputs.check_inputs`, in the file's type.
        dtype: that the file computes in.

    Raises:
        DynaconvError: if the network's outputs are not finite, or are no longer in the file's type.
    """
    plain = copied(model).cpu().eval()
    exact, notes = copy.deepcopy(plain).double(), []
    try:
        wanted = [_run(exact, x, torch.float64) for x in inputs]
        name = "float64"
    except Exception as error:  # some networks convert to float32 inside
        own = _type_of(plain)
        wanted = [_run_or_explain(plain, x, own) for x in inputs]
        name = str(own).removeprefix("torch.")
        notes.append(f"the network does not run in float64 ({str(error).splitlines()[0]}); compared with {name}")
    del exact
    if not all(torch.isfinite(y).all() for outputs in wanted for y in outputs):
        raise DynaconvError(
            "the network's own outputs on noise are not finite, so that no file can be compared with them: give "
            "example=, inputs that it is used to, or train it first; check=False writes the file unseen"
        )
    scales = [_scale([outputs[i] for outputs in wanted]) for i in range(len(wanted[0]))]
    reference = Reference([Expected(x, y) for x, y in zip(inputs, wanted, strict=True)], scales, 0.0, name)
    narrow, errors = plain.to(dtype), []
    for expected in reference.expected:
        try:
            errors.append(reference.error(_run(narrow, expected.inputs, dtype), expected))
        except RuntimeError as error:
            notes.append(f"PyTorch itself can not compute it in {dtype} here: {str(error).splitlines()[0]}")
            break
        if not math.isfinite(errors[-1]):
            kind = str(dtype).removeprefix("torch.")
            raise DynaconvError(
                f"{kind} overflows in this network: PyTorch's own outputs in it are not finite"
                f"{_first_overflow(narrow, expected.inputs, dtype)}; export it in float32, with weights='float16' if "
                "the file is to be small"
            )
    if max(errors, default=0.0) * OWN_ERRORS > LARGEST_TOLERANCE:
        notes.append(
            f"PyTorch itself is {max(errors):.1e} away in the file's type: the network magnifies rounding on noise, as "
            "fresh ones do; give example=, inputs that it is used to, or train it first"
        )
    still = [name for name, module in plain.named_modules() if _is_still(module)]
    if still:
        notes.append(
            f"{len(still)} norms multiply by zero, as in a fresh network ({still[0]}, ...); what is before them was "
            "not compared"
        )
    same = [i for i in range(len(scales)) if max(_spreads([o[i] for o in wanted]), default=1.0) == 0]
    if same:
        notes.append(
            f"output {', '.join(map(str, same))} is the same for all inputs, so that a file which ignores them would "
            "pass; give example=, inputs that it is used to, or train it first"
        )
    flat = [i for i, scale in enumerate(scales) if scale < 1e-3 * _largest([o[i] for o in wanted])]
    if flat:
        notes.append(
            f"output {', '.join(map(str, flat))} hardly differs between inputs; errors are relative to that difference"
        )
    return Reference(reference.expected, scales, max(errors, default=0.0), name, tuple(notes))


def tolerance_of(settings: ExportSettings, reference: Reference) -> float:
    """The largest error that passes: as asked for, or the type's usual, or a multiple of PyTorch's own error."""
    if settings.tolerance is not None:
        return settings.tolerance
    usual = TOLERANCES["float16" if settings.half else "float32"]
    return max(usual, min(OWN_ERRORS * reference.own_error, LARGEST_TOLERANCE))


def compare(path: Path, settings: ExportSettings, reference: Reference, tolerance: float) -> Iterator[Comparison | str]:
    """Run a file in all its runtimes.

    Args:
        path: the file.
        settings: what it was made with.
        reference: what is expected.
        tolerance: of errors.

    Yields:
        A comparison a run, or a sentence about a runtime that could not be asked.
    """
    for runtime in RUNTIMES[settings.format]:
        yield from compare_in(runtime, path, reference, tolerance)


def compare_in(runtime: Runtime, path: Path, reference: Reference, tolerance: float) -> Iterator[Comparison | str]:
    """Run a file in one runtime, see :func:`compare`. What it refuses is a run with an infinite error."""
    try:
        import_runtime(runtime)
    except (
        ImportError,
        OSError,
    ) as error:  # not installed, or a library of the system is missing: not the file's fault
        yield f"not checked in {runtime}: {_line(error)}"
        return
    try:
        session = open_session(runtime, path, torch.get_num_threads())
    except Exception as error:  # runtimes have errors of their own
        first = reference.expected[0]
        yield Comparison(runtime, first.batch, first.size, math.inf, tolerance, case=0, refused=_line(error))
        return
    for case, expected in enumerate(reference.expected):
        error, refused = math.inf, None
        try:
            error = reference.error(session.run(*expected.inputs), expected)
        except Exception as refusal:
            refused = _line(refusal)
        yield Comparison(session.runtime, expected.batch, expected.size, error, tolerance, case, refused)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _run(model: nn.Module, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
    cast = tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)
    with torch.no_grad():
        return [y.double() for y in tensors_of(model(*cast))]


def _first_overflow(model: nn.Module, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> str:
    """Which layer's output is the first that is not finite, as the end of a sentence."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not found and not all(torch.isfinite(y).all() for y in tensors_of(output)):
                found.append(f", first those of {name} ({type(module).__name__})")

        return hook

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        _run(model, inputs, dtype)
    finally:
        for hook in hooks:
            hook.remove()
    return "".join(found)


def _run_or_explain(model: nn.Module, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
    try:
        return _run(model, inputs, dtype)
    except Exception as error:  # whatever a network's own code may raise
        shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
        raise DynaconvError(
            f"the network does not take inputs of shape {shapes}: {_line(error)[:300]}; leave dynamic_size out if "
            "it is for images of one size"
        ) from error


def _is_still(module: nn.Module) -> bool:
    """Whether a module is a normalisation that gives its bias alone."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.dim() != 1 or not hasattr(module, "eps"):
        return False
    return not bool(weight.detach().any())


def _type_of(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _largest(outputs: Sequence[Tensor]) -> float:
    return max((float(y.abs().max()) for y in outputs if y.numel()), default=0.0)


def _scale(outputs: Sequence[Tensor]) -> float:
    """How far an output spreads over samples, at most its largest number; 1 where it is always zero.

    Outputs of a fresh network can be nearly the same for all inputs. Relative to their size, a file that ignored its
    input would pass; relative to how they differ, it does not.
    """
    largest = _largest(outputs)
    scale = min([largest, *_spreads(outputs)])
    return scale or largest or 1.0


def _spreads(outputs: Sequence[Tensor]) -> list[float]:
    """The largest difference of two samples at one place of an output, by the output's shape."""
    by_shape: dict[tuple[int, ...], list[Tensor]] = {}
    for y in outputs:
        by_shape.setdefault(tuple(y.shape[1:]), []).append(y)
    spreads = []
    for same in by_shape.values():
        rows = torch.cat(same) if same[0].dim() else torch.stack(same)
        if rows.shape[0] > 1 and rows.numel():
            spreads.append(float((rows.amax(0) - rows.amin(0)).max()))
    return spreads
