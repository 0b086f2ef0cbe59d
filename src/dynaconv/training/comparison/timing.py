"""A training step and inference of several networks on one batch, ready to be timed side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dynaconv
from dynaconv.errors import DynaconvError, require
from dynaconv.models.layout import use_channels_last
from dynaconv.training._lightning import quiet_lightning
from dynaconv.training.config import Recipe
from dynaconv.training.data.datamodule import ImageDataModule
from dynaconv.training.engine.optimizer import make_optimizer
from dynaconv.training.runs.classification import build_model

STILL = 1e-12
"""Learning rate while measuring: the optimiser does its work, and the network stays as it is for the next step."""


@dataclass(frozen=True)
class Workload:
    """The batch that everybody is measured with.

    Args:
        batch_size: images.
        in_chans: channels.
        image_size: side in pixels.
        num_classes: length of the logits.
    """

    batch_size: int
    in_chans: int
    image_size: int
    num_classes: int

    @classmethod
    def of(cls, recipe: Recipe) -> Workload:
        """The batch of a recipe's training; opens its data to see how many classes and channels they have."""
        images = ImageDataModule.from_recipe(recipe)
        images.setup()
        return cls(recipe.loader.batch_size, images.in_chans, images.image_size, len(images.classes))

    def batch(self) -> tuple[Tensor, Tensor]:
        """Noise with labels, always the same."""
        draw = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch_size, self.in_chans, self.image_size, self.image_size, generator=draw)
        return images, torch.randint(self.num_classes, (self.batch_size,), generator=draw)


@dataclass(frozen=True)
class Steps:
    """What is timed of a network.

    Args:
        train: forward, backward and one step of the optimiser.
        infer: forward in evaluation mode, without gradients.
    """

    train: Callable[[], None]
    infer: Callable[[], None]


def make_fabric(recipe: Recipe) -> Any:
    """Lightning's Fabric for a recipe's device and precision.

    Raises:
        DynaconvError: if Lightning refuses them.
    """
    fabric = require("lightning.fabric", "train").Fabric
    run = recipe.run
    try:
        with quiet_lightning():
            return fabric(accelerator=run.accelerator, devices=1, precision=run.precision)
    except (ValueError, RuntimeError) as error:
        raise DynaconvError(f"Lightning refuses run={run}: {error}") from error


def make_steps(recipe: Recipe, workload: Workload, fabric: Any) -> Steps:
    """Build a recipe's network with its optimiser, at the end of its temperature's schedule.

    Args:
        recipe: network, optimiser, gradient clipping, label smoothing, layout.
        workload: the batch.
        fabric: device and precision, of :func:`make_fabric`.
    """
    built = build_model(recipe, workload.num_classes, workload.in_chans)[0]
    return steps_of(built, recipe, workload, fabric)


def steps_of(built: nn.Module, recipe: Recipe, workload: Workload, fabric: Any) -> Steps:
    """The steps of a network that exists."""
    dynaconv.schedule_temperature(built, 1.0)
    layout = torch.channels_last if recipe.run.channels_last else torch.contiguous_format
    if recipe.run.channels_last:
        use_channels_last(built)
    with quiet_lightning():
        model, optimizer = fabric.setup(built, make_optimizer(built, replace(recipe.optimizer, lr=STILL)))
    images, labels = (tensor.to(fabric.device) for tensor in workload.batch())
    images = images.contiguous(memory_format=layout)
    clip_norm, smoothing = recipe.optimizer.clip_norm, recipe.augment.label_smoothing

    def train() -> None:
        model.train()
        optimizer.zero_grad()
        fabric.backward(F.cross_entropy(model(images).float(), labels, label_smoothing=smoothing))
        if clip_norm is not None:
            fabric.clip_gradients(model, optimizer, max_norm=clip_norm)
        optimizer.step()

    def infer() -> None:
        model.eval()
        with torch.inference_mode():
            model(images)

    return Steps(train, infer)
