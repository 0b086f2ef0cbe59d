"""Does every preset export to ONNX with any batch size, and compute the same in onnxruntime and OpenVINO?

    python benchmarks/exports.py ['kw*' ...] --jobs 2          # classifiers; goes on where the JSON ends
    python benchmarks/exports.py --detection --jobs 2          # backbones of detectors, with their pyramid
    python benchmarks/exports.py 'fd_*' --one-size --again     # measures anew what the JSON has
    python benchmarks/exports.py --page docs/export.md         # the tables; nothing is exported

Each network is a process of its own on one thread, with weights that hide nothing (see `enliven`), at batch sizes 1, 2,
5 and 16, and at two image sizes where the network takes more than one. What passed according to the JSON is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import nn

import dynaconv
from dynaconv.analysis.environment import command_line, describe, environment, utc_now
from dynaconv.benchmark.page import PLACE
from dynaconv.errors import DynaconvError, ParityError
from dynaconv.export.inputs import noise_images
from dynaconv.files import write_text
from dynaconv.models import get_preset
from dynaconv.nn.norm import BranchBatchNorm

PIXELS = 64
SETTLE_IMAGES, WIDER, NEARLY_NOTHING = 32, 2.0, 1e-3
GUESS = 60.0  # seconds a network, before one was measured
KINDS = {False: "classifiers", True: "detection"}
RUNTIMES = ("onnxruntime", "openvino")


def enliven(model: nn.Module, pixels: int) -> None:
    """Give a fresh network numbers behind which no error hides, and that do not magnify one.

    Scales that start at zero or nearly so (the last norm of a residual block, a layer scale) get numbers: behind them
    nothing shows. Statistics of BatchNorm are those of noise that varies twice as much as the images of the comparison:
    an image beyond what the norms have seen grows from layer to layer, its attention with it, and rounding grows along.
    Images of noise hardly differ on average, and a branch whose norm divided by so small a spread would magnify every
    rounding, too; there it is as large as the mean. Temperature is in the middle of its schedule: at its end deep
    networks that were never trained are chaotic.
    """
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.numel() < 2 or parameter.dim() > 1 or name.endswith("bias"):
                continue
            if parameter.abs().max() < NEARLY_NOTHING:
                parameter.uniform_(0.1, 0.3, generator=generator)
    dynaconv.schedule_temperature(model, 0.5)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    images = WIDER * noise_images((SETTLE_IMAGES, 3, pixels, pixels), seed=1)
    with torch.no_grad():
        model.train()(images)
        for norm in norms:
            if isinstance(norm, BranchBatchNorm):
                norm.running_var.copy_(torch.maximum(norm.running_var, norm.running_mean.square()))
                norm.eval()
        model(images)  # the norms behind the layers, with branches as they will be
    model.eval()


def make(name: str, detection: bool, pixels: int) -> tuple[nn.Module, int]:
    """A network, and the side of its images."""
    torch.manual_seed(0)
    if detection:
        from dynaconv.detection import DetectorConfig, create_detector

        model = create_detector(name, num_classes=3, detector=DetectorConfig()).get_submodule("backbone")
    elif get_preset(name).backbone.startswith("deit"):
        pixels = max(pixels, 64)
        model = dynaconv.create_model(name, img_size=pixels)
    else:
        model = dynaconv.create_model(name)
    enliven(model, pixels)
    return model, pixels


def attempt(name: str, detection: bool, pixels: int, one_size: bool) -> dict[str, Any]:
    """Export one network, here."""
    started, notes = time.perf_counter(), []
    try:
        model, pixels = make(name, detection, pixels)
    except DynaconvError as error:
        if detection:
            return {"refused": str(error)}
        raise
    with tempfile.TemporaryDirectory() as folder:
        asked = {"input_size": (3, pixels, pixels), "dynamic_batch": True}
        try:
            report = dynaconv.export(model, f"{folder}/net", dynamic_size=not one_size, **asked)
        except ParityError as error:
            return {"error": str(error), "report": error.report.to_dict()}
        except DynaconvError as error:
            if "dynamic_size" not in str(error):
                raise
            notes.append(str(error))
            report = dynaconv.export(model, f"{folder}/net", **asked)
    worst = {name.split()[0]: error for name, error in report.worst_errors().items()}
    return {
        "pixels": pixels,
        "checkpoint_bytes": report.size.checkpoint,
        "file_bytes": report.size.total,
        "constant_bytes": report.size.constants,
        "opset": report.opset,
        "batches": sorted({run.batch for run in report.comparisons}),
        "sizes": sorted({run.size for run in report.comparisons}),
        "worst": {runtime: worst.get(runtime) for runtime in RUNTIMES},
        "own_error": report.own_error,
        "tolerance": max(run.tolerance for run in report.comparisons),
        "runtimes": sorted({run.runtime for run in report.comparisons}),
        "notes": [*notes, *report.notes],
        "steps": {step: round(seconds, 1) for step, seconds in report.seconds.items()},
        "seconds": round(time.perf_counter() - started, 1),
    }


def in_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Export one network in a process of its own."""
    flags = ["--one", name, "--pixels", str(options.pixels), *(["--detection"] if options.detection else [])]
    flags += ["--one-size"] if options.one_size else []
    try:
        done = subprocess.run(
            [sys.executable, __file__, *flags],
            capture_output=True,
            text=True,
            timeout=options.limit,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {options.limit} s"}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    return json.loads(lines[-1])


def run_all(options: argparse.Namespace) -> int:
    """Export everything that the JSON lacks, and write it after each."""
    torch.set_num_threads(1)  # as in every process below; the environment in the JSON names it
    names = [name for pattern in options.networks or ["*"] for name in dynaconv.list_models(pattern)]
    result = json.loads(options.out.read_text()) if options.out.is_file() else {}
    kind = KINDS[options.detection]
    done: dict[str, Any] = result.get(kind, {})
    left = [name for name in dict.fromkeys(names) if options.again or "error" in done.get(name, {"error": ""})]
    known = [row["seconds"] for row in done.values() if "seconds" in row]
    each = sum(known) / len(known) if known else GUESS
    print(f"{len({*names}) - len(left)} networks are done, {len(left)} left; about {minutes(each, len(left), options)}")
    lock, started, failed = Lock(), time.perf_counter(), []

    def work(name: str) -> None:
        row = in_process(name, options)
        with lock:
            done[name] = row
            head = {"format": 1, "date": utc_now().isoformat(timespec="seconds"), "command": command_line()}
            result[kind] = {known: done[known] for known in dynaconv.list_models() if known in done}
            tables = {table: result[table] for table in KINDS.values() if table in result}
            write_text(options.out, json.dumps({**head, **environment(), **tables}, indent=1))
            if "error" in row:
                failed.append(name)
            finished.append(name)
            rest = (time.perf_counter() - started) / len(finished) * (len(left) - len(finished))
            print(f"{name:<28} {line(row)}  ({rest / 60:.0f} min left)", flush=True)

    finished: list[str] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(work, left))
    print(f"{len(failed)} failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


def minutes(each: float, count: int, options: argparse.Namespace) -> str:
    return f"{each * count / options.jobs / 60:.0f} min at {each:.0f} s each, {options.jobs} at once"


def line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"FAILED: {row['error'][:300]}"
    if "refused" in row:
        return f"refused: {row['refused'][:100]}"
    errors = ", ".join(f"{name} {error:.1e}" for name, error in row["worst"].items())
    size = f"{row['file_bytes'] / 1e6:.2f} MB of {row['checkpoint_bytes'] / 1e6:.2f}"
    return f"{size}; {errors} (tolerance {row['tolerance']:.1e}); {len(row['sizes'])} sizes; {row['seconds']:.0f} s"


def table(rows: dict[str, Any]) -> str:
    """Rows as a table of Markdown."""
    lines = [
        "| network | checkpoint MB | file MB | ratio | onnxruntime | OpenVINO | PyTorch float32 | image sizes "
        "| seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        if "worst" not in row:
            lines.append(f"| {name} | {row.get('refused', row.get('error', ''))} | | | | | | | |")
            continue
        errors = [f"{row['worst'][runtime]:.1e}" for runtime in RUNTIMES] + [f"{row['own_error']:.1e}"]
        sizes = [f"{row['checkpoint_bytes'] / 1e6:.2f}", f"{row['file_bytes'] / 1e6:.2f}"]
        sizes.append(f"{row['file_bytes'] / row['checkpoint_bytes']:.3f}")
        cells = [name, *sizes, *errors, str(len(row["sizes"])), f"{row['seconds']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def summary(rows: dict[str, Any]) -> str:
    """What all rows come to, in a sentence."""
    passed = [row for row in rows.values() if "worst" in row]
    if not passed:
        return "None was exported.\n"
    worst = {runtime: max(row["worst"][runtime] for row in passed) for runtime in RUNTIMES}
    larger = max(row["file_bytes"] / row["checkpoint_bytes"] - 1 for row in passed)
    refused = sum("refused" in row for row in rows.values())
    failed = sum("error" in row for row in rows.values())
    two = sum(len(row["sizes"]) > 1 for row in passed)
    text = f"{len(passed)} of {len(rows) - refused} passed"
    text += f" ({failed} failed)" if failed else ""
    text += f", {two} of them at two image sizes; worst error {worst['onnxruntime']:.1e} in onnxruntime, "
    text += f"{worst['openvino']:.1e} in OpenVINO; no file is more than {larger:.1%} larger than its checkpoint"
    return text + (f"; {refused} refused, which have no stages.\n" if refused else ".\n")


def fill(page: Path) -> None:
    """Put the tables into a page: a place is named `results/exports.json#classifiers`."""

    def filled(place: re.Match[str]) -> str:
        name, _, kind = place[2].partition("#")
        if kind not in KINDS.values():  # another benchmark's
            return place[0]
        path = page.parent / name
        result = json.loads(path.read_text()) if path.is_file() else {}
        if kind not in result:
            return f"{place[1]}Not measured yet.\n{place[4]}"
        text = f"{summary(result[kind])}\n{table(result[kind])}\n{describe(result)}.\n"
        return place[1] + text + place[4]

    write_text(page, PLACE.sub(filled, page.read_text(encoding="utf-8")))


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("networks", nargs="*", help="presets or patterns of them; all if not given")
    flags.add_argument("--detection", action="store_true", help="backbones of detectors")
    flags.add_argument("--again", action="store_true", help="networks that the JSON has, too; new rows replace theirs")
    flags.add_argument("--jobs", type=int, default=1, help="networks at once")
    flags.add_argument("--pixels", type=int, default=PIXELS, help="side of an image")
    flags.add_argument("--one-size", action="store_true", help="fix the image size, which is quicker by a third")
    flags.add_argument("--limit", type=float, default=3600, help="seconds that a network may take")
    flags.add_argument("--out", type=Path, default=Path("docs/results/exports.json"))
    flags.add_argument("--page", type=Path, default=None, help="a page whose tables are filled")
    flags.add_argument("--one", default=None, help=argparse.SUPPRESS)
    options = flags.parse_args()
    if options.again and not options.networks:
        flags.error("--again needs the names of networks, or patterns of them")
    if options.page is not None:
        fill(options.page)
        return 0
    if options.one is not None:
        print(json.dumps(attempt(options.one, options.detection, options.pixels, options.one_size)))
        return 0
    return run_all(options)


if __name__ == "__main__":
    sys.exit(main())
