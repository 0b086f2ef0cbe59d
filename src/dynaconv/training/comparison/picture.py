"""The picture of a comparison: accuracy against parameters, multiply-adds and measured time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynaconv.analysis.figures import new_figure, save_figure

PANELS = {
    "parameters": "parameters",
    "madds": "multiply-adds of one image",
    "step_seconds": "seconds per training step",
}
LOG_FROM = 3.0
"""Ratio of the largest to the smallest cost from which on its axis is logarithmic."""
MARK_PIXELS = 4
"""Half the width of a mark."""
NAME_PLACES = ((6, 4), (6, -10), (-6, 4), (-6, -10), (0, 12), (0, -18), (6, 18), (-6, 18), (6, -24), (-6, -24))
"""Where a name may stand, in points from its mark, the best first; left of it where the first number is negative."""


@dataclass(frozen=True)
class Point:
    """A contender in a panel.

    Args:
        label: of the contender.
        cost: on the x axis.
        top1: mean over the seeds, percent.
        lowest: of the seeds, percent.
        highest: of the seeds, percent.
        static: whether the network has no dynamic layers of a method.
    """

    label: str
    cost: float
    top1: float
    lowest: float
    highest: float
    static: bool


def points(values: Mapping[str, Any]) -> dict[str, list[Point]]:
    """What the panels show; a contender stands in each whose cost is known.

    Args:
        values: results of :func:`dynaconv.training.comparison.results.gather`.
    """
    panels: dict[str, list[Point]] = {panel: [] for panel in PANELS}
    for entry in values["contenders"]:
        if not entry["runs"]:
            continue
        top1, lowest, highest = (100 * entry[f"top1_{name}"] for name in ("mean", "lowest", "highest"))
        for panel in PANELS:
            cost = entry.get(panel)
            if cost is not None:
                cost = float(cost["median"] if isinstance(cost, Mapping) else cost)
                panels[panel].append(Point(entry["label"], cost, top1, lowest, highest, static=is_static(entry)))
    return panels


def is_static(entry: Mapping[str, Any]) -> bool:
    """Whether a contender is a backbone as it is, without a method and no preset."""
    from dynaconv.models import list_models

    return entry["method"] is None and entry["model"] not in list_models()


def save_picture(values: Mapping[str, Any], path: Path) -> Path:
    """Draw the panels; error bars reach from the lowest to the highest seed.

    Args:
        values: results of :func:`dynaconv.training.comparison.results.gather`.
        path: the PNG, written in one move.

    Raises:
        MissingExtraError: without matplotlib.
    """
    panels = points(values)
    first = values["contenders"][0]["label"]
    figure = new_figure(5.2 * len(PANELS), 4.6)
    every_axes = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (panel, title) in zip(every_axes, PANELS.items(), strict=True):
        _draw(axes, panels[panel], first)
        axes.set_xlabel(title)
    every_axes[0].set_ylabel("validation top-1 %, last epoch")
    recipe, seeds = values["recipe"], values["seeds"]
    figure.suptitle(
        f"{recipe['data']}, {recipe['schedule']['epochs']} epoch(s); mean and range of {len(seeds)} seed(s); "
        f"square: static network, dashed: {first}",
        fontsize=10,
    )
    figure.canvas.draw()  # names are placed where they do not cover each other, which takes their size in pixels
    for axes, panel in zip(every_axes, PANELS, strict=True):
        _name(axes, panels[panel], figure.canvas.get_renderer())
    return save_figure(figure, path)


def _draw(axes: Any, shown: list[Point], first: str) -> None:
    from matplotlib import ticker

    for index, point in enumerate(shown):
        bars = [[point.top1 - point.lowest], [point.highest - point.top1]]
        style = {"marker": "s", "color": "black"} if point.static else {"marker": "o", "color": f"C{index % 10}"}
        axes.errorbar([point.cost], [point.top1], yerr=bars, capsize=3, markersize=6, linestyle="none", **style)
        if point.label == first:
            axes.axhline(point.top1, linestyle="--", linewidth=1, color="gray", zorder=0)
    axes.grid(alpha=0.3)
    axes.margins(x=0.15, y=0.12)
    costs = [point.cost for point in shown]
    if costs and min(costs) > 0 and max(costs) >= LOG_FROM * min(costs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))


def _name(axes: Any, shown: list[Point], renderer: Any) -> None:
    """Write each name at the first place where it covers no other name and no mark."""
    marks = [axes.transData.transform((point.cost, point.top1)) for point in shown]
    taken: list[Any] = []
    for point in shown:
        for place in NAME_PLACES:
            side = "right" if place[0] < 0 else "left" if place[0] > 0 else "center"
            text = axes.annotate(
                point.label,
                (point.cost, point.top1),
                xytext=place,
                textcoords="offset points",
                ha=side,
                fontsize=8,
            )
            text.set_in_layout(False)
            box = text.get_window_extent(renderer)
            near = box.padded(MARK_PIXELS)
            free = not any(box.overlaps(other) for other in taken) and not any(near.contains(*mark) for mark in marks)
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            if (free and inside) or place == NAME_PLACES[-1]:
                taken.append(box)
                break
            text.remove()
