"""Runs of image classification: from a recipe to data, network and module."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

import dynaconv
from dynaconv.errors import DynaconvError
from dynaconv.training.config import Recipe
from dynaconv.training.data.datamodule import ImageDataModule
from dynaconv.training.data.embedded import EMBEDDED
from dynaconv.training.data.sampling import seeded
from dynaconv.training.data.unchanged import check_unchanged
from dynaconv.training.engine.module import ClassificationModule
from dynaconv.training.engine.tuning import open_source_network, prepare_as, settle, start_from
from dynaconv.training.engine.tuning_module import TuningModule
from dynaconv.training.runs.curves import PANELS
from dynaconv.training.runs.history import COLUMNS
from dynaconv.training.runs.task import Beginning, Task


def build_model(recipe: Recipe, num_classes: int, in_chans: int) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a recipe at its random start, and the arguments that make it, as plain types.

    Args:
        recipe: ``model``, ``method``, ``where``, ``backbone`` and the seed of the start.
        num_classes: length of the logits.
        in_chans: channels of the images.
    """
    for name, value in (("num_classes", num_classes), ("in_chans", in_chans)):
        if recipe.backbone.get(name, value) != value:
            raise DynaconvError(
                f"backbone.{name}={recipe.backbone[name]}, but the data have {value}; leave it out (the data decide)"
            )
    backbone = {name: value for name, value in recipe.backbone.items() if name not in ("num_classes", "in_chans")}
    config = None if recipe.method is None else dynaconv.config_from_dict(recipe.method)
    description = {
        "name": recipe.model,
        "config": None if config is None else config.to_dict(),
        "where": recipe.where,
        "num_classes": num_classes,
        "in_chans": in_chans,
        "backbone_kwargs": backbone,
    }
    with seeded(recipe.run.seed):
        model = dynaconv.create_model(
            recipe.model,
            config=config,
            where=recipe.where,
            num_classes=num_classes,
            in_chans=in_chans,
            **backbone,
        )
    return model, description


def begin(recipe: Recipe, resumed: Path | None) -> Beginning[Recipe]:
    """Data and network of a run at its start, at random or from a trained network (``recipe.tune``).

    Args:
        recipe: of the run.
        resumed: its folder, which says what its data were, if it goes on.
    """
    source = None if recipe.tune is None else open_source_network(recipe)
    if source is not None:
        recipe = settle(recipe, source)
    images = ImageDataModule.from_recipe(recipe)
    images.setup()
    if resumed is not None:
        check_unchanged(images, resumed)
    count, summary = len(images.classes), None
    if source is None:
        model, arguments = build_model(recipe, count, images.in_chans)
        module = ClassificationModule(model, recipe, count)
    else:
        prepare_as(images, source)
        start = start_from(recipe, source, images, judged=resumed is None)
        module, arguments, summary = TuningModule(start, recipe, count), start.arguments, start.summary
    description = {"model": arguments, "data": findable(recipe.data), **images.preprocessing()}
    return Beginning(recipe, images, module, description, summary)


def settled(recipe: Recipe) -> Recipe:
    """The recipe with what its trained network decides."""
    return recipe if recipe.tune is None else settle(recipe, open_source_network(recipe))


def findable(data: str) -> str:
    """A data source's name that still means the same from another folder."""
    kind, mark, path = data.partition(":")
    if not mark and data not in EMBEDDED:
        return f"folder:{Path(data).expanduser().resolve()}"
    return f"{kind}:{Path(path).expanduser().resolve()}" if kind in ("folder", "wds") and "://" not in path else data


def located(recipe: Recipe) -> Recipe:
    """The recipe with paths that mean the same from another folder."""
    root = recipe.loader.root
    loader = recipe.loader if root is None or "://" in root else replace(recipe.loader, root=str(Path(root).resolve()))
    return replace(recipe, data=findable(recipe.data), loader=loader)


CLASSIFICATION = Task(
    recipe=Recipe,
    begin=begin,
    settle=settled,
    located=located,
    columns=COLUMNS,
    criterion="val_top1",
    panels=PANELS,
)
