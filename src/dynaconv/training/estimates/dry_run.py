"""What a run would be, before it begins: network, plan, optimiser, schedule, steps, memory and time.

Networks are made without memory and counted on shapes; data are not read; nothing is written. One figure is measured,
the seconds of a training step, on this machine, which may be another one than the run's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import dynaconv
from dynaconv.convert import draft_plan
from dynaconv.errors import DynaconvError
from dynaconv.models import PaperResult
from dynaconv.models.backbone import make_backbone
from dynaconv.training._lightning import Trainer, quiet_lightning
from dynaconv.training.config import Recipe, RunConfig
from dynaconv.training.data.datamodule import ImageDataModule
from dynaconv.training.data.sampling import EpochBatches
from dynaconv.training.engine.optimizer import make_optimizer
from dynaconv.training.estimates.schedule_picture import Course, course_of
from dynaconv.training.estimates.step_cost import DataNumbers, Memory, StepTime, measure_step, memory_of
from dynaconv.training.recipes import Dataset, PaperRecipe, preset_of
from dynaconv.training.runs.classification import build_model
from dynaconv.training.schedule import accumulation

POINTS = 600


@dataclass(frozen=True)
class Group:
    """A group of parameters that an optimiser treats alike.

    Args:
        tensors: how many.
        parameters: their elements.
        lr: learning rate at the peak.
        weight_decay: strength.
    """

    tensors: int
    parameters: int
    lr: float
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a run would be.

    Args:
        recipe: of the run.
        paper: the paper's recipe that it began with.
        data: numbers of its images.
        parameters: of the network.
        printed: the paper's own figures for it.
        plan: of the conversion; None for a static network.
        groups: of the optimiser.
        processes: devices that train together.
        accumulate: iterations of an optimiser step.
        iterations: of an epoch, on every device.
        steps: optimiser steps of an epoch.
        course: learning rate and temperature.
        memory: of a device.
        step_time: as measured here, or why it was not.
    """

    recipe: Recipe
    paper: PaperRecipe | None
    data: DataNumbers
    parameters: int
    printed: PaperResult | None
    plan: Any
    groups: tuple[Group, ...]
    processes: int
    accumulate: int
    iterations: int
    steps: int
    course: Course
    memory: Memory
    step_time: StepTime | str

    @property
    def global_batch(self) -> int:
        """Images of an optimiser step over all devices."""
        return self.processes * self.recipe.loader.batch_size * self.accumulate

    @property
    def epoch_seconds(self) -> float | None:
        """An epoch's training, at the pace measured here, if every device had it."""
        if isinstance(self.step_time, str):
            return None
        images = self.iterations * self.recipe.loader.batch_size
        return images * self.step_time.seconds / self.step_time.batch_size


def dry_run(recipe: Recipe, paper: PaperRecipe | None = None, *, measure: bool = True) -> DryRun:
    """Say what a run would be.

    Args:
        recipe: of the run.
        paper: the paper's recipe that it began with; its data set's numbers stand in for data that are not there.
        measure: run some training steps on noise, to know their seconds.

    Raises:
        DynaconvError: if the run could not begin: unknown network, optimiser or data, devices that are not there, a
            batch that can not be divided.
    """
    if recipe.tune is not None:
        raise DynaconvError("a dry run is of a training from its start; this recipe has a tune, drop it or --dry-run")
    data = numbers_of(recipe, None if paper is None else paper.dataset)
    processes = count_processes(recipe.run)
    accumulate = accumulation(recipe.optimizer, recipe.loader.batch_size, recipe.run.accumulate, processes)
    with torch.device("meta"):
        model = build_model(recipe, data.classes, data.in_chans)[0]
    groups = optimizer_groups(model, recipe)
    loader = recipe.loader
    batches = EpochBatches(
        data.train, loader.batch_size, shuffle=True, drop_last=loader.drop_last, seed=0, world_size=processes
    )
    steps = math.ceil(len(batches) / accumulate)
    preset = preset_of(recipe.model)
    return DryRun(
        recipe=recipe,
        paper=paper,
        data=data,
        parameters=sum(p.numel() for p in model.parameters()),
        printed=next((result for result in preset.results if result.params_millions), None) if preset else None,
        plan=plan_of(recipe, data),
        groups=groups,
        processes=processes,
        accumulate=accumulate,
        iterations=len(batches),
        steps=steps,
        course=course_of(recipe, model, steps, POINTS),
        memory=memory_of(model, recipe, data, processes),
        step_time=measure_step(recipe, data) if measure else "not asked for",
    )


def numbers_of(recipe: Recipe, stand_in: Dataset | None) -> DataNumbers:
    """Sizes of a recipe's data, from the data themselves where they are, from their data set's known numbers otherwise.

    Raises:
        DynaconvError: if they are not there, and no data set stands in.
    """
    loader = recipe.loader
    folder = Path(recipe.data.removeprefix("folder:")).expanduser()
    if stand_in is not None and recipe.data.startswith(("folder:", "/", ".", "~")) and not folder.exists():
        train = stand_in.train if loader.limit is None else min(loader.limit, stand_in.train)
        return DataNumbers(
            f"{stand_in.title}'s numbers, as {folder} does not exist",
            train,
            stand_in.val,
            stand_in.classes,
            loader.in_chans or 3,
            loader.image_size or stand_in.image_size,
        )
    images = ImageDataModule.from_recipe(recipe)
    images.setup()
    assert images.source is not None  # opened just now
    train, val = len(images.source.train), len(images.source.val)
    return DataNumbers(f"counted in {recipe.data}", train, val, len(images.classes), images.in_chans, images.image_size)


def count_processes(run: RunConfig) -> int:
    """Devices that train together; those that are named need not be in this machine.

    Raises:
        DynaconvError: if they have to be looked for, and Lightning finds none.
    """
    nodes, devices = run.num_nodes, run.devices
    if isinstance(devices, str) and devices.replace(",", "").isdigit():
        devices = len(devices.strip(",").split(",")) if "," in devices else int(devices)
    if isinstance(devices, int) and devices > 0:
        return devices * nodes
    try:
        with quiet_lightning():
            found = Trainer(accelerator=run.accelerator, devices=devices, logger=False, enable_checkpointing=False)
    except Exception as error:  # Lightning's MisconfigurationException is nothing more special
        raise DynaconvError(
            f"run.accelerator={run.accelerator!r} with run.devices={devices!r} finds no device here ({error}); to plan "
            "for another machine say how many, as --devices 8"
        ) from error
    return found.num_devices * nodes


def plan_of(recipe: Recipe, data: DataNumbers) -> Any:
    """The plan of a recipe's conversion, None for a static network."""
    preset = preset_of(recipe.model)
    if preset is not None:
        name, config, where = preset.backbone, preset.config, preset.where and list(preset.where)
    else:
        name, where = recipe.model, recipe.where
        config = None if recipe.method is None else dynaconv.config_from_dict(recipe.method)
    if config is None:
        return None
    arguments = {**(preset.backbone_kwargs if preset else {}), **recipe.backbone}
    with torch.device("meta"):
        backbone = make_backbone(name, num_classes=data.classes, in_chans=data.in_chans, **arguments)
    return draft_plan(backbone, config, where)


def optimizer_groups(model: nn.Module, recipe: Recipe) -> tuple[Group, ...]:
    """The groups of a recipe's optimiser.

    Raises:
        DynaconvError: if there is no such optimiser.
    """
    return tuple(
        Group(
            tensors=len(group["params"]),
            parameters=sum(p.numel() for p in group["params"]),
            lr=group["lr"],
            weight_decay=group["weight_decay"],
        )
        for group in make_optimizer(model, recipe.optimizer).param_groups
    )
