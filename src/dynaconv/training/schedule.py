"""Optimiser and learning rate: their settings, and the rate as a pure function of the step.

No torch here: the command line reads these classes to build its flags, and must start quickly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from dynaconv.errors import DynaconvError
from dynaconv.training.fields import check_fields, require_that


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How weights move. Parameters of one dimension (norms, biases) have no weight decay unless `decay_norms` says so.

    Args:
        name: an optimiser of timm's factory: adamw, sgd (Nesterov), momentum (plain), lamb, muon, ...
        lr: learning rate at the end of the warm-up.
        weight_decay: strength of the weight decay.
        momentum: for optimisers that have one.
        clip_norm: largest norm of the gradient, null for no limit.
        decay_norms: let parameters of one dimension decay, too, as PyTorch's plain optimisers do.
        global_batch: images of one optimiser step over all devices, which the learning rate is meant for; it sets
            run.accumulate. Null for what devices, loader.batch_size and run.accumulate make together.
        options: further arguments of the optimiser, such as {eps: 0.001}.
    """

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    momentum: float = 0.9
    clip_norm: float | None = None
    decay_norms: bool = False
    global_batch: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self, "optimizer")
        require_that(self.lr > 0, "optimizer.lr", self.lr, "above 0")
        require_that(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "at least 0")
        clip, batch = self.clip_norm, self.global_batch
        require_that(clip is None or clip > 0, "optimizer.clip_norm", clip, "above 0, or null")
        require_that(batch is None or batch > 0, "optimizer.global_batch", batch, "at least 1 image, or null")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How learning rate and temperature change with time; all lengths in epochs, fractions allowed.

    Args:
        epochs: passes over the training images.
        kind: cosine, or step, which multiplies the learning rate by `factor` at every epoch of `steps`.
        warmup_epochs: linear rise of the learning rate, per optimiser step.
        min_lr_ratio: learning rate at the end of the cosine, relative to its peak.
        min_lr: the same in absolute terms, in its place; null for min_lr_ratio.
        update: when a cosine moves: at every optimiser step, or once an epoch.
        steps: for the kind step: epochs done when the learning rate falls, as [30, 60, 90]; or one number, the epochs
            from one fall to the next.
        factor: for the kind step: what remains of the learning rate.
        temperature_epochs: length of the temperature's schedule; null for a tenth of the epochs (KernelWarehouse takes
            20 of 300, 15 of 150). Without effect on static networks.
    """

    epochs: int = 30
    kind: Literal["cosine", "step"] = "cosine"
    warmup_epochs: float = 1.0
    min_lr_ratio: float = 1e-3
    min_lr: float | None = None
    update: Literal["step", "epoch"] = "step"
    steps: float | tuple[float, ...] = (30, 60, 90)
    factor: float = 0.1
    temperature_epochs: float | None = None

    def __post_init__(self) -> None:
        check_fields(self, "schedule")
        require_that(self.epochs > 0, "schedule.epochs", self.epochs, "at least 1")
        require_that(self.kind in ("cosine", "step"), "schedule.kind", self.kind, "cosine or step")
        require_that(self.update in ("step", "epoch"), "schedule.update", self.update, "step or epoch")
        most = f"0 to schedule.epochs, {self.epochs}"
        warmup, length = self.warmup_epochs, self.temperature_epochs
        require_that(0 <= warmup <= self.epochs, "schedule.warmup_epochs", warmup, most)
        require_that(0 <= self.min_lr_ratio <= 1, "schedule.min_lr_ratio", self.min_lr_ratio, "0 to 1")
        require_that(self.min_lr is None or self.min_lr >= 0, "schedule.min_lr", self.min_lr, "at least 0, or null")
        falls = self.steps if isinstance(self.steps, tuple) else (self.steps,)
        require_that(bool(falls) and min(falls) > 0, "schedule.steps", self.steps, "epochs above 0, or a list of them")
        require_that(0 < self.factor <= 1, "schedule.factor", self.factor, "0 < factor <= 1")
        in_time = length is None or 0 <= length <= self.epochs
        require_that(in_time, "schedule.temperature_epochs", length, f"{most}, or null")

    @property
    def temperature_length(self) -> float:
        """Length of the temperature's schedule in epochs."""
        return self.epochs / 10 if self.temperature_epochs is None else self.temperature_epochs

    def floor(self, lr: float) -> float:
        """Where a cosine ends, relative to its peak ``lr``."""
        return self.min_lr_ratio if self.min_lr is None else min(1.0, self.min_lr / lr)


def learning_rate_factor(step: int, schedule: ScheduleConfig, per_epoch: int, lr: float = 1.0) -> float:
    """Learning rate at an optimiser step, relative to its peak: linear warm-up, then a cosine or falls.

    Args:
        step: optimiser steps done, from 0.
        schedule: of the run.
        per_epoch: optimiser steps of an epoch.
        lr: the peak, which an absolute minimum is compared with.

    >>> cosine = ScheduleConfig(epochs=2, warmup_epochs=1, min_lr=0.0)
    >>> [round(learning_rate_factor(s, cosine, per_epoch=4), 3) for s in range(9)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    >>> falls = ScheduleConfig(epochs=100, kind="step", warmup_epochs=0)
    >>> [round(learning_rate_factor(10 * epoch, falls, per_epoch=10), 4) for epoch in (0, 29, 30, 60, 90)]
    [1.0, 1.0, 0.1, 0.01, 0.001]
    """
    total = schedule.epochs * per_epoch
    warmup = min(total, round(schedule.warmup_epochs * per_epoch))
    if step < warmup:
        return (step + 1) / warmup
    if schedule.kind == "step":
        done = step / per_epoch
        every = schedule.steps
        falls = sum(fall <= done for fall in every) if isinstance(every, tuple) else int(done / every)
        return schedule.factor**falls
    if schedule.update == "epoch":
        step = max(warmup, step // per_epoch * per_epoch)
    floor = schedule.floor(lr)
    share = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2


def accumulation(optimizer: OptimizerConfig, batch_size: int, accumulate: int | None, processes: int) -> int:
    """Iterations of one optimiser step.

    Args:
        optimizer: says how many images a step should have.
        batch_size: images of an iteration on one device.
        accumulate: what the user asks for, None for what follows.
        processes: devices that train together.

    Raises:
        DynaconvError: if no whole number of iterations makes the global batch.

    >>> accumulation(OptimizerConfig(global_batch=4096), 128, None, processes=8)
    4
    """
    wanted, at_once = optimizer.global_batch, batch_size * processes
    if wanted is None:
        return accumulate or 1
    count, rest = divmod(wanted, at_once)
    devices = f"{processes} device{'s' if processes > 1 else ''} x loader.batch_size={batch_size}"
    if accumulate is not None and accumulate * at_once != wanted:
        raise DynaconvError(
            f"optimizer.global_batch={wanted}, and {devices} x run.accumulate={accumulate} make "
            f"{accumulate * at_once}; drop run.accumulate to have it computed, or set optimizer.global_batch to null"
        )
    if rest or not count:
        advice = []
        if wanted % processes == 0:
            share = wanted // processes
            near = max(n for n in range(1, min(batch_size, share) + 1) if share % n == 0)
            advice.append(f"loader.batch_size={near}")
        around = sorted({max(1, count) * at_once, (count + 1) * at_once})
        advice.append(f"optimizer.global_batch={' or '.join(map(str, around))}, with a learning rate that fits")
        raise DynaconvError(
            f"optimizer.global_batch={wanted} is no multiple of {devices}; expected whole iterations: give "
            f"{', or '.join(advice)}"
        )
    return count
