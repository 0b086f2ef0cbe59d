"""Where a run continues: the newest checkpoint that is whole, of the same recipe as the folder's."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynaconv.errors import CheckpointError, DynaconvError, RunWarning
from dynaconv.files import clean_temporaries
from dynaconv.training.config import RunRecipe
from dynaconv.training.runs.sealed import DAMAGED_FILE, NOTE, PREVIOUS_FILE, RESUME_FILE, link_or_copy, read_sealed

FREE = (
    "loader.batch_size",
    "loader.workers",
    "loader.root",
    "loader.download",
    "run.accelerator",
    "run.attention_maps",
    "run.checkpoint_activations",
    "run.checkpoint_every",
    "run.compile",
    "run.devices",
    "run.num_nodes",
    "run.strategy",
)
"""Fields of a recipe that may change between stop and resume: they say where and how, not what is computed. Batch and
devices may as long as an iteration has as many images, see :func:`check_iteration`."""


@dataclass(frozen=True)
class Checkpointed:
    """A whole checkpoint.

    Args:
        path: of the file.
        step: optimiser steps done.
        recipe: that it was made with; None in a file of before this was noted.
        notes: further values that the run noted, see :class:`dynaconv.training.runs.saving.RunCheckpoint`.
    """

    path: Path
    step: int
    recipe: RunRecipe | None
    notes: Mapping[str, Any]


def find_checkpoint(folder: Path, recipe: type[RunRecipe]) -> Checkpointed:
    """The checkpoint that a run goes on from: the last one, or the previous one where the last is damaged or missing.

    Nothing is written, since every process of a run looks for itself: :func:`tidy` does that. A warning tells of a
    damaged file.

    Args:
        folder: of the run.
        recipe: class of its settings.

    Raises:
        CheckpointError: if neither is whole; it says why.
    """
    reasons = []
    for name in (RESUME_FILE, PREVIOUS_FILE):
        path = folder / name
        try:
            content = read_sealed(path)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        found = _summary(path, content, recipe)
        if reasons:
            warnings.warn(
                RunWarning(f"{reasons[0]}; going on from the one before it, optimiser step {found.step}"), stacklevel=3
            )
        return found
    raise CheckpointError("; ".join(reasons))


def tidy(folder: Path, found: Checkpointed | None) -> None:
    """Delete what a killed process left unfinished; rename a damaged checkpoint, which is kept.

    For one process alone, before any of them writes: a file that another is writing has a temporary name, too.

    Args:
        folder: of the run.
        found: what it goes on from; None for a new run.
    """
    clean_temporaries(folder)
    if found is not None and found.path.name == PREVIOUS_FILE:
        _promote(folder)


def check_recipe(found: Checkpointed, recipe: RunRecipe, folder: Path) -> None:
    """Refuse to go on with another recipe than the checkpoint was made with; more epochs are taken, with a warning.

    Raises:
        DynaconvError: which names the fields that differ.
    """
    if found.recipe is None:
        return
    if different := recipe_differences(found.recipe, recipe, (*FREE, "schedule.epochs")):
        raise DynaconvError(
            f"{found.path.name} in {folder} was made with another recipe than its config.yaml: {different}. Put the "
            "old values back to go on, or start a new run"
        )
    if longer := recipe_differences(found.recipe, recipe):
        text = f"{longer}: from here on learning rate and temperature follow the new length"
        warnings.warn(RunWarning(text), stacklevel=3)


def check_iteration(found: Checkpointed, recipe: RunRecipe, processes: int) -> None:
    """Refuse to go on with another number of images an iteration, over all processes.

    Raises:
        DynaconvError: which says how many there were.
    """
    before = found.notes.get("processes")
    if found.recipe is None or before is None:
        return
    there, now = found.recipe.loader.batch_size * before, recipe.loader.batch_size * processes
    if there != now:
        raise DynaconvError(
            f"{found.path} was made with {there} images an iteration ({found.recipe.loader.batch_size} on each of "
            f"{before}); here are {now} ({recipe.loader.batch_size} on each of {processes}). Change run.devices or "
            "loader.batch_size so that their product is the same"
        )


def recipe_differences(there: RunRecipe, now: RunRecipe, free: tuple[str, ...] = FREE) -> str:
    """Fields in which two recipes differ, but for the free ones, as text; empty if there are none."""
    old, new = (flat(recipe.to_dict()) for recipe in (there, now))
    return differences(*({key: value for key, value in fields.items() if key not in free} for fields in (old, new)))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two mappings of plain values, as text; empty if nothing does."""
    missing = object()
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key, missing) != new.get(key, missing)]
    texts = [f"{key} is {old.get(key)!r} there and {new.get(key)!r} now" for key in keys[:4]]
    return "; ".join(texts) + (f", and {len(keys) - 4} more" if len(keys) > 4 else "")


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with names joined by dots."""
    joined: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            joined |= flat(value, f"{prefix}{key}.")
        else:
            joined[f"{prefix}{key}"] = value
    return joined


def _summary(path: Path, content: Mapping[str, Any], recipe: type[RunRecipe]) -> Checkpointed:
    note = dict(content.get(NOTE, {}))
    values = note.pop("recipe", None)
    made = None if values is None else recipe.from_dict(values)
    return Checkpointed(path, int(content["global_step"]), made, note)


def _promote(folder: Path) -> None:
    """Put a damaged last file aside and the previous one in its place, which the next save will not touch."""
    last = folder / RESUME_FILE
    with suppress(FileNotFoundError):
        last.replace(folder / DAMAGED_FILE)
    link_or_copy(folder / PREVIOUS_FILE, last)
