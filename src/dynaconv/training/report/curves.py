"""Curves of a training run, from the figures that it left beside its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynaconv.training.runs.history import read_csv

METRICS_FILE = "metrics.csv"
PANELS: dict[str, dict[str, str]] = {
    "Loss": {"train_loss": "training", "val_loss": "validation"},
    "Accuracy": {"train_top1": "training", "val_top1": "validation", "val_top5": "validation, top 5"},
    "Temperature": {"tau": "temperature"},
    "Learning rate": {"lr": "learning rate"},
}
"""Titles, and columns with their names."""
SHARES = ("Accuracy",)
"""Panels of shares of 1."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Curves that are drawn together.

    Args:
        title: of the panel.
        share: whether values are shares of 1.
        series: values by name, one an epoch; None where there is none.
    """

    title: str
    share: bool
    series: Mapping[str, tuple[float | None, ...]]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """A run over its epochs.

    Args:
        epochs: their numbers.
        panels: those that there are values of.
        seconds: of training, without validation; None if not every epoch has them.
    """

    epochs: tuple[int, ...]
    panels: tuple[Panel, ...]
    seconds: float | None


def read_curves(folder: Path) -> tuple[Curves | None, str]:
    """Read a run's figures.

    Returns:
        The curves, or None and why there are none.
    """
    path = folder / METRICS_FILE
    try:
        rows = read_csv(path)
        found = curves_of(rows)
    except (OSError, ValueError, TypeError) as error:
        return None, f"{path} can not be read: {error}"
    if found is None:
        return (
            None,
            f"There is no {METRICS_FILE} beside the checkpoint: it was not saved by a training run, or was copied.",
        )
    return found, ""


def curves_of(rows: Sequence[Mapping[str, Any]]) -> Curves | None:
    """Curves from rows of :class:`dynaconv.training.runs.history.History`; None if there are none."""
    rows = [row for row in rows if _number(row.get("epoch")) is not None]
    if not rows:
        return None
    panels = []
    for title, columns in PANELS.items():
        series = {name: tuple(_number(row.get(column)) for row in rows) for column, name in columns.items()}
        known = {name: values for name, values in series.items() if any(value is not None for value in values)}
        if known:
            panels.append(Panel(title=title, share=title in SHARES, series=known))
    seconds = [_number(row.get("seconds")) for row in rows]
    total = None if None in seconds else sum(value for value in seconds if value is not None)
    return Curves(epochs=tuple(int(row["epoch"]) for row in rows), panels=tuple(panels), seconds=total)


def _number(value: Any) -> float | None:
    """A value that can be drawn."""
    return float(value) if value is not None and math.isfinite(value) else None
