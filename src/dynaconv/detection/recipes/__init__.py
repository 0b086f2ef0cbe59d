"""The papers' recipes of detection: YAML files beside this one, read by :mod:`dynaconv.training.recipes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynaconv.detection.config import DetectionRecipe
from dynaconv.training.recipes import RecipeBook


def _network(values: Mapping[str, Any]) -> str:
    optimizer = "" if values["optimizer"]["name"] == "adamw" else "-sgd"
    return f"{values['detector']['kind']}-{values['model']}{optimizer}"


DETECTORS = RecipeBook("dynaconv.detection", DetectionRecipe, "dynaconv detect recipes", _network)
"""Names are mask_rcnn-MODEL and faster_rcnn-MODEL, with -sgd where that is the optimiser."""
