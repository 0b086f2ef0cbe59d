"""Curves of one or several runs as a PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynaconv.analysis.figures import new_figure, save_figure

PANELS = {"train_loss": "training loss", "val_loss": "validation loss", "val_top1": "validation accuracy"}
"""Columns and titles of image classification."""


def save_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path, panels: Mapping[str, str] = PANELS
) -> Path:
    """Draw figures of runs over epochs.

    Args:
        runs: label -> rows of :class:`dynaconv.training.runs.history.History`.
        path: the PNG; its folder is made.
        panels: columns and their titles.

    Returns:
        The path.

    Raises:
        MissingExtraError: without matplotlib.
    """
    figure = new_figure(4.2 * len(panels), 3.4)
    for axes, (column, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for label, rows in runs.items():
            points = [(row["epoch"], row[column]) for row in rows if row.get(column) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=label)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(fontsize=8)
    return save_figure(figure, path)
