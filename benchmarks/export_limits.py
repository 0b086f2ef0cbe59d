"""What can be exported in which format, tried on small networks.

    python benchmarks/export_limits.py --page docs/export.md    # AOTInductor compiles every entry: a minute or two each
    python benchmarks/export_limits.py --quick                  # without it, a minute on one core

The table's rows are what a network or a request may be, its columns the formats and their runtimes.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import dynaconv
from dynaconv.errors import DynaconvError, ParityError
from dynaconv.files import write_text

PLACE = re.compile(r"(<!-- table: limits -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
COLUMNS = {
    "ONNX in onnxruntime": ("onnx", "onnxruntime"),
    "ONNX in OpenVINO": ("onnx", "openvino"),
    "torch-export": ("torch-export", "torch"),
    "AOTInductor": ("aoti", "torch"),
}


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Args:
        make: the network.
        size: of one sample.
        settings: of the export.
    """

    make: Callable[[], nn.Module]
    size: tuple[int, ...] = (3, 16, 16)
    settings: dict[str, Any] = field(default_factory=dict)


class Levels(nn.Module):
    """Maps by name, as a detection backbone gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = dynaconv.KWConv2d(3, 8, 3, padding=1), dynaconv.ODConv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.fine(x).relu()
        return {"fine": fine, "coarse": self.coarse(fine)}


def layers(dims: int) -> Callable[[], nn.Module]:
    """Every method that has layers of so many dimensions, one after the other."""

    def make() -> nn.Module:
        kinds = [getattr(dynaconv, f"{name}{dims}d") for name in ("KWConv", "ODConv", "DYConv", "CondConv")]
        kinds += [getattr(dynaconv, f"{name}{dims}d") for name in ("DCDConv", "WeightNetConv", "CGConv")]
        return nn.Sequential(*(module for kind in kinds for module in (kind(8, 8, 3, padding=1), nn.ReLU())))

    return make


def lively() -> nn.Module:
    return nn.Sequential(dynaconv.KWConv2d(3, 8, 3, padding=1), nn.ReLU(), dynaconv.ODConv2d(8, 8, 3, num_kernels=2))


def fourier() -> nn.Module:
    return nn.Sequential(dynaconv.FDConv2d(32, 32, 3, padding=1))


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))).relu()


def blocks(*configs: Any) -> Callable[[], nn.Module]:
    """Two residual blocks a method, whose layers share cells or branches as its config says."""

    def make() -> nn.Module:
        return nn.Sequential(*(dynaconv.convert(nn.Sequential(Block(), Block()), config) for config in configs))

    return make


class Positions(nn.Module):
    """Tokens with learnt positions, of which there are as many as one image size has."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.positions = nn.Conv2d(3, 16, 4, stride=4), nn.Parameter(torch.randn(1, 16, 16))
        self.mix = dynaconv.KWLinear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.embed(x).flatten(2).transpose(1, 2) + self.positions)


CASES = {
    "one batch, one size": Case(lively),
    "any batch (1, 2, 5, 16)": Case(lively, settings={"dynamic_batch": True}),
    "any batch, any size": Case(lively, settings={"dynamic_batch": True, "dynamic_size": True}),
    "half": Case(lively, settings={"half": True}),
    "KernelWarehouse, ODConv, DY-Conv, CondConv, DCD, WeightNet, CGC: 1-D": Case(
        layers(1), (8, 24), {"dynamic_batch": True}
    ),
    "the same: 2-D": Case(layers(2), (8, 12, 12), {"dynamic_batch": True}),
    "the same: 3-D": Case(layers(3), (8, 6, 6, 6), {"dynamic_batch": True}),
    "FDConv": Case(fourier, (32, 12, 12), {"dynamic_batch": True}),
    "cells that layers share, the others' through a low-rank basis": Case(
        blocks(dynaconv.KernelWarehouseConfig(budget=2, nonlocal_basis_ratio=0.25)),
        (8, 12, 12),
        {"dynamic_batch": True},
    ),
    "one branch for a block's layers (CondConv, WeightNet)": Case(
        blocks(dynaconv.CondConvConfig(), dynaconv.WeightNetConfig()), (8, 12, 12), {"dynamic_batch": True}
    ),
    "SE, CBAM, ECA": Case(
        lambda: nn.Sequential(nn.Conv2d(3, 16, 3), dynaconv.SE(16), dynaconv.CBAM(16), dynaconv.ECA(16)),
        settings={"dynamic_batch": True},
    ),
    "positions of one image size (vision transformers), any size": Case(
        Positions, settings={"dynamic_batch": True, "dynamic_size": True}
    ),
    "a network in bfloat16": Case(lambda: lively().bfloat16()),
    "several outputs, by name": Case(Levels, settings={"dynamic_batch": True, "dynamic_size": True}),
}


def attempt(case: Case, format: str) -> dict[str, str]:
    """What comes of a case in a format: "yes", or why not, by the first word of the runtime."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _settled(case.make(), case.size)
        try:
            report = dynaconv.export(model, f"{folder}/net", format=format, input_size=case.size, **case.settings)  # pyright: ignore
        except ParityError as error:
            report = error.report
        except DynaconvError as error:
            return dict.fromkeys(("onnxruntime", "openvino", "torch"), f"no: {error}")
    found: dict[str, str] = {}
    for run in report.comparisons:
        name = run.runtime.split()[0]
        if not run.passed:
            found[name] = f"no: {run.refused}" if run.refused else f"no: error {run.error:.1e}"
        found.setdefault(name, "yes")
    return found


def _settled(model: nn.Module, size: Sequence[int]) -> nn.Module:
    with torch.no_grad():
        for _ in range(20):
            model.train()(torch.randn(16, *size, dtype=next(model.parameters()).dtype))
    return model.eval()


def rows(columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """What comes of every case, by name and column."""
    formats = dict.fromkeys(COLUMNS[column][0] for column in columns)
    found, started = {}, time.perf_counter()
    for name, case in CASES.items():
        made = {format: attempt(case, format) for format in formats}
        found[name] = {column: made[COLUMNS[column][0]].get(COLUMNS[column][1], "not run") for column in columns}
        seconds = time.perf_counter() - started
        left = seconds / len(found) * (len(CASES) - len(found))
        print(f"{len(found)} of {len(CASES)}, {seconds:.0f} s, {left:.0f} s left: {name}", file=sys.stderr, flush=True)
    return found


def table(found: dict[str, dict[str, str]]) -> str:
    """Rows as a table of Markdown: yes or no."""
    columns = list(next(iter(found.values())))
    lines = [f"| | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
    lines += [f"| {name} | {' | '.join(short(row[column]) for column in columns)} |" for name, row in found.items()]
    return "\n".join(lines) + "\n"


def short(text: str) -> str:
    return text.partition(":")[0]


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--page", type=Path, default=None, help="a page whose table is filled")
    flags.add_argument("--quick", action="store_true", help="without AOTInductor, which compiles for minutes; no page")
    options = flags.parse_args()
    if options.quick and options.page is not None:
        flags.error("--quick leaves a column out; --page needs all of them")
    columns = [column for column in COLUMNS if not options.quick or COLUMNS[column][0] != "aoti"]
    found = rows(columns)
    for name, row in found.items():
        for column, text in row.items():
            if text != "yes":
                print(f"{name}, {column}: {text}", file=sys.stderr)
    print(table(found))
    if options.page is not None:
        text = options.page.read_text(encoding="utf-8")
        write_text(options.page, PLACE.sub(lambda place: place[1] + table(found) + place[3], text))


if __name__ == "__main__":
    main()
