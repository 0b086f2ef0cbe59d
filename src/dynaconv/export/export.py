"""From a network to a file that other runtimes read, and that was run in them before it is there."""

from __future__ import annotations

import glob
import json
import math
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from dynaconv.errors import DynaconvError, MissingExtraError, ParityError
from dynaconv.export.inputs import check_inputs, example_of, growth_of
from dynaconv.export.locate import locate
from dynaconv.export.network import copied, deployable, unwrapped
from dynaconv.export.onnx_file import move_numbers, name_by_content, numbers_beside, write_onnx
from dynaconv.export.opsets import NATIVE, check_opset
from dynaconv.export.parity import Comparison, Reference, compare, make_reference, tolerance_of
from dynaconv.export.program import trace, undisturbed
from dynaconv.export.report import ExportReport
from dynaconv.export.runtimes import RUNTIMES, Runtime, import_runtime
from dynaconv.export.settings import SUFFIXES, ExportSettings, Format
from dynaconv.export.signature import input_names, input_texts, output_names
from dynaconv.export.sizes import MB, FileSize, onnx_constants, program_bytes, state_bytes
from dynaconv.export.torch_files import write_aoti, write_program
from dynaconv.export.weights import store_weights
from dynaconv.files import clean_temporaries, explained, sync
from dynaconv.nn import dynamic_layers, get_temperature, inference_report
from dynaconv.planning.table import format_shape

ROUNDED_TOLERANCES = {"float16": 0.1, "int8": 0.5}
"""Of files with weights in fewer bits, whose graph has passed the usual tolerance with weights in float32. They find a
file that is broken; whether a network can do with fewer bits, its images say."""
OLD_SECONDS = 24 * 3600
"""Temporary folders of a file that are older were left by a process that was killed."""
PREPROCESSING = ("image_size", "mean", "std", "crop_pct", "interpolation")
"""What a checkpoint's description says of images, under the names of ``dynaconv.training.config``."""


@undisturbed()
def export(
    model: nn.Module,
    path: str | Path,
    *,
    format: Format = "onnx",
    input_size: Sequence[int] | None = None,
    example: Sequence[Tensor] | None = None,
    description: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] | None = None,
    **settings: Any,
) -> ExportReport:
    """Write a network as a file for other runtimes, and run it there to see that it computes the same.

    The network stays as it is: its mode, its device, and what was prepared. The file is written under a temporary name
    and takes its place when it has passed; a file that was there before stays until then. One that does not pass is
    kept as ``NAME.failed.onnx``.

    Args:
        model: any network, converted or static.
        path: the file; the format's suffix is added if it has none.
        format: ``"onnx"``, ``"torch-export"`` or ``"aoti"``.
        input_size: channels and sides of one image; those of the description, or the network's usual, if not given.
        example: inputs, in place of ``input_size``, for a network that takes several, or no images.
        description: what a checkpoint says of the network (:func:`dynaconv.checkpoints.native.load_checkpoint`): its
            classes and preprocessing stand in the file then.
        tell: is called with a line before every step.
        settings: fields of :class:`dynaconv.export.settings.ExportSettings`.

    Returns:
        What was written and how it was checked; prints as a table.

    Raises:
        DynaconvError: if a setting is wrong, the network can not be followed or is refused by the format, or the file
            would be larger than the checkpoint.
        ParityError: if the file computes another function; it says where the first layer differs.
        MissingExtraError: without the packages that write the format, or without any that could check the file.
        StorageError: if the system refuses to write.

    Example:
        >>> import tempfile
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export(net, f"{folder}/net", format="torch-export", input_size=(3, 8, 8)).passed
        True
    """
    model, chosen = unwrapped(model), _settings(format, settings)
    say = tell or (lambda text: None)
    place = _place(Path(path), chosen)
    if chosen.format == "onnx":
        chosen = replace(chosen, opset=check_opset(chosen.opset, chosen.runtime))
    if chosen.check:
        _check_runtimes(chosen.format)
    inputs, seconds = example_of(model, chosen, input_size, example, description), {}
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    dtype = torch.float16 if chosen.half else own
    if chosen.format == "onnx" and dtype == torch.bfloat16:
        raise DynaconvError(
            "the network is in bfloat16, that not all of ONNX takes; export model.float(), or with half=True"
        )
    if chosen.format == "onnx" and dtype == torch.float64:
        raise DynaconvError("the network is in float64, in which onnxruntime has no convolutions; export model.float()")
    inputs = tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)
    said = _properties(model, description, tuple(inputs[0].shape[2:]))

    with _timed(seconds, "prepare"):
        say("preparing a copy of the network")
        network = _network(model, chosen, dtype)
        extra = round(inference_report(network).extra_mb * MB)
        if extra:
            held = state_bytes(model)
            say(f"folded branches add {extra / MB:.1f} MB to the {held / MB:.1f} MB of the checkpoint")
    with _timed(seconds, "trace"):
        say("following the network")
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        program = trace(network, tuple(x.to(device) for x in inputs), chosen)
    names = (input_names(model, len(inputs)), output_names(program))

    with _staging(place) as folder:
        made = folder / place.name
        with _timed(seconds, "write"):
            say(f"writing {chosen.format}")
            source, opset, constants = program, None, None
            if chosen.format == "onnx":
                written = write_onnx(program, made, chosen.opset or NATIVE, *names, said)
                source, opset = written.program, written.opset
                constants = sum(onnx_constants(made).values())
                if written.external is not None:
                    name_by_content(made, written.external)
            elif chosen.format == "torch-export":
                write_program(program, made)
                constants = program_bytes(program)
            else:
                write_aoti(program, made)
        total = sum(file.stat().st_size for file in folder.iterdir())
        size = FileSize(total, constants, state_bytes(model), extra)
        size.check(chosen.max_extra_mb, whole=chosen.format == "onnx")  # programs of PyTorch are spelt out
        report = ExportReport(
            path=place,
            files=tuple(place.with_name(file.name) for file in sorted(folder.iterdir())),
            settings=chosen,
            opset=opset,
            inputs=input_texts(program, names[0]),
            outputs=tuple(names[1]),
            size=size,
            notes=_temperature_notes(model),
            seconds=seconds,
        )
        reference = None
        if chosen.check:
            with _timed(seconds, "check"):
                say("computing what is expected, in float64")
                cases = check_inputs(inputs, chosen, growth_of(network, inputs, chosen))
                reference = make_reference(model, cases, dtype)
                report = _checked(report, model, source, made, reference, say)
        if chosen.weights != "float32" and not report.failed:
            with _timed(seconds, "weights"):
                say(f"storing weights as {chosen.weights}")
                report = _with_weights(report, made, chosen.weights, reference)
        return _moved(report, folder)


def _settings(format: Format, values: Mapping[str, Any]) -> ExportSettings:
    known = {field.name for field in fields(ExportSettings)}
    if unknown := sorted(set(values) - known):
        raise DynaconvError(f"export has no setting {', '.join(unknown)}; expected some of {', '.join(sorted(known))}")
    return ExportSettings(format=format, **values)


def _check_runtimes(format: Format) -> None:
    """Refuse to check a file where nothing could run it."""
    said = []
    for runtime in RUNTIMES[format]:
        try:
            import_runtime(runtime)
        except (ImportError, OSError) as error:
            said.append(f"{runtime}: {error}")
        else:
            return
    raise MissingExtraError(
        f"no runtime is here to check the file in ({'; '.join(said)}); install one with: pip install "
        "'dynaconv[export]', or write the file unseen: check=False"
    )


def _temperature_notes(model: nn.Module) -> tuple[str, ...]:
    """A sentence if attention is not as it is at the end of its schedule; the file has it as it is now."""
    for layer in dynamic_layers(model):
        now, end = layer.get_temperature(), layer.temperature_at(1.0)
        if now is not None and end is not None and not math.isclose(now, end, abs_tol=1e-6):
            return (
                f"attention is at temperature {now:g}, as the file will stay; the end of its schedule is {end:g}: for "
                "that call dynaconv.schedule_temperature(model, 1.0) before",
            )
    return ()


def _place(path: Path, settings: ExportSettings) -> Path:
    suffix = SUFFIXES[settings.format]
    if path.is_dir():
        raise DynaconvError(f"{path} is a folder; expected the name of a file, such as {path / f'net{suffix}'}")
    if not path.suffix:
        path = path.with_name(path.name + suffix)
    if path.suffix != suffix:
        raise DynaconvError(f"{path}: files of {settings.format} end in {suffix}")
    if path.is_dir():
        raise DynaconvError(f"{path} is a folder; expected the name of a file")
    return path


def _network(model: nn.Module, settings: ExportSettings, dtype: torch.dtype) -> nn.Module:
    """The copy that is traced: on the CPU, but for a file that is compiled for the network's own device."""
    first = next(model.parameters(), None)
    elsewhere = first is not None and first.device.type != "cpu" and settings.format != "aoti"
    if settings.half or elsewhere:
        model = copied(model)
        model = model.to("cpu") if elsewhere else model
        model = model.to(dtype) if settings.half else model
    return deployable(model, settings.max_extra_mb)


def _properties(model: nn.Module, description: Mapping[str, Any] | None, sides: tuple[int, ...]) -> dict[str, Any]:
    """What a file says of itself; ``sides`` are of the images that it was made for.

    Raises:
        DynaconvError: if the description holds what is no JSON, or classes that are no list.
    """
    said: dict[str, Any] = {"description": {"name": type(model).__name__}}
    if description is not None:
        said["description"] = dict(description.get("model") or {})
        if "classes" in description:
            names = description["classes"]
            if isinstance(names, str | Mapping):  # whose letters, or keys, would be taken for names
                raise DynaconvError(f"classes of the description are {names!r}; expected a list of names, by output")
            said["classes"] = list(names)
        if images := {key: description[key] for key in PREPROCESSING if key in description}:
            if "image_size" in images and sides:
                images["image_size"] = sides[0] if len(set(sides)) == 1 else list(sides)
            said["preprocessing"] = images
    if (temperature := get_temperature(model)) is not None:
        said["description"]["temperature"] = temperature
    try:
        json.dumps(said)
    except TypeError as error:
        raise DynaconvError(f"a file can not say what is in the description: {error}") from error
    return said


def _checked(
    report: ExportReport,
    model: nn.Module,
    program: ExportedProgram,
    made: Path,
    reference: Reference,
    say: Callable[[str], None],
) -> ExportReport:
    """The report with what the runtimes said; of a file whose weights are still to be rounded, too."""
    settings = report.settings
    tolerance = tolerance_of(
        settings if settings.weights == "float32" else replace(settings, tolerance=None), reference
    )
    say(f"running the file in {' and '.join(RUNTIMES[settings.format])}")
    found = list(compare(made, settings, reference, tolerance))
    runs = [one for one in found if isinstance(one, Comparison)]
    notes = [*reference.notes, *(one for one in found if isinstance(one, str))]
    report = replace(
        report,
        comparisons=tuple(runs),
        notes=(*report.notes, *notes),
        own_error=reference.own_error,
        reference_type=reference.reference_type,
    )
    if not report.failed:
        return report
    say("looking for the first layer that differs")
    return replace(report, fault=_fault(report, model, program, made, reference, tolerance))


def _with_weights(
    report: ExportReport, made: Path, kind: Literal["float16", "int8"], reference: Reference | None
) -> ExportReport:
    """The report of the file with weights in fewer bits: how far that moves what it says."""
    stored = store_weights(made, made, kind)
    for file in numbers_beside(made):
        file.unlink()
    held = sum(onnx_constants(made).values())
    report = replace(
        report,
        files=(report.path,),
        size=replace(report.size, total=made.stat().st_size, constants=held),
        notes=(*report.notes, str(stored)),
    )
    if reference is None:
        return report
    before = ", ".join(f"{error:.1e} in {runtime}" for runtime, error in report.worst_errors().items())
    tolerance = report.settings.tolerance or ROUNDED_TOLERANCES[kind]
    found = list(compare(made, report.settings, reference, tolerance))
    report = replace(
        report,
        comparisons=tuple(one for one in found if isinstance(one, Comparison)),
        notes=(*report.notes, f"worst error before, with weights in float32: {before}"),
    )
    why = f"weights in {kind} move noise so far; if images of yours say that it serves them, allow it: tolerance=..."
    return replace(report, fault=why) if report.failed else report


def _fault(
    report: ExportReport, model: nn.Module, program: ExportedProgram, made: Path, reference: Reference, tolerance: float
) -> str:
    failed = report.worst
    assert failed is not None
    runtime: Runtime = next(
        name for name in RUNTIMES[report.settings.format] if failed.runtime.startswith((name, "torch"))
    )
    if failed.refused is not None:
        return f"{runtime} refuses the file: {failed.refused}"
    expected = reference.expected[failed.case]
    try:
        fault = locate(model, program, made, runtime, expected, tolerance)
    except Exception as error:  # the search must not hide what it was to explain
        return f"which layer differs first could not be found: {str(error).splitlines()[0] if str(error) else error!r}"
    return (
        str(fault) if fault is not None else "no single layer stands out: all outputs of layers that can be seen agree"
    )


def _moved(report: ExportReport, folder: Path) -> ExportReport:
    """Put files in their place, or those that failed beside it."""
    place, made = report.path, folder / report.path.name
    if report.failed:
        place = place.with_name(f"{place.stem}.failed{place.suffix}")
        for file in numbers_beside(made):
            move_numbers(made, file, f"{place.name}.data")
    with explained(report.path):
        if report.failed:
            place.unlink(missing_ok=True)  # no earlier one may find these numbers
        # The graph last. Until then the one that is there finds its own numbers, whose names say what they hold.
        kept = []
        for file in sorted(folder.iterdir(), key=lambda file: file == made):
            sync(file)
            kept.append(file.replace(place if file == made else place.with_name(file.name)))
        sync(place.parent)
        for file in numbers_beside(place):
            if file not in kept:
                file.unlink()
    moved = replace(report, path=place, files=tuple(sorted(kept)))
    if report.failed:
        raise ParityError(_why_kept(moved, report.path), moved)
    return moved


def _why_kept(report: ExportReport, asked: Path) -> str:
    """What was wrong with a file that is kept under another name."""
    worst = report.worst
    assert worst is not None
    at = f"at batch {worst.batch} of {format_shape(worst.size)}"
    if worst.refused is not None:
        return (
            f"{asked} was not written: {worst.runtime} refuses the file {at}: {worst.refused}. "
            f"The file is kept as {report.path}"
        )
    return (
        f"{asked} was not written: the file computes another function. Worst error {worst.error:.1e}, tolerance "
        f"{worst.tolerance:.1e}, in {worst.runtime} {at}; {report.fault}. The file is kept as {report.path}"
    )


@contextmanager
def _staging(path: Path) -> Iterator[Path]:
    """A folder beside a file that is gone afterwards, whatever happens."""
    folder = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with explained(path):
            folder.mkdir(parents=True)
            clean_temporaries(path.parent, f".{glob.escape(path.name)}.{'[0-9a-f]' * 12}.tmp", OLD_SECONDS)
            yield folder
    finally:
        with suppress(OSError):
            shutil.rmtree(folder)


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - started
