"""Runs of detection: from a recipe to data, detector and module, and `fit`, `resume` of them."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dynaconv.checkpoints.description import is_checkpoint, read_recipe
from dynaconv.detection.checkpoints import describe_detector, rebuild
from dynaconv.detection.config import VALIDATION_FILES, DetectionRecipe
from dynaconv.detection.data.datamodule import DetectionDataModule
from dynaconv.detection.models.detector import build_detector
from dynaconv.detection.module import LOSSES, DetectionModule
from dynaconv.errors import RunWarning
from dynaconv.training.data.unchanged import check_unchanged
from dynaconv.training.runs import fitting
from dynaconv.training.runs.task import Beginning, Task

SCORES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
COLUMNS: tuple[str, ...] = (
    "epoch",
    "step",
    "lr",
    "tau",
    "train_loss",
    *(f"train_{name}" for name in LOSSES),
    *(f"val_{kind}_{score}" for kind in ("box", "mask") for score in SCORES),
    "unreadable",
    "val_unreadable",
    "seconds",
)
"""Of a run's table of figures; losses are means over an epoch's images, scores shares of 1. Validation's
seconds are not counted."""


def begin(recipe: DetectionRecipe, resumed: Path | None) -> Beginning[DetectionRecipe]:
    """Data and detector of a run at its start.

    Args:
        recipe: of the run.
        resumed: its folder, which says what its data were, if it goes on.
    """
    recipe = settled(recipe)
    data = DetectionDataModule.from_recipe(recipe)
    data.setup()
    if resumed is not None:
        check_unchanged(data, resumed)
    saved = None if resumed is None else _saved(resumed)
    if saved is None:
        _warn_of_random_parts(recipe)
        detector, arguments = build_detector(recipe, len(data.classes))
    else:  # what it began with need not be there any more
        detector, arguments = rebuild(saved, resumed or ""), saved["model"]
    module = DetectionModule(detector, recipe, data.val_truth, data.category_ids)
    description = describe_detector(detector, recipe.detector, arguments, data.preprocessing())
    files = {name: getattr(recipe.loader, name) for name in VALIDATION_FILES}
    return Beginning(recipe, data, module, {**description, "data": located(recipe).data, "files": files})


def _saved(folder: Path) -> dict[str, Any] | None:
    """What the last epoch's checkpoint says of the detector; None before there is one."""
    return read_recipe(folder / "last") if is_checkpoint(folder / "last") else None


def _warn_of_random_parts(recipe: DetectionRecipe) -> None:
    settings = recipe.detector
    if settings.weights is None and (settings.freeze_stages or settings.norms != "train"):
        text = f"detector.freeze_stages={settings.freeze_stages}, detector.norms={settings.norms!r} keep as it is"
        text += " what starts at random here; they are meant for trained backbones (--weights)"
        warnings.warn(RunWarning(text), stacklevel=3)


def settled(recipe: DetectionRecipe) -> DetectionRecipe:
    """The recipe with the end of the temperature's schedule from the start, if its backbone is trained already."""
    if recipe.detector.weights is None or recipe.schedule.temperature_epochs is not None:
        return recipe
    return replace(recipe, schedule=replace(recipe.schedule, temperature_epochs=0))


def located(recipe: DetectionRecipe) -> DetectionRecipe:
    """The recipe with paths that mean the same from another folder."""
    weights = recipe.detector.weights
    if weights is not None and weights != "timm":
        weights = str(Path(weights).expanduser().resolve())
    data = str(Path(recipe.data).expanduser().resolve())
    return replace(recipe, data=data, detector=replace(recipe.detector, weights=weights))


DETECTION = Task(
    recipe=DetectionRecipe,
    begin=begin,
    settle=settled,
    located=located,
    columns=COLUMNS,
    criterion="val_box_ap",
    panels={"train_loss": "training loss", "val_box_ap": "AP of boxes", "val_mask_ap": "AP of masks"},
)

fit = partial(fitting.fit, task=DETECTION)
resume = partial(fitting.resume, task=DETECTION)
fit_or_resume = partial(fitting.fit_or_resume, task=DETECTION)
