"""What runs of one kind have of their own: settings, data, network, and the figures that tell how good it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from dynaconv.training.config import RunRecipe
from dynaconv.training.engine.trained_module import TrainedModule

AnyRecipe = TypeVar("AnyRecipe", bound=RunRecipe)


@dataclass(frozen=True)
class Beginning(Generic[AnyRecipe]):
    """What a run begins with.

    Args:
        recipe: with everything settled that was left to data or weights.
        data: set up.
        module: the network as Lightning trains it.
        description: what a checkpoint must say to rebuild and use the network.
        summary: figures of a trained start, ready for JSON; None without one.
    """

    recipe: AnyRecipe
    data: Any
    module: TrainedModule
    description: dict[str, Any]
    summary: dict[str, Any] | None = None


@dataclass(frozen=True)
class Task(Generic[AnyRecipe]):
    """A kind of run.

    Args:
        recipe: class of its settings.
        begin: from settings, and the folder of a run that is resumed, to what a run begins with.
        settle: from settings as asked to settings as a run of them notes them.
        located: settings whose paths still mean the same from another folder.
        columns: of a run's table of figures, a row an epoch.
        criterion: column whose highest value makes an epoch the best.
        panels: columns and titles of the picture of a run.
    """

    recipe: type[AnyRecipe]
    begin: Callable[[AnyRecipe, Path | None], Beginning[AnyRecipe]]
    settle: Callable[[AnyRecipe], AnyRecipe]
    located: Callable[[AnyRecipe], AnyRecipe]
    columns: tuple[str, ...]
    criterion: str
    panels: Mapping[str, str]
