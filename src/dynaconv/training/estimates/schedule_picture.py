"""Learning rate and temperature over the epochs of a run: as points, as a small chart of characters, as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

import dynaconv
from dynaconv.analysis.figures import new_figure, save_figure
from dynaconv.training.config import Recipe
from dynaconv.training.schedule import learning_rate_factor

BLOCKS = " ▁▂▃▄▅▆▇█"
PLAIN = " .:-=+*%#"
"""The same for terminals that know no blocks."""


@dataclass(frozen=True)
class Course:
    """How a run's settings move.

    Args:
        epochs: of every point: epochs done.
        learning_rate: at every point.
        temperature: at every point; None for a network that has none.
    """

    epochs: tuple[float, ...]
    learning_rate: tuple[float, ...]
    temperature: tuple[float, ...] | None


def course_of(recipe: Recipe, model: nn.Module, steps_per_epoch: int, points: int) -> Course:
    """Learning rate and temperature at even distances from the first step to the last.

    Args:
        recipe: optimiser and schedule.
        model: its network, whose layers know how temperature falls; left as it is.
        steps_per_epoch: optimiser steps of an epoch.
        points: how many; no more than there are optimiser steps.
    """
    schedule, peak = recipe.schedule, recipe.optimizer.lr
    total = schedule.epochs * steps_per_epoch
    count = max(2, min(points, total))
    steps = sorted({round(i * (total - 1) / (count - 1)) for i in range(count)})
    length = schedule.temperature_length * steps_per_epoch
    heats: list[float | None] = []
    if dynaconv.temperature_at(model, 0.0) is not None:
        heats = [dynaconv.temperature_at(model, 1.0 if length <= step else step / length) for step in steps]
    return Course(
        epochs=tuple(step / steps_per_epoch for step in steps),
        learning_rate=tuple(peak * learning_rate_factor(step, schedule, steps_per_epoch, peak) for step in steps),
        temperature=tuple(heat for heat in heats if heat is not None) or None,
    )


def chart(values: Sequence[float], height: int = 5, blocks: str = BLOCKS) -> list[str]:
    """Bars from 0 to the largest value, one column a value, top line first.

    Args:
        values: at least 0.
        height: lines.
        blocks: characters from empty to full.

    Example:
        >>> print(*chart([0, 1, 2, 4], height=2, blocks=PLAIN), sep="|")
           #| =##
    """
    top, levels = max(values) or 1.0, len(blocks) - 1
    filled = [round(value / top * height * levels) for value in values]
    lines = []
    for line in reversed(range(height)):
        lines.append("".join(blocks[max(0, min(levels, full - line * levels))] for full in filled))
    return lines


def save_course(course: Course, title: str, path: Path, logarithmic: bool = False) -> Path:
    """Draw learning rate and temperature over epochs.

    Args:
        course: what to draw.
        title: above the picture.
        path: the PNG; its folder is made.
        logarithmic: learning rate on a logarithmic axis, for one that falls in steps.

    Raises:
        MissingExtraError: without matplotlib.
    """
    panels = {"learning rate": course.learning_rate, "temperature": course.temperature}
    shown = {name: values for name, values in panels.items() if values is not None}
    figure = new_figure(5 * len(shown), 3.2)
    figure.suptitle(title, fontsize=11)
    for axes, (name, values) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        axes.plot(course.epochs, values, drawstyle="steps-post")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("epoch")
        if logarithmic and name == "learning rate":
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    return save_figure(figure, path)
