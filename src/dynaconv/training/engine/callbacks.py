"""What happens at every iteration: the temperature of dynamic layers, and the seed of everything random.

Both are pure functions of where the run is, read from Lightning's own progress, so a resumed run continues exactly.
"""

from __future__ import annotations

from typing import Any

import dynaconv
from dynaconv.errors import DynaconvError
from dynaconv.training._lightning import Callback, LightningModule, Trainer
from dynaconv.training.data.sampling import derive_seed, seed_everywhere


def iteration_number(trainer: Trainer, batch_idx: int) -> int:
    """Data-loader iterations done before this one, over all epochs.

    Raises:
        DynaconvError: if the training data do not say how long an epoch is.
    """
    length = trainer.num_training_batches
    if length == float("inf"):
        raise DynaconvError("the training data have no length; expected a loader with len(), or limit_train_batches")
    return trainer.current_epoch * int(length) + batch_idx


class TemperatureCallback(Callback):
    """Sets the temperature of every dynamic layer, by its method's schedule, before each iteration.

    Progress is t / T with t = iteration + 1, counted over data-loader iterations (not optimiser steps, which gradient
    accumulation makes fewer), and T = ``epochs`` times the iterations of an epoch, as in the paper's code. Static
    networks have no temperature, and nothing happens.

    Args:
        epochs: length of the schedule; 0 is the end of the schedule from the start.
    """

    def __init__(self, epochs: float) -> None:
        self.epochs = epochs
        self.value: float | None = None

    def progress(self, trainer: Trainer, batch_idx: int) -> float:
        """Share of the schedule at this iteration, at most 1."""
        length = self.epochs * trainer.num_training_batches
        done = iteration_number(trainer, batch_idx) + 1
        return 1.0 if length <= done else done / length

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the value of an earlier run."""
        self.value = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the temperature, where it changes."""
        progress = self.progress(trainer, batch_idx)
        value = dynaconv.temperature_at(pl_module, progress)
        if value is None:
            return
        if value != self.value:
            dynaconv.schedule_temperature(pl_module, progress)
            self.value = value
        pl_module.log("tau", value, prog_bar=True, on_step=True, on_epoch=False)


class IterationSeed(Callback):
    """Makes every draw of an iteration (dropout, drop path, mixup) a function of (seed, process, iteration).

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed Python, numpy and torch."""
        seed_everywhere(derive_seed(self.seed, trainer.global_rank, iteration_number(trainer, batch_idx)))
