"""What a comparison measures beside accuracy: parameters, multiply-adds, time and peak memory of every contender."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import dynaconv
from dynaconv.analysis.environment import utc_now
from dynaconv.analysis.timing import summarise, synchronizer, time_interleaved
from dynaconv.errors import DynaconvError
from dynaconv.training.comparison.memory import measure_peak
from dynaconv.training.comparison.runs import Comparison, Run
from dynaconv.training.comparison.timing import Workload, make_fabric, make_steps
from dynaconv.training.runs.classification import build_model


def measure(comparison: Comparison, rounds: int, note: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Measure every contender of which at least one run has finished.

    Args:
        comparison: who.
        rounds: how often each is timed; 0 counts parameters and multiply-adds alone.
        note: called before something that takes time.

    Returns:
        Plain types: ``conditions`` (None for rounds 0), and by label ``contenders`` and ``errors``.
    """
    runs = [comparison.run(contender, comparison.seeds[0]) for contender in comparison.contenders]
    trained = [run for run in runs if any(comparison.run(run.contender, seed).finished for seed in comparison.seeds)]
    found: dict[str, dict[str, Any]] = {run.contender.label: {} for run in runs}
    errors: dict[str, str] = {}

    def guarded(run: Run, what: str, action: Callable[[], dict[str, Any]]) -> None:
        label = run.contender.label
        try:
            found[label] |= action()
        except Exception as error:  # one contender's failure leaves the others' figures alone
            errors[label] = " ".join(f"{what}: {type(error).__name__}: {error}".split())
            note(f"{label}: {errors[label]}")

    if not trained:
        return {"conditions": None, "contenders": found, "errors": errors}
    workload = Workload.of(comparison.recipe)
    for run in trained:
        own = Workload.of(run.recipe) if run.contender.changes else workload
        guarded(run, "counting", lambda run=run, own=own: _count(run, own))
    if not rounds:
        return {"conditions": None, "contenders": found, "errors": errors}
    if any(run.contender.changes for run in runs):
        raise DynaconvError(
            f"{comparison.out} holds a sweep, whose recipes differ; time and memory are measured on one recipe: leave "
            "out rounds"
        )

    fabric = make_fabric(comparison.recipe)
    conditions = {
        "date": utc_now().isoformat(timespec="seconds"),
        "rounds": rounds,
        "batch_size": workload.batch_size,
        "input_size": [workload.in_chans, workload.image_size, workload.image_size],
        "precision": comparison.recipe.run.precision,
        "device": str(fabric.device),
        "load_average_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    note(f"measuring peak memory, a fresh process for each of {len(trained)} contenders")
    for run in trained:
        guarded(run, "memory", lambda run=run: {"peak_bytes": measure_peak(run.recipe, workload)})
    note(f"timing steps and inference of {len(trained)} contenders in turn, {rounds} rounds")
    steps = {}
    for run in trained:
        guarded(run, "timing", lambda run=run: _try_steps(steps, run, workload, fabric))
    ready = synchronizer(fabric.device)
    training = time_interleaved({label: pair.train for label, pair in steps.items()}, rounds, ready)
    inference = time_interleaved({label: pair.infer for label, pair in steps.items()}, rounds, ready)
    first = comparison.contenders[0].label
    for label in steps:
        found[label] |= {
            "step_seconds": summarise(training[label], training.get(first)),
            "inference_seconds_per_image": summarise(inference[label], inference.get(first), workload.batch_size),
        }
    return {"conditions": conditions, "contenders": found, "errors": errors}


def _count(run: Run, workload: Workload) -> dict[str, Any]:
    model = build_model(run.recipe, workload.num_classes, workload.in_chans)[0]
    size = (workload.in_chans, workload.image_size, workload.image_size)
    profile = dynaconv.profile(model, input_size=size, batch_size=1)
    parts = {f"madds_{name}": getattr(profile, name) for name in ("convolution", "mixing", "attention")}
    return {"parameters": profile.parameters, "madds": profile.madds, **parts}


def _try_steps(steps: dict[str, Any], run: Run, workload: Workload, fabric: Any) -> dict[str, Any]:
    """Keep a contender's steps if they run."""
    made = make_steps(run.recipe, workload, fabric)
    made.train()
    made.infer()
    steps[run.contender.label] = made
    return {}
