"""A run that takes half a second: a thin ResNet of four blocks with dynamic layers on a few digits of 16 pixels."""

from __future__ import annotations

import dataclasses
from typing import Any

from dynaconv.training import (
    AugmentConfig,
    LoaderConfig,
    OptimizerConfig,
    Recipe,
    RunConfig,
    ScheduleConfig,
)

METHOD = {"method": "kernel_warehouse", "budget": 1.0, "partition": "channel"}
BACKBONE = {"layers": [1, 1, 1, 1], "channels": [16, 16, 32, 32]}
IMAGES, BATCH = 48, 16  # three iterations an epoch


def tiny_recipe(**changes: Any) -> Recipe:
    recipe = Recipe(
        model="resnet18",
        method=METHOD,
        backbone=BACKBONE,
        data="digits",
        loader=LoaderConfig(image_size=16, batch_size=BATCH, limit=IMAGES),
        augment=AugmentConfig(),
        optimizer=OptimizerConfig(lr=4e-3),
        schedule=ScheduleConfig(epochs=2, warmup_epochs=1, temperature_epochs=1),
        run=RunConfig(accelerator="cpu"),
    )
    return dataclasses.replace(recipe, **changes)


def static_recipe(**changes: Any) -> Recipe:
    return tiny_recipe(method=None, **changes)
