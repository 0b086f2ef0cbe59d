"""Measure one network: every contender in turn for every batch, then memory, with the machine's limit beside."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

import dynaconv
from dynaconv.analysis.timing import ratio_quartiles, summarise, time_interleaved
from dynaconv.benchmark.contenders import CONTENDERS, OURS, REFERENCE, TEXTBOOK, build, contenders_of
from dynaconv.benchmark.memory import excess, measure_peak
from dynaconv.benchmark.passes import make_batch, make_pass
from dynaconv.benchmark.roofline import Demand, demand_of, limit
from dynaconv.benchmark.settings import BenchSettings
from dynaconv.models import get_preset

CHEAP_SECONDS = 10.0
"""Rounds go on for so long, up to :data:`MORE_ROUNDS` times as many as asked for: short passes are noisier."""
MORE_ROUNDS = 5

Note = Callable[[str], None]


def measure_network(
    network: str, settings: BenchSettings, machine: dict[str, Any], note: Note = lambda text: None
) -> dict[str, Any]:
    """Everything that is measured of a network, as plain types.

    A contender that fails is noted under ``errors``, and the others go on.

    Args:
        network: a preset.
        settings: what to measure.
        machine: of :func:`dynaconv.benchmark.roofline.measure_machine`.
        note: called with a line about everything that takes time or fails.
    """
    errors: list[str] = []

    def failed(text: str, error: Exception) -> None:
        errors.append(" ".join(f"{text}: {type(error).__name__}: {error}".split())[:500])
        note(f"  {errors[-1]}")

    models = _build_all(network, settings, failed)
    counts, demand = _count(network, settings)
    found = {"name": network, "backbone": get_preset(network).backbone, **counts, "timings": [], "memory": []}
    for training, batches in ((False, settings.inference_batches), (True, settings.training_batches)):
        for batch in batches:
            timing = _time_pass(models, settings, training, batch, failed)
            if REFERENCE in timing["contenders"]:
                static = timing["contenders"][REFERENCE]["seconds_per_image"]["median"]
                timing["limit"] = limit(demand, machine, static, batch, training)
            found["timings"].append(timing)
            note(f"  {pass_name(training)}, batch {batch}: {_line(timing)}")
    models.clear()
    gc.collect()
    if settings.memory:
        found["memory"] = _measure_memory(network, settings, failed, note)
    return {**found, "errors": errors}


def pass_name(training: bool) -> str:
    """What a pass is called."""
    return "training" if training else "inference"


def _build_all(network: str, settings: BenchSettings, failed: Callable[[str, Exception], None]) -> dict[str, nn.Module]:
    models: dict[str, nn.Module] = {}
    for contender in contenders_of(settings, training=False):
        if contender.compiled:  # the same network as ours
            continue
        try:
            models[contender.name] = build(
                contender, network, settings.device, settings.max_extra_mb, settle_on=settings.image_size
            )
        except Exception as error:  # whatever it is, the others have their figures
            failed(f"{contender.title}, building", error)
    if settings.compiled and OURS in models:
        models["compiled"] = models[OURS]
    return models


def _count(network: str, settings: BenchSettings) -> tuple[dict[str, Any], Demand]:
    preset, size = get_preset(network), (3, settings.image_size, settings.image_size)
    with torch.device("meta"):
        model = dynaconv.create_model(network)
        static = dynaconv.create_model(preset.backbone, **preset.backbone_kwargs)
    profile, plain = dynaconv.profile(model, size), dynaconv.profile(static, size)
    demand = demand_of(model, profile.mixing)
    counts = {
        "parameters": profile.parameters,
        "static_parameters": plain.parameters,
        "madds": profile.madds,
        "static_madds": plain.madds,
        "mixing_madds": demand.mixing_madds,
        "cell_bytes": demand.cell_bytes,
    }
    return counts, demand


def _time_pass(
    models: Mapping[str, nn.Module],
    settings: BenchSettings,
    training: bool,
    batch: int,
    failed: Callable[[str, Exception], None],
) -> dict[str, Any]:
    data = make_batch(batch, settings.image_size, settings.device)
    functions: dict[str, Callable[[], None]] = {}
    first: dict[str, float] = {}
    compiling: dict[str, float] = {}
    gc.collect()
    for contender in contenders_of(settings, training):
        if contender.name not in models:
            continue
        try:
            if contender.compiled:
                torch._dynamo.reset()
            call = make_pass(contender, models[contender.name], data, training)
            if contender.compiled:
                compiling[contender.name] = seconds_of(call)
            first[contender.name] = seconds_of(call)
            functions[contender.name] = call
        except Exception as error:  # out of memory, no compiler: the others have their figures
            failed(f"{contender.title}, {pass_name(training)}, batch {batch}", error)
    slow = {name: 1 for name, seconds in first.items() if seconds > settings.patience}
    ready = torch.cuda.synchronize if settings.device == "cuda" else lambda: None
    rounds = enough_rounds(settings.rounds, sum(seconds for name, seconds in first.items() if name not in slow))
    seconds = time_interleaved(functions, rounds, ready, warm_up=1, limits=slow)
    entries = {name: timing_entry(values, seconds.get(REFERENCE), batch) for name, values in seconds.items()}
    for name, value in compiling.items():
        if name in entries:
            entries[name]["compile_seconds"] = value
    timing: dict[str, Any] = {"pass": pass_name(training), "batch": batch, "contenders": entries, "limit": None}
    timing["textbook_to_ours"] = None
    if TEXTBOOK in seconds and OURS in seconds:
        pair = seconds[TEXTBOOK], seconds[OURS]
        timing["textbook_to_ours"] = {"ratio": summarise(*pair)["ratio"], "quartiles": list(ratio_quartiles(*pair))}
    return timing


def timing_entry(seconds: list[float], reference: list[float] | None, batch: int) -> dict[str, Any]:
    """The figures of one contender, from its seconds of every round and those of what it is related to."""
    return {
        "seconds_per_image": summarise(seconds, reference, batch),
        "ratio_quartiles": None if reference is None else list(ratio_quartiles(seconds, reference)),
        "rounds": len(seconds),
        "seconds_of_rounds": seconds,
    }


def enough_rounds(rounds: int, seconds: float) -> int:
    """How many rounds of so many seconds to run: short ones more often."""
    return max(rounds, min(MORE_ROUNDS * rounds, int(CHEAP_SECONDS / seconds))) if seconds > 0 else rounds


def seconds_of(call: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _measure_memory(
    network: str, settings: BenchSettings, failed: Callable[[str, Exception], None], note: Note
) -> list[dict[str, Any]]:
    passes = [(False, settings.memory_batch)] if settings.inference_batches else []
    passes += [(True, max(settings.training_batches))] if settings.training_batches else []
    found = []
    for training, batch in passes:
        peaks: dict[str, int] = {}
        for contender in contenders_of(settings, training):
            if contender.compiled:  # compiling itself takes more than any network
                continue
            try:
                peaks[contender.name] = measure_peak(contender.name, network, training, batch, settings)
            except Exception as error:
                failed(f"{contender.title}, memory of {pass_name(training)}, batch {batch}", error)
        found.append({"pass": pass_name(training), "batch": batch, "peak_bytes": peaks, "excess": excess(peaks)})
        sizes = ", ".join(f"{CONTENDERS[name].title} {peak / 2**20:,.0f}" for name, peak in peaks.items())
        note(f"  memory of {pass_name(training)}, batch {batch}, MiB: {sizes}")
    return found


def _line(timing: Mapping[str, Any]) -> str:
    """A pass in one line, for who is waiting."""
    parts = []
    for name, entry in timing["contenders"].items():
        values = entry["seconds_per_image"]
        if name == REFERENCE or values["ratio"] is None:
            parts.append(f"{CONTENDERS[name].title} {1000 * values['median']:.3g} ms/image")
        else:
            parts.append(f"{CONTENDERS[name].title} {values['ratio']:.2f}x")
    if timing["limit"]:
        parts.append(f"limit {timing['limit']['ratio']:.2f}x")
    return ", ".join(parts) or "nobody could run it"
