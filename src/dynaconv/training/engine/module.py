"""The LightningModule: loss, accuracy, optimiser and learning rate of image classification."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from dynaconv.errors import DynaconvError, require
from dynaconv.models.layout import use_channels_last
from dynaconv.training._lightning import LightningModule
from dynaconv.training.config import FULLY_SHARDED, OptimizerConfig, Recipe
from dynaconv.training.data.augment import make_mixer
from dynaconv.training.engine.activation_checkpointing import checkpoint_activations
from dynaconv.training.engine.sharding import agree_on_buffers, shard
from dynaconv.training.schedule import learning_rate_factor

Batch = tuple[Tensor, Tensor]


def window_factor(iteration: int, iterations: float, accumulate: int) -> float:
    """What makes the gradient of an optimiser step the mean over its iterations, also where an epoch ends within one.

    Lightning divides by ``accumulate`` always, and so would make an epoch's last, shorter step too small.

    Args:
        iteration: of the epoch, from 0.
        iterations: of the epoch; infinite where that is not known.
        accumulate: iterations per optimiser step.

    >>> [window_factor(i, 5, 2) for i in range(5)]
    [1.0, 1.0, 1.0, 1.0, 2.0]
    """
    left = iterations % accumulate if math.isfinite(iterations) else 0
    return accumulate / left if left and iteration >= iterations - left else 1.0


def make_optimizer(model: nn.Module | list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """An optimiser of timm's factory; parameters of one dimension have no weight decay, unless the config says so.

    Args:
        model: a network, or groups of parameters with paces and decays of their own.
        config: which optimiser, and how fast.

    Raises:
        DynaconvError: if timm does not know the name, or the optimiser does not take the arguments.
    """
    factory = require("timm.optim", "train")
    try:
        return factory.create_optimizer_v2(
            model,
            opt=config.name,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            filter_bias_and_bn=not config.decay_norms,
            **config.options,
        )
    except (AssertionError, TypeError, ValueError) as error:
        known = ", ".join(factory.list_optimizers()[:12])
        raise DynaconvError(f"optimizer.name={config.name!r}: {error}; timm has {known}, ...") from error


class ClassificationModule(LightningModule):
    """A network and how it is trained and judged.

    Logs ``loss`` at every iteration, and at every epoch ``train_loss``, ``train_top1``, ``val_loss``, ``val_top1`` and,
    with more than five classes, ``val_top5``; accuracies are shares of 1. Training accuracy is against the images' own
    labels, so mixup and cutmix lower it.

    Args:
        model: images ``(B, C, H, W)`` to logits ``(B, num_classes)``.
        recipe: optimiser, schedule, label smoothing, mixup and cutmix.
        num_classes: length of the logits.
    """

    model: nn.Module

    def __init__(self, model: nn.Module, recipe: Recipe, num_classes: int) -> None:
        super().__init__()
        self.layout = torch.channels_last if recipe.run.channels_last else torch.contiguous_format
        if recipe.run.channels_last:
            use_channels_last(model)
        if recipe.run.checkpoint_activations:
            checkpoint_activations(model)
        self.model = model
        self.recipe = recipe
        self.mixer = make_mixer(recipe.augment, num_classes)
        # A loss that is none stays none; "disable" would do so too, but weighs all batches alike (torchmetrics 1.9).
        self.train_loss = MeanMetric(nan_strategy=float("nan"))
        self.train_top1 = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.val_top1 = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.val_top5 = (
            MulticlassAccuracy(num_classes, top_k=5, average="micro", validate_args=False) if num_classes > 5 else None
        )
        # In a tuple, so that it is no submodule: neither saved, nor moved, nor trained with this module.
        self._stand_in: tuple[nn.Module, ...] = ()

    @property
    def train_metrics(self) -> dict[str, Metric]:
        """Figures that an epoch of training adds up, by their names in the log."""
        return {"train_loss": self.train_loss, "train_top1": self.train_top1}

    @property
    def evaluated(self) -> nn.Module:
        """The network that validation judges and checkpoints hold: the moving average, where there is one."""
        return self._stand_in[0] if self._stand_in else self.model

    def evaluate_instead(self, model: nn.Module) -> None:
        """Judge and save another network, the moving average of this one."""
        self._stand_in = (model,)

    def configure_model(self) -> None:
        """Shard and compile the network, where the recipe says so: processes and devices are known by now."""
        run = self.recipe.run
        if run.strategy == FULLY_SHARDED:
            shard(self.model, self.device)
        if run.compile and self.model._compiled_call_impl is None:
            self.model.compile(backend="inductor" if run.compile is True else run.compile)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        images, labels = batch
        if self.mixer is None:
            targets, smoothing = labels, self.recipe.augment.label_smoothing
        else:
            self.mixer.set_epoch(self.current_epoch)
            (images, targets), smoothing = self.mixer(images, labels), 0.0
        images = images.contiguous(memory_format=self.layout)
        logits = self.model(images).float()
        loss = self.loss(images, logits, targets, smoothing)
        self.train_loss.update(loss.detach(), len(labels))
        self.train_top1.update(logits.detach(), labels)
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=False)
        self.log("train_loss", self.train_loss, on_step=False, on_epoch=True)
        self.log("train_top1", self.train_top1, prog_bar=True, on_step=False, on_epoch=True)
        return loss * window_factor(batch_idx, self.trainer.num_training_batches, self.trainer.accumulate_grad_batches)

    def loss(self, images: Tensor, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """What training makes small.

        Args:
            images: the network's input, shape ``(B, C, H, W)``.
            logits: shape ``(B, classes)``.
            targets: labels ``(B,)``, or shares of all classes ``(B, classes)``.
            smoothing: share of the targets spread over all classes.
        """
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)

    def on_validation_start(self) -> None:
        """Judge one and the same network in all processes."""
        if self.recipe.run.strategy == FULLY_SHARDED:
            agree_on_buffers(self.model)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and accuracy of one batch, without label smoothing."""
        images, labels = batch
        logits = self.evaluated(images.contiguous(memory_format=self.layout)).float()
        loss = F.cross_entropy(logits, labels)
        # Lightning divides the images of all processes by the processes, rounding down; so nothing is lost.
        images_judged = len(labels) * self.trainer.world_size
        self.log("val_loss", loss, prog_bar=True, batch_size=images_judged, sync_dist=True)
        self.val_top1(logits, labels)
        self.log("val_top1", self.val_top1, prog_bar=True)
        if self.val_top5 is not None:
            self.val_top5(logits, labels)
            self.log("val_top5", self.val_top5)

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


def classification_module(module: LightningModule) -> ClassificationModule:
    """The module as what callbacks of this package need.

    Raises:
        DynaconvError: if it is another kind of LightningModule.
    """
    if not isinstance(module, ClassificationModule):
        raise DynaconvError(f"this callback works with a ClassificationModule, not with a {type(module).__name__}")
    return module
