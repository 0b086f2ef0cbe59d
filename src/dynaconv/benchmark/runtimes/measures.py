"""Measure one network: in every batch all runtimes take turns, each with the static network and the preset."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dynaconv.analysis.timing import time_interleaved
from dynaconv.benchmark.measures import Note, enough_rounds, seconds_of, timing_entry
from dynaconv.benchmark.passes import make_batch
from dynaconv.benchmark.runtimes.settings import TITLES, Runtime, RuntimeSettings
from dynaconv.benchmark.runtimes.ways import DYNAMIC, FILES, OURS, SIDES, STATIC, Way, build_sides, make_way
from dynaconv.models import get_preset

REST_SECONDS = 0.02
"""Between calls: threads of onnxruntime and OpenMP that have done their work watch for more, and take the core of
whoever runs next; by then they sleep."""
TOLERANCE = 1e-3
"""Largest difference from PyTorch's logits, relative to the largest of them, with which a figure counts."""
ALL_BATCHES_EXAMPLE = 2
"""Images that a file for any batch is traced with."""

Failed = Callable[[str, Exception], None]


def measure_network(network: str, settings: RuntimeSettings, note: Note = lambda text: None) -> dict[str, Any]:
    """Everything that is measured of a network, as plain types.

    A runtime that fails, or computes something else, is noted under ``errors``, and the others go on.

    Args:
        network: a preset.
        settings: what to measure.
        note: called with a line about everything that takes time or fails.
    """
    errors: list[str] = []

    def failed(text: str, error: Exception) -> None:
        errors.append(" ".join(f"{text}: {type(error).__name__}: {error}".split())[:500])
        note(f"  {errors[-1]}")

    models = build_sides(network, settings)
    found: dict[str, Any] = {
        "name": network,
        "backbone": get_preset(network).backbone,
        "parameters": sum(p.numel() for p in models[OURS].parameters()),
        "static_parameters": sum(p.numel() for p in models[STATIC].parameters()),
        "timings": [],
    }
    with tempfile.TemporaryDirectory(prefix="dynaconv-bench-") as folder:
        any_batch: dict[Runtime, Way] = {}
        if settings.dynamic_batch:
            images, _ = make_batch(ALL_BATCHES_EXAMPLE, settings.image_size, "cpu")
            for runtime in settings.runtimes:
                made = runtime in FILES and _make(
                    runtime, DYNAMIC, models, images, settings, Path(folder), failed, note
                )
                if made:
                    any_batch[runtime] = made
        for batch in settings.batches:
            found["timings"] += _time_batch(batch, models, any_batch, settings, Path(folder), failed, note)
        gc.collect()
    return {**found, "errors": errors}


def _time_batch(
    batch: int,
    models: dict[str, nn.Module],
    any_batch: Mapping[Runtime, Way],
    settings: RuntimeSettings,
    folder: Path,
    failed: Failed,
    note: Note,
) -> list[dict[str, Any]]:
    """An entry a runtime."""
    images, _ = make_batch(batch, settings.image_size, "cpu")
    ways: dict[tuple[Runtime, str], Way] = {}
    for runtime in settings.runtimes:
        for side in (STATIC, OURS):
            made = _make(runtime, side, models, images, settings, folder, failed, note)
            if made is not None:
                ways[runtime, side] = made
        if runtime in any_batch:
            ways[runtime, DYNAMIC] = any_batch[runtime]
    differences = _compare(ways, images, failed)
    functions = {f"{runtime} {side}": _calling(ways[runtime, side], images) for runtime, side in differences}
    once = sum(map(seconds_of, functions.values()))
    seconds = time_interleaved(functions, enough_rounds(settings.rounds, once), warm_up=1, rest=REST_SECONDS)
    entries = []
    for runtime in settings.runtimes:
        sides = [side for name, side in differences if name == runtime]
        reference = seconds.get(f"{runtime} {STATIC}")
        measured = {
            side: {
                **timing_entry(seconds[f"{runtime} {side}"], reference, batch),
                "make_seconds": ways[runtime, side].make_seconds,
                "load_seconds": ways[runtime, side].load_seconds,
                "file_bytes": ways[runtime, side].file_bytes,
                "difference": differences[runtime, side],
            }
            for side in sides
        }
        version = ways[runtime, sides[0]].runtime if sides else None
        entries.append({"batch": batch, "runtime": runtime, "version": version, "sides": measured})
        note(f"  batch {batch}, {TITLES[runtime]}: {_line(measured)}")
    return entries


def _make(
    runtime: Runtime,
    side: str,
    models: dict[str, nn.Module],
    images: Tensor,
    settings: RuntimeSettings,
    folder: Path,
    failed: Failed,
    note: Note,
) -> Way | None:
    try:
        way = make_way(runtime, side, models, images, settings, folder)
    except Exception as error:  # no compiler, an operation that is missing: the others have their figures
        failed(f"{TITLES[runtime]}, {SIDES[side]}, making it for batch {len(images)}", error)
        return None
    if way.make_seconds > 1:
        note(f"  made for {TITLES[runtime]}, {SIDES[side]}, batch {len(images)}: {way.make_seconds:.0f} s")
    return way


def _compare(
    ways: Mapping[tuple[Runtime, str], Way], images: Tensor, failed: Failed
) -> dict[tuple[Runtime, str], float]:
    """The largest relative difference of every way from PyTorch; those that fail or differ too much are left out."""
    expected = {side: way.run(images) for (runtime, side), way in ways.items() if runtime == "eager"}
    differences = {}
    for (runtime, side), way in ways.items():
        right = expected.get(STATIC if side == STATIC else OURS)
        try:
            if right is None:
                raise RuntimeError("PyTorch did not run, so there is nothing to compare with")
            difference = ((way.run(images) - right).abs().max() / right.abs().max()).item()
            if not difference <= TOLERANCE:
                raise RuntimeError(f"differs from PyTorch by {difference:.1e} of the largest output")
        except Exception as error:
            failed(f"{TITLES[runtime]}, {SIDES[side]}, batch {len(images)}", error)
        else:
            differences[runtime, side] = difference
    return differences


def _calling(way: Way, images: Tensor) -> Callable[[], Tensor]:
    return lambda: way.run(images)


def _line(measured: Mapping[str, Any]) -> str:
    """A runtime in one line, for who is waiting."""
    parts = []
    for side, entry in measured.items():
        values = entry["seconds_per_image"]
        if side == STATIC or values["ratio"] is None:
            parts.append(f"{SIDES[side]} {1000 * values['median']:.3g} ms/image")
        else:
            parts.append(f"{SIDES[side]} {values['ratio']:.2f}x")
    return ", ".join(parts) or "did not run"
