"""The table of a benchmark of runtimes: ratios to the static network in the same runtime, seconds to make, size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynaconv.analysis.environment import describe
from dynaconv.benchmark.runtimes.settings import TITLES
from dynaconv.benchmark.runtimes.ways import DYNAMIC, OURS, SIDES, STATIC
from dynaconv.benchmark.table import NONE, Table, ratio_text


def tables(values: Mapping[str, Any]) -> list[Table]:
    """One table: a row for every network, batch and runtime.

    Args:
        values: content of the benchmark's JSON file.
    """
    any_batch = values["settings"]["dynamic_batch"]
    header = (
        "network",
        "runtime",
        "batch",
        "static, ms/image",
        "ours, ms/image",
        "ours",
        *((SIDES[DYNAMIC],) if any_batch else ()),
        "made in, s",
        "file, MB",
    )
    rows = [
        (network["name"], *_row(timing, any_batch)) for network in values["networks"] for timing in network["timings"]
    ]
    return [(header, rows)]


def notes(values: Mapping[str, Any]) -> list[str]:
    """What a reader must know to read the table, a line each; errors first.

    Args:
        values: content of the benchmark's JSON file.
    """
    settings, networks = values["settings"], values["networks"]
    lines = [f"{network['name']}: {error}" for network in networks for error in network["errors"]]
    if not values["complete"]:
        lines.append(f"Interrupted: {len(networks)} of {len(settings['networks'])} networks.")
    timings = [timing for network in networks for timing in network["timings"]]
    versions = dict.fromkeys(timing["version"] for timing in timings if timing["version"])
    differences = [side["difference"] for timing in timings for side in timing["sides"].values()]
    threads = settings["threads"] or values["environment"]["hardware"]["threads"]
    lines.append(
        f"Inference at {settings['image_size']} pixels, float32, {threads} thread(s) in every runtime. A ratio is to "
        "the static network in the same runtime, the median over rounds in which all runtimes took turns (at least "
        f"{settings['rounds']}), with quartiles. Files take this batch alone, but for those of '{SIDES[DYNAMIC]}'."
    )
    lines.append(
        "Made in: to trace, write or compile, and load; static and ours. PyTorch runs ours prepared for inference, "
        "channels_last."
    )
    if differences:
        lines.append(f"Largest difference from PyTorch's logits, relative to the largest: {max(differences):.1e}.")
    lines.append(f"{describe(values['environment'])}; {', '.join(versions)}; {values['date']}.")
    return lines


def _row(timing: Mapping[str, Any], any_batch: bool) -> tuple[str, ...]:
    static, ours = (timing["sides"].get(side) for side in (STATIC, OURS))
    return (
        TITLES[timing["runtime"]],
        str(timing["batch"]),
        *(NONE if side is None else f"{1000 * side['seconds_per_image']['median']:.3g}" for side in (static, ours)),
        ratio_text(ours),
        *((ratio_text(timing["sides"].get(DYNAMIC)),) if any_batch else ()),
        _pair(static, ours, lambda side: f"{seconds:.0f}" if (seconds := _made_in(side)) >= 0.5 else None),
        _pair(static, ours, lambda side: f"{side['file_bytes'] / 1e6:.1f}" if side["file_bytes"] else None),
    )


def _made_in(side: Mapping[str, Any]) -> float:
    return side["make_seconds"] + side["load_seconds"]


def _pair(static: Mapping[str, Any] | None, ours: Mapping[str, Any] | None, text: Any) -> str:
    """A figure of both, ``static / ours``."""
    found = [None if side is None else text(side) for side in (static, ours)]
    return NONE if found == [None, None] else " / ".join(part or NONE for part in found)
