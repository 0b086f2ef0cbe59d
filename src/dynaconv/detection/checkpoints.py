"""Saved detectors: the same two files as a network's, with what stands on the backbone in the description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from dynaconv.checkpoints.description import build
from dynaconv.checkpoints.native import load_checkpoint
from dynaconv.detection.config import DetectorConfig
from dynaconv.detection.models.detector import create_detector
from dynaconv.errors import CheckpointError, DynaconvError
from dynaconv.training.fields import build as build_config
from dynaconv.training.fields import plain

NEEDED = {"classes": str, "category_ids": int, "image_mean": float, "image_std": float}
"""Lists of a detector's description, and what they hold."""


def describe_detector(
    detector: nn.Module, settings: DetectorConfig, arguments: Mapping[str, Any], data: Mapping[str, Any]
) -> dict[str, Any]:
    """What a checkpoint must say to rebuild and use a detector, plain types.

    Args:
        detector: of torchvision's.
        settings: that it was made with; where its weights came from is left out.
        arguments: of :func:`dynaconv.create_model` that make its backbone.
        data: ``classes``, names in the order of the labels, and ``category_ids``, the data set's numbers of them.
    """
    transform: Any = detector.get_submodule("transform")
    return {
        "model": dict(arguments),
        "detector": plain(asdict(replace(settings, weights=None))),
        "image_mean": list(transform.image_mean),
        "image_std": list(transform.image_std),
        **data,
    }


def load_detector(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a detector and load its weights, strictly.

    Args:
        path: common name of its two files, such as ``runs/NAME/TIME/best``, with or without a suffix.

    Returns:
        The detector in evaluation mode on the CPU, and its description: ``classes``, ``category_ids``, ``detector``
        (fields of a :class:`DetectorConfig`), ``model``, and what its run noted.

    Raises:
        CheckpointError: if files are missing or damaged, or hold no detector.
    """
    return load_checkpoint(path, make=rebuild)


def rebuild(description: Mapping[str, Any], path: str | Path) -> nn.Module:
    """The detector that a description describes, without its weights.

    Args:
        description: of :func:`describe_detector`.
        path: what errors name.

    Raises:
        CheckpointError: if it describes none.
    """
    if not isinstance(description.get("detector"), Mapping):
        raise CheckpointError(
            f"{path} holds a classification network, no detector; expected what `dynaconv detect train` saved. To "
            "start a detector from it: --detector.weights"
        )
    for name, kind in NEEDED.items():
        values = description.get(name)
        if not isinstance(values, list) or not values or not all(_is(value, kind) for value in values):
            raise CheckpointError(f"{path}: {name}={values!r}; expected a list of {kind.__name__} values")
    if len(description["classes"]) != len(description["category_ids"]):
        raise CheckpointError(f"{path} has {len(description['classes'])} classes, and another number of category_ids")
    try:
        settings = build_config(DetectorConfig, description["detector"], "detector")
    except DynaconvError as error:
        raise CheckpointError(f"{path} describes no detector that can be built: {error}") from error
    return create_detector(
        build({"model": description["model"]}, path),
        num_classes=len(description["classes"]),
        detector=replace(settings, weights=None),
        in_chans=len(description["image_mean"]),
        image_mean=description["image_mean"],
        image_std=description["image_std"],
    )


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, int | float if kind is float else kind) and not isinstance(value, bool)
