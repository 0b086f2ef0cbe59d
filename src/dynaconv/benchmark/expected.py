"""Figures that do not depend on the machine's speed, and what they are expected to be: a file with margins.

``python -m dynaconv.benchmark.expected tests/data/bench-expected.json`` measures and compares; ``--write`` renews the
file. Counts are exact. Memory has a margin, and better than expected fails like worse: a gain is written down, with the
change that brought it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import dynaconv
from dynaconv.analysis.environment import environment
from dynaconv.benchmark.memory import measure_peak
from dynaconv.benchmark.roofline import demand_of
from dynaconv.benchmark.settings import NETWORKS, BenchSettings
from dynaconv.benchmark.small import small_network
from dynaconv.errors import DynaconvError
from dynaconv.files import write_text

COUNTED = (*NETWORKS, "kw1d4x_resnet18", "od1x_mobilenetv2_050", "cond8x_mobilenetv2_100", "dcd_resnet18")
COMPILED = ("kernel_warehouse",)
COMPILED_BATCHES = (1, 2, 5)
PEAKS = ({"network": "kw1x_resnet18", "batch": 16},)
PEAK_IMAGE_SIZE = 64
MARGINS = {"counts": 0.0, "graphs": 0.0, "training_peak_bytes": 0.15}
"""Relative margin of every group of figures."""

Figures = dict[str, dict[str, float]]
"""By group, then by name."""


def count(network: str) -> dict[str, float]:
    """Parameters, multiply-adds of one image of 224 pixels, and bytes of cells of a preset, by name."""
    with torch.device("meta"):
        model = dynaconv.create_model(network)
    profile = dynaconv.profile(model)
    figures = {name: getattr(profile, name) for name in ("parameters", "convolution", "mixing", "attention")}
    figures["cell_bytes"] = demand_of(model, profile.mixing).cell_bytes
    return {f"{network} {name}": value for name, value in figures.items()}


def count_graphs(method: str) -> dict[str, float]:
    """Breaks of the compiled graph, and how often it is compiled, over several batch sizes, of a small network.

    Args:
        method: its config's defaults convert every layer of the body.
    """
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    run = torch.compile(small_network(method).eval(), backend="eager", dynamic=True)
    with torch.no_grad():
        for batch in COMPILED_BATCHES:
            run(torch.zeros(batch, 3, 16, 16))
    figures: dict[str, float] = {
        f"{method} breaks": sum(counters["graph_break"].values()),
        f"{method} compilations": counters["stats"]["unique_graphs"],
    }
    torch._dynamo.reset()
    return figures


def measure_figures(note: Callable[[str], None] = lambda text: None) -> Figures:
    """All figures, of one thread.

    Args:
        note: called before something that takes time.
    """
    figures: Figures = {group: {} for group in MARGINS}
    for network in COUNTED:
        note(f"counting {network}")
        figures["counts"] |= count(network)
    for method in COMPILED:
        note(f"compiling {method}")
        figures["graphs"] |= count_graphs(method)
    settings = BenchSettings(image_size=PEAK_IMAGE_SIZE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for peak in PEAKS:
            name = f"{peak['network']}, batch {peak['batch']} of {PEAK_IMAGE_SIZE} px"
            note(f"measuring {name}")
            bytes_ = measure_peak("ours", str(peak["network"]), True, int(peak["batch"]), settings)
            figures["training_peak_bytes"][name] = bytes_
    finally:
        torch.set_num_threads(threads)
    return figures


def differences(expected: Figures, found: Figures, margins: dict[str, float]) -> list[str]:
    """Figures out of their margin, or there on one side alone, a line each.

    Example:
        >>> differences({"peaks": {"a": 100, "b": 1}}, {"peaks": {"a": 130, "b": 1}}, {"peaks": 0.15})
        ['peaks: a is 130, expected 100 (+30.0%, margin 15%)']
    """
    lines = []
    for group in dict.fromkeys([*expected, *found]):
        old, new = expected.get(group, {}), found.get(group, {})
        for name in dict.fromkeys([*old, *new]):
            if name not in old or name not in new:
                lines.append(f"{group}: {name} is {'not expected' if name in new else 'expected, and not there'}")
            elif abs(new[name] - old[name]) > margins.get(group, 0.0) * old[name]:
                change = f"{new[name] / old[name] - 1:+.1%}, " if old[name] else ""
                margin = f"margin {margins.get(group, 0.0):.0%}"
                lines.append(f"{group}: {name} is {new[name]:,}, expected {old[name]:,} ({change}{margin})")
    return lines


def read_expected(path: Path) -> tuple[Figures, dict[str, float]]:
    """Figures and margins of a file.

    Raises:
        DynaconvError: if it can not be read.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return values["figures"], values["margins"]
    except (OSError, ValueError, KeyError) as error:
        raise DynaconvError(
            f"{path} can not be read as expected results: {error}; make it anew with --write"
        ) from error


def write_expected(path: Path, figures: Figures) -> None:
    """Write figures with their margins, and with what made them."""
    values: dict[str, Any] = {"margins": MARGINS, "figures": figures, "environment": environment()}
    write_text(path, json.dumps(values, indent=2))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, then compare with the file or renew it.

    Returns:
        The exit code: 0, or 1 if figures differ.
    """
    flags = argparse.ArgumentParser(prog="python -m dynaconv.benchmark.expected", description=__doc__)
    flags.add_argument("path", type=Path, help="the file of expected results")
    flags.add_argument("--write", action="store_true", help="renew the file")
    values = flags.parse_args(arguments)
    expected = None if values.write and not values.path.is_file() else read_expected(values.path)
    found = measure_figures(lambda text: print(text, file=sys.stderr, flush=True))
    lines = [] if expected is None else differences(expected[0], found, expected[1])
    sys.stdout.write(("\n".join(lines) or ("as expected" if expected else "nothing was expected yet")) + "\n")
    if values.write:
        write_expected(values.path, found)
        return 0
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
