"""The LightningModule of every kind of run: optimiser, learning rate, and what callbacks need of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from dynaconv.errors import DynaconvError
from dynaconv.models.layout import use_channels_last
from dynaconv.training._lightning import LightningModule
from dynaconv.training.config import FULLY_SHARDED, RunRecipe
from dynaconv.training.engine.activation_checkpointing import checkpoint_activations
from dynaconv.training.engine.optimizer import make_optimizer, window_factor
from dynaconv.training.engine.sharding import agree_on_buffers, shard
from dynaconv.training.schedule import learning_rate_factor


class TrainedModule(LightningModule):
    """A network in training; what it computes and how it is judged is the subclass's.

    Logs ``loss`` at every iteration and ``train_loss`` at every epoch.

    Args:
        model: the network.
        recipe: optimiser, schedule, how the run is carried out.
    """

    model: nn.Module

    def __init__(self, model: nn.Module, recipe: RunRecipe) -> None:
        super().__init__()
        self.layout = torch.channels_last if recipe.run.channels_last else torch.contiguous_format
        if recipe.run.channels_last:
            use_channels_last(model)
        self.model = model
        if recipe.run.checkpoint_activations:
            checkpoint_activations(self.recomputed)
        self.recipe = recipe
        # A loss that is none stays none; "disable" would do so too, but weighs all batches alike (torchmetrics 1.9).
        self.train_loss = MeanMetric(nan_strategy=float("nan"))
        # In a tuple, so that it is no submodule: neither saved, nor moved, nor trained with this module.
        self._stand_in: tuple[nn.Module, ...] = ()

    @property
    def train_metrics(self) -> dict[str, Metric]:
        """Figures that an epoch of training adds up, by their names in the log."""
        return {"train_loss": self.train_loss}

    @property
    def evaluated(self) -> nn.Module:
        """The network that validation judges and checkpoints hold: the moving average, where there is one."""
        return self._stand_in[0] if self._stand_in else self.model

    @property
    def recomputed(self) -> nn.Module:
        """The part of the network whose activations ``run.checkpoint_activations`` computes again."""
        return self.model

    @property
    def compiled(self) -> nn.Module:
        """The part of the network that ``run.compile`` compiles."""
        return self.model

    def evaluate_instead(self, model: nn.Module) -> None:
        """Judge and save another network, the moving average of this one."""
        self._stand_in = (model,)

    def configure_model(self) -> None:
        """Shard and compile the network, where the recipe says so: processes and devices are known by now."""
        run = self.recipe.run
        if run.strategy == FULLY_SHARDED:
            shard(self.model, self.device)
        if run.compile and self.compiled._compiled_call_impl is None:
            self.compiled.compile(backend="inductor" if run.compile is True else run.compile)

    def note_loss(self, loss: Tensor, images: int, batch_idx: int) -> Tensor:
        """Log an iteration's loss, and give what its gradient is to be taken of.

        Args:
            loss: of the batch, a scalar.
            images: in the batch.
            batch_idx: iteration of the epoch, from 0.
        """
        self.train_loss.update(loss.detach(), images)
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=False, batch_size=images)
        self.log("train_loss", self.train_loss, on_step=False, on_epoch=True)
        return loss * window_factor(batch_idx, self.trainer.num_training_batches, self.trainer.accumulate_grad_batches)

    def on_validation_start(self) -> None:
        """Judge one and the same network in all processes."""
        if self.recipe.run.strategy == FULLY_SHARDED:
            agree_on_buffers(self.model)

    def configure_optimizers(self) -> Any:
        """The optimiser, and the learning rate of every optimiser step."""
        optimizer = make_optimizer(self.model, self.recipe.optimizer)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.learning_rate())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def learning_rate(self) -> Callable[[int], float]:
        """From optimiser steps done to the learning rate, relative to its peak."""
        schedule, per_epoch, lr = self.recipe.schedule, self.steps_per_epoch(), self.recipe.optimizer.lr
        return lambda step: learning_rate_factor(step, schedule, per_epoch, lr)

    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch.

        Trainer.estimated_stepping_batches would make the loader before a resumed run's place in it is known, and
        that place would be lost (Lightning 2.6), so our own data module is asked instead.
        """
        iterations = getattr(getattr(self.trainer, "datamodule", None), "iterations_per_epoch", None)
        if iterations is None:
            return math.ceil(int(self.trainer.estimated_stepping_batches) / self.recipe.schedule.epochs)
        return math.ceil(iterations / self.trainer.accumulate_grad_batches)


def trained_module(module: LightningModule) -> TrainedModule:
    """The module as what callbacks of this package need.

    Raises:
        DynaconvError: if it is another kind of LightningModule.
    """
    if not isinstance(module, TrainedModule):
        raise DynaconvError(f"this callback works with a TrainedModule, not with a {type(module).__name__}")
    return module
