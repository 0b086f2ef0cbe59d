"""What a training step needs: memory, counted on shapes, and seconds, measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import nn

from dynaconv.analysis.environment import available_bytes
from dynaconv.analysis.saved import optimizer_bytes, saved_bytes
from dynaconv.analysis.timing import synchronizer
from dynaconv.training.config import Recipe
from dynaconv.training.engine.optimizer import make_optimizer
from dynaconv.training.runs.classification import build_model

MEASURE_SECONDS = 3.0
ENOUGH_SECONDS = 0.5
"""A step of this length is long enough to be measured; until then the batch is doubled."""


@dataclass(frozen=True)
class DataNumbers:
    """How many images a run has, of what size.

    Args:
        origin: where the numbers are from, for people.
        train: training images.
        val: validation images.
        classes: classes.
        in_chans: channels of an image.
        image_size: side in pixels.
    """

    origin: str
    train: int
    val: int
    classes: int
    in_chans: int
    image_size: int


@dataclass(frozen=True)
class Memory:
    """What a device would hold at its peak, in bytes, if every device holds the whole network.

    Args:
        weights: parameters and buffers.
        gradients: of all parameters.
        buckets: copies of gradients that several processes exchange.
        optimizer: the optimiser's state; None where it could not be counted.
        average: the moving average.
        activations: what is kept for the backward pass, images included; None where it could not be counted.
    """

    weights: int
    gradients: int
    buckets: int
    optimizer: int | None
    average: int
    activations: int | None

    @property
    def total(self) -> int:
        """All that could be counted."""
        return (
            self.weights
            + self.gradients
            + self.buckets
            + self.average
            + (self.optimizer or 0)
            + (self.activations or 0)
        )


@dataclass(frozen=True)
class StepTime:
    """A training step as measured here.

    Args:
        device: where.
        batch_size: images of the step.
        seconds: median.
        spread: shortest and longest.
        steps: how many were measured.
    """

    device: str
    batch_size: int
    seconds: float
    spread: tuple[float, float]
    steps: int


def memory_of(model: nn.Module, recipe: Recipe, data: DataNumbers, processes: int) -> Memory:
    """What a device would hold, counted on a network without memory.

    Args:
        model: on the meta device.
        recipe: optimiser, average, batch.
        data: of the images.
        processes: devices that train together.
    """
    parameters = _bytes(list(model.parameters()))
    weights = parameters + _bytes(list(model.buffers()))
    size = (data.in_chans, data.image_size, data.image_size)
    return Memory(
        weights=weights,
        gradients=parameters,
        buckets=parameters if processes > 1 else 0,
        optimizer=_or_none(lambda: optimizer_bytes(model, lambda m: make_optimizer(m, recipe.optimizer))),
        average=0 if recipe.ema.decay is None else weights,
        activations=_or_none(lambda: saved_bytes(model, size, recipe.loader.batch_size)),
    )


def measure_step(recipe: Recipe, data: DataNumbers) -> StepTime | str:
    """Seconds of a training step on this machine, on noise, at a batch that takes some tenths of a second.

    Returns:
        The time, or why there is none.
    """
    from dynaconv.training.comparison.timing import Workload, make_fabric, steps_of

    with torch.device("meta"):
        shapes = build_model(recipe, data.classes, data.in_chans)[0]
    size = (data.in_chans, data.image_size, data.image_size)
    run = replace(recipe.run, accelerator="auto" if torch.cuda.is_available() else "cpu")
    fabric = make_fabric(replace(recipe, run=run))
    least = 6 * _bytes(list(shapes.parameters())) + 2 * (_or_none(lambda: saved_bytes(shapes, size, 2)) or 0)
    free = available_bytes(fabric.device)
    if free is not None and least > free:
        return f"not measured: some {least / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free here"
    built = build_model(recipe, data.classes, data.in_chans)[0]
    wait, batch = synchronizer(fabric.device), min(2, recipe.loader.batch_size)

    def seconds_of(step: Callable[[], None]) -> float:
        wait()
        began = time.perf_counter()
        step()
        wait()
        return time.perf_counter() - began

    began = time.perf_counter()
    step = steps_of(built, recipe, Workload(batch, *size[:2], data.classes), fabric).train
    step()
    while seconds_of(step) < ENOUGH_SECONDS / 2 and 2 * batch <= recipe.loader.batch_size:
        batch *= 2
        step = steps_of(built, recipe, Workload(batch, *size[:2], data.classes), fabric).train
        step()
    times = [seconds_of(step), seconds_of(step)]
    while time.perf_counter() - began < MEASURE_SECONDS:
        times.append(seconds_of(step))
    return StepTime(str(fabric.device), batch, median(times), (min(times), max(times)), len(times))


def _bytes(tensors: list[Any]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _or_none(count: Callable[[], int]) -> int | None:
    try:
        return count()
    except Exception:  # a network or optimiser that can not run on shapes alone leaves this figure out
        return None
