"""A dry run as text for a terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dynaconv.planning.table import align
from dynaconv.training.config import FULLY_SHARDED
from dynaconv.training.estimates.dry_run import DryRun
from dynaconv.training.estimates.schedule_picture import BLOCKS, chart
from dynaconv.training.estimates.step_cost import Memory, StepTime

MARGIN = 14
COLUMNS = 60


def describe(run: DryRun, *, short: bool = False, blocks: str = BLOCKS) -> str:
    """All that a dry run found, line by line.

    Args:
        run: what was found.
        short: leave out the plan's layers.
        blocks: characters of the charts, from empty to full.
    """
    parts = [_origin(run), _network(run), _plan(run, short), _optimizer(run), _course(run, blocks), _pace(run)]
    return "\n\n".join(part for part in parts if part)


def _row(label: str, text: str) -> str:
    return f"{label:<{MARGIN}}{text}"


def _origin(run: DryRun) -> str:
    paper = run.paper
    if paper is None:
        return ""
    lines = [_row("recipe", f"{paper.name}: {paper.about}"), _row("source", f"{paper.source} ({paper.trust})")]
    lines += [_row("NEAREST", f"not this network's own: {paper.nearest}")] if paper.nearest else []
    lines += [_row("note", paper.note)] if paper.note else []
    lines += [_row("changed", "by flags: " + ", ".join(changed))] if (changed := _changed(run)) else []
    lines += [_row("differs", text) for text in paper.differs]
    return "\n".join(lines)


def _changed(run: DryRun) -> list[str]:
    """Fields that are not the paper's any more."""
    assert run.paper is not None  # the caller's branch
    before, after = run.paper.recipe.to_dict(), run.recipe.to_dict()
    found = []
    for key, value in after.items():
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            names = [k for k in {**old, **value} if value.get(k) != old.get(k)]
            found += [f"{key}.{name}={value.get(name)}" for name in names]
        elif value != old and key != "data":
            found.append(f"{key}={value}")
    return found


def _network(run: DryRun) -> str:
    printed, text = run.printed, f"{run.recipe.model}, {run.parameters:,} parameters"
    if printed is not None:
        text += f"; printed for 1000 classes: {printed.params_millions:g}M ({printed.source})"
    data, size = run.data, f"{run.data.in_chans} x {run.data.image_size} x {run.data.image_size}"
    images = (
        f"{data.train:,} training and {data.val:,} validation images, {data.classes} classes, {size} ({data.origin})"
    )
    return "\n".join([_row("network", text), _row("data", images)])


def _plan(run: DryRun, short: bool) -> str:
    if run.plan is None:
        return _row("plan", "none: a static network")
    lines = str(run.plan).splitlines()
    if short:
        start = next(i for i, line in enumerate(lines) if line.startswith("parameters before"))
        lines = [_row("plan", f"{len(run.plan.layers)} layers to {run.plan.config.method}"), *lines[start:]]
    return "\n".join(lines)


def _optimizer(run: DryRun) -> str:
    optimizer = run.recipe.optimizer
    rows = [("group", "tensors", "parameters", "learning rate", "weight decay")]
    for number, group in enumerate(run.groups, 1):
        figures = (f"{group.tensors}", f"{group.parameters:,}", f"{group.lr:g}", f"{group.weight_decay:g}")
        rows.append((f"{number}", *figures))
    extra = [f"{key}={value}" for key, value in optimizer.options.items()]
    extra += [f"clip_norm={optimizer.clip_norm:g}"] if optimizer.clip_norm else []
    return "\n".join([_row("optimiser", ", ".join([optimizer.name, *extra])), *align(rows, 1)])


def _course(run: DryRun, blocks: str) -> str:
    schedule, course = run.recipe.schedule, run.course
    if schedule.kind == "step":
        steps = schedule.steps
        when = f"after {', '.join(f'{s:g}' for s in steps)}" if isinstance(steps, tuple) else f"every {steps:g}"
        shape = f"x {schedule.factor:g} {when} epochs"
    else:
        end = schedule.floor(run.recipe.optimizer.lr) * run.recipe.optimizer.lr
        shape = f"cosine to {end:.3g}, moved every {schedule.update}"
    text = f"peak {run.recipe.optimizer.lr:g}, warm-up {schedule.warmup_epochs:g} epochs, {shape}"
    parts = [_panel("learning rate", text, course.learning_rate, schedule.epochs, blocks)]
    if course.temperature is None:
        parts.append(_row("temperature", "none"))
    else:
        text = f"{course.temperature[0]:g} to {course.temperature[-1]:g} in {schedule.temperature_length:g} epochs"
        parts.append(_panel("temperature", text, course.temperature, schedule.epochs, blocks))
    return "\n".join(parts)


def _panel(name: str, text: str, values: Sequence[float], epochs: int, blocks: str) -> str:
    count = min(COLUMNS, len(values))
    values = [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]
    lines = chart(values, blocks=blocks)
    labels = [f"{max(values):.3g}", *[""] * (len(lines) - 2), "0"]
    drawn = [f"{label:>{MARGIN - 2}} |{line.rstrip()}" for label, line in zip(labels, lines, strict=True)]
    axis = f"{'':>{MARGIN - 2}} |0{f'{epochs} epochs':>{len(values) - 1}}"
    return "\n".join([_row(name, f" {text}"), *drawn, axis])


def _pace(run: DryRun) -> str:
    batch, processes = run.recipe.loader.batch_size, run.processes
    devices = f"{processes} device{'s' if processes > 1 else ''}"
    iterations = f"{run.accumulate} iteration{'s' if run.accumulate > 1 else ''}"
    steps = f"{run.steps:,} an epoch ({run.iterations:,} iterations), {run.steps * run.recipe.schedule.epochs:,} in all"
    lines = [
        _row("global batch", f"{run.global_batch:,} images = {devices} x {batch} images x {iterations}"),
        _row("steps", steps),
    ]
    if run.iterations % run.accumulate:
        left = run.iterations % run.accumulate
        lines.append(_row("", f"the last step of an epoch has {left} of {run.accumulate} iterations"))
    return "\n".join([*lines, *_memory(run.memory, run), *_time(run)])


def _memory(memory: Memory, run: DryRun) -> list[str]:
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "DDP's buckets": memory.buckets,
        "optimiser": memory.optimizer,
        "average": memory.average,
        "activations": memory.activations,
    }
    shown = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items() if size)
    missing = [name for name, size in parts.items() if size is None]
    lines = [_row("memory", f"about {memory.total / 1e9:.2f} GB a device, counted on shapes in float32: {shown}")]
    if missing:
        lines.append(_row("", f"without {' and '.join(missing)}, which could not be counted on shapes"))
    if run.recipe.run.precision != "32-true":
        lines.append(_row("", f"precision {run.recipe.run.precision} needs less"))
    if run.recipe.run.checkpoint_activations:
        lines.append(_row("", "activations without checkpointing, which keeps fewer"))
    if run.recipe.run.strategy == FULLY_SHARDED:
        lines.append(_row("", "FSDP divides weights, gradients and the optimiser's state among the devices"))
    return lines


def _time(run: DryRun) -> list[str]:
    measured, epoch = run.step_time, run.epoch_seconds
    if not isinstance(measured, StepTime) or epoch is None:
        return [_row("time", str(measured))]
    low, high = measured.spread
    step = (
        f"{measured.seconds:.3g} s ({low:.3g} to {high:.3g}) a step of {measured.batch_size} images on this machine's "
        f"{measured.device}, median of {measured.steps}, on noise"
    )
    whole = epoch * run.recipe.schedule.epochs
    each = " on every device" if run.processes > 1 else ""
    total = (
        f"at that pace{each} {_duration(epoch)} an epoch, {_duration(whole)} in all, without reading and judging images"
    )
    lines = [_row("time", step), _row("", total)]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if measured.device == "cpu" and load > (os.cpu_count() or 1):
        lines.append(
            _row("", f"the machine is busy (load {load:.1f} on {os.cpu_count()} cores): alone it would be faster")
        )
    if measured.device == "cpu" and run.recipe.run.accelerator not in ("auto", "cpu"):
        lines.append(_row("", f"{run.recipe.run.accelerator} is not in this machine: measure there, too"))
    return lines


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.3g} {unit}" if seconds < 100 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.1f} s"
