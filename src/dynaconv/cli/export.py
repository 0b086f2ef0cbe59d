"""`dynaconv export`: a network as a file for other runtimes, checked in them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynaconv.cli.json_text import json_text
from dynaconv.cli.networks import add_network_flags
from dynaconv.cli.options import expand_method, make_parser
from dynaconv.errors import DynaconvError, ParityError

EXAMPLES = """
dynaconv export runs/kw1x_resnet18/TIME/best --dynamic-batch                # best.onnx, beside the checkpoint
dynaconv export runs/kw1x_resnet18/TIME/best net.onnx --opset 18 --target openvino
dynaconv export runs/detect/TIME/best --dynamic-size                        # a detector's backbone with its pyramid
dynaconv export kw1x_resnet18 --format torch-export --dynamic-batch         # fresh weights: to try a runtime
dynaconv export resnet18 --method odconv --format aoti --image-size 96
dynaconv export kw1x_mobilenetv2_100 --half --json
"""
DETECTION_SIZE = 256
SAVED = (".safetensors", ".json", ".ckpt", ".pt", ".pth")
"""Suffixes that no model's name has."""


def parser() -> Any:
    """Flags of the command."""
    from dynaconv.export.export import ROUNDED_TOLERANCES
    from dynaconv.export.opsets import OPSETS, USUAL
    from dynaconv.export.settings import FORMATS, TARGETS, Format, Target, Weights

    flags = make_parser(
        "export",
        "Write a network as a file for other runtimes, run it there at several batch sizes (and two image sizes), and\n"
        "compare it with the network in float64. A file that differs does not take its place: it is kept as\n"
        "NAME.failed.onnx, with the first layer that differs, and the exit code is 1.",
        EXAMPLES,
        "MODEL [OUT] [options]",
    )
    add_network_flags(flags, "a checkpoint (runs/NAME/TIME/best), a preset (dynaconv models), or a timm backbone")
    flags.add_argument(
        "out",
        type=str | None,
        nargs="?",
        default=None,
        help="the file, or a folder for it; named after the model, beside a checkpoint, if not given",
    )
    flags.add_argument("--format", type=Format, default=FORMATS[0], help="of the file")
    flags.add_argument("--dynamic-batch", action="store_true", help="any number of images from 1 on")
    flags.add_argument("--dynamic-size", action="store_true", help="images of any size")
    flags.add_argument("--batch-size", type=int, default=1, help="images, where their number is fixed")
    flags.add_argument("--half", action="store_true", help="compute in float16")
    flags.add_argument(
        "--opset",
        type=int | None,
        default=None,
        help=f"of ONNX, {OPSETS[0]} to {OPSETS[-1]}; {USUAL['openvino']} by itself, {USUAL['tensorrt']} for TensorRT",
    )
    flags.add_argument(
        "--target",
        type=Target | None,
        default=None,
        help="whose speed decides between graphs: "
        + "; ".join(f"{format} for {' or '.join(targets)}" for format, targets in TARGETS.items()),
    )
    flags.add_argument(
        "--weights",
        type=Weights,
        default="float32",
        help="how an ONNX file stores kernels; noise may move by {float16} of the spread of outputs with float16, by "
        "{int8} with int8, once the graph has passed with float32".format(**ROUNDED_TOLERANCES),
    )
    flags.add_argument(
        "--max-extra-mb", type=float, default=0.0, help="MB that branches folded into cells may take in the file"
    )
    flags.add_argument(
        "--tolerance",
        type=float | None,
        default=None,
        help="largest error that passes, relative to the spread of outputs over samples; by type if not given",
    )
    flags.add_argument("--no-check", action="store_true", help="do not run the file")
    flags.add_argument("--json", action="store_true", help="print the report as JSON; progress goes to stderr")
    return flags


def run(arguments: Sequence[str]) -> int:
    """Export, and print the report; 1 if the file computes another function."""
    values = parser().parse_args(expand_method(arguments))
    import dynaconv
    from dynaconv.export.settings import SUFFIXES, ExportSettings

    def tell(text: str) -> None:
        print(f"{text} ...", file=sys.stderr if values.json else sys.stdout, flush=True)

    settings = ExportSettings(
        **{name: getattr(values, name) for name in SAME}, check=not values.no_check
    )  # wrong ones are told before anything is loaded
    subject = _subject(values)
    for note in subject.notes:
        print(f"note: {note}", file=sys.stderr)
    out = Path(values.out or subject.name)
    if values.out is not None and (out.is_dir() or values.out.endswith(("/", os.sep))):
        out /= Path(subject.name).name + SUFFIXES[settings.format]
    if not out.suffix or values.out is None:
        out = out.with_name(out.name + SUFFIXES[settings.format])
    if out.exists():
        print(f"note: {out} is there already; it is replaced if the new file passes", file=sys.stderr)
    try:
        report = dynaconv.export(
            subject.model,
            out,
            input_size=subject.input_size,
            description=subject.description,
            tell=tell,
            **settings.to_dict(),
        )
    except ParityError as error:
        print(json_text(error.report.to_dict()) if values.json else f"\n{error.report}")
        print(f"dynaconv export: {error}", file=sys.stderr)
        return 1
    print(json_text(report.to_dict()) if values.json else f"\n{report}")
    return 0


SAME = (
    "format",
    "batch_size",
    "dynamic_batch",
    "dynamic_size",
    "half",
    "opset",
    "target",
    "weights",
    "max_extra_mb",
    "tolerance",
)
"""Flags that are fields of the settings."""


@dataclass(frozen=True)
class _Subject:
    """What is exported.

    Args:
        model: the network.
        name: of the file, without a suffix.
        input_size: of one image; None for the network's usual.
        description: what its checkpoint says.
        notes: what to tell of it.
    """

    model: Any
    name: str
    input_size: tuple[int, ...] | None
    description: Any = None
    notes: tuple[str, ...] = ()


def _subject(values: Any) -> _Subject:
    """The network that the flags name."""
    from dynaconv.checkpoints.description import base_path, is_checkpoint, read_recipe

    if is_checkpoint(values.model):
        if values.method is not None or values.where is not None or values.backbone:
            raise DynaconvError(f"{values.model} is a checkpoint, which knows its method and backbone; leave them out")
        return _saved(values, str(base_path(values.model)))
    import dynaconv

    if "/" in values.model or os.sep in values.model or Path(values.model).suffix in SAVED:
        read_recipe(values.model)  # says what is missing
        raise DynaconvError(
            f"there is no checkpoint at {values.model}; expected runs/NAME/TIME/best, or a model's name"
        )
    from dynaconv.export.inputs import usual_size

    config = None if values.method is None else dynaconv.config_from_dict(values.method)
    model = dynaconv.create_model(
        values.model,
        config=config,
        where=values.where,
        num_classes=values.num_classes,
        in_chans=values.in_chans,
        **values.backbone,
    )
    dynaconv.schedule_temperature(model, 1.0)
    size = usual_size(model) if values.image_size is None else (values.in_chans, *(values.image_size,) * 2)
    name = values.model.split("/")[-1] + ("" if config is None else f"-{config.method}")
    return _Subject(model, name, size, None, (f"{values.model} has fresh weights: the file is to try a runtime with",))


def _saved(values: Any, path: str) -> _Subject:
    """A checkpoint's network; of a detector what runs on every image: the backbone with its pyramid."""
    from dynaconv.checkpoints.description import read_recipe
    from dynaconv.checkpoints.native import load_checkpoint
    from dynaconv.export.inputs import described_size

    if "detector" not in read_recipe(path):
        model, said = load_checkpoint(path)
        return _Subject(model, path, described_size(said, values.image_size), said)
    from dynaconv.detection import load_detector

    detector, said = load_detector(path)
    usual = DETECTION_SIZE if values.dynamic_size else said["detector"]["image_size"]
    side = usual if values.image_size is None else values.image_size
    note = f"{path} is a detector: its backbone and pyramid are exported, not the proposals and boxes behind them"
    about = {"model": said["model"], "mean": said["image_mean"], "std": said["image_std"]}
    return _Subject(detector.get_submodule("backbone"), path, (len(said["image_mean"]), side, side), about, (note,))
