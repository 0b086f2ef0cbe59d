"""The picture of an ablation: every variant's difference to the paper's choice, here and in the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynaconv.analysis.figures import new_figure, save_figure
from dynaconv.training.ablation.statistics import SEPARATED

COLUMNS = 2


def save_picture(values: Mapping[str, Any], path: Path) -> Path:
    """Draw a panel a table; bars are the intervals, diamonds the paper's differences that are known.

    Args:
        values: results of :func:`dynaconv.training.ablation.ablate.run_ablation`.
        path: the PNG, written in one move.

    Raises:
        MissingExtraError: without matplotlib.
    """
    tables = values["tables"]
    lines = math.ceil(len(tables) / COLUMNS)
    figure = new_figure(6.6 * min(COLUMNS, len(tables)), 0.6 + 2.1 * lines)
    panels = figure.subplots(lines, min(COLUMNS, len(tables)), squeeze=False).flatten()
    for axes, table in zip(panels, tables, strict=False):
        _draw(axes, table)
    for axes in panels[len(tables) :]:
        axes.set_axis_off()
    recipe = values["recipe"]
    figure.suptitle(
        f"points to the paper's choice. Circles: {recipe['data']}, {recipe['schedule']['epochs']} epochs, 95 % "
        "interval over the seeds, filled if separated. Diamonds: the paper's on ImageNet",
        fontsize=9,
    )
    return save_figure(figure, path)


def _draw(axes: Any, table: Mapping[str, Any]) -> None:
    rows = [row for row in table["rows"][1:] if row["difference"]]
    for place, row in enumerate(rows):
        difference, there = row["difference"], row["paper"]["difference"]
        mean = 100 * difference["mean"]
        bars = None
        if difference["low"] is not None:
            bars = [[mean - 100 * difference["low"]], [100 * difference["high"] - mean]]
        filled = difference["verdict"] == SEPARATED
        axes.errorbar(
            [mean], [place], xerr=bars, fmt="o", color="C0", capsize=3, markerfacecolor="C0" if filled else "white"
        )
        if there is not None:
            axes.plot([there], [place], marker="D", color="C1", markerfacecolor="white")
    axes.axvline(0, color="gray", linewidth=1, linestyle="--", zorder=0)
    axes.set_yticks(range(len(rows)), [row["setting"] for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.set_title(f"{table['title']}, {table['model']}", fontsize=9)
