"""The picture of a benchmark: a panel a network, time as a ratio to the static network, and the limit as a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynaconv.analysis.figures import new_figure, save_figure
from dynaconv.benchmark.contenders import CONTENDERS, REFERENCE

COLUMNS = 2
WIDTH = 0.8
"""Share of a group's place that its bars take."""
COLOURS = {CONTENDERS[name].title: f"C{index}" for index, name in enumerate(n for n in CONTENDERS if n != REFERENCE)}
"""By title, in the order in which bars stand."""


@dataclass(frozen=True)
class Group:
    """The bars of one pass and batch.

    Args:
        label: on the axis.
        ratios: to the static network, by the contender's title, each with its quartiles.
        limit: the machine's, as a ratio; None if it is not known.
    """

    label: str
    ratios: dict[str, tuple[float, float, float]]
    limit: float | None


def groups(network: Mapping[str, Any]) -> list[Group]:
    """What a network's panel shows.

    Args:
        network: an entry of ``networks`` in a benchmark's JSON file.
    """
    found = []
    for timing in network["timings"]:
        ratios = {
            CONTENDERS[name].title: (entry["seconds_per_image"]["ratio"], *entry["ratio_quartiles"])
            for name, entry in timing["contenders"].items()
            if name != REFERENCE and entry["ratio_quartiles"] is not None
        }
        bound = timing["limit"]
        found.append(Group(f"{timing['pass']}\n{timing['batch']}", ratios, None if bound is None else bound["ratio"]))
    return found


def save_panels(
    values: Mapping[str, Any], panels: Mapping[str, list[Group]], colours: Mapping[str, str], path: Path
) -> Path:
    """Draw groups of bars, a panel a network.

    Args:
        values: content of a benchmark's JSON file, for what stands above.
        panels: by the network's name.
        colours: by title of a bar, in the order in which bars stand.
        path: the PNG, written in one move.

    Raises:
        MissingExtraError: without matplotlib.
    """
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(7.5 * columns, 3.2 * rows + 0.9)
    every_axes = figure.subplots(rows, columns, squeeze=False).flatten()
    drawn: dict[str, Any] = {}
    for axes, (name, shown) in zip(every_axes, panels.items(), strict=False):
        _draw(axes, shown, colours, drawn)
        axes.set_title(name, fontsize=10)
        axes.set_ylabel("time / static network's", fontsize=9)
    for axes in every_axes[len(panels) :]:
        axes.set_visible(False)
    hardware = values["environment"]["hardware"]
    where = f"{hardware['gpu'] or hardware['cpu']}, {hardware['threads']} thread(s)"
    size = values["settings"]["image_size"]
    figure.suptitle(f"{size} px, {where}; median and quartiles over rounds", fontsize=10)
    if drawn:
        figure.legend(list(drawn.values()), list(drawn), loc="outside lower center", ncols=len(drawn), fontsize=9)
    return save_figure(figure, path, dpi=100)


def _draw(axes: Any, shown: list[Group], colours: Mapping[str, str], drawn: dict[str, Any]) -> None:
    names = [name for name in colours if any(name in group.ratios for group in shown)]
    width = WIDTH / max(len(names), 1)
    for index, name in enumerate(names):
        places = [i for i, group in enumerate(shown) if name in group.ratios]
        ratios = [shown[i].ratios[name] for i in places]
        bars = [
            [max(middle - low, 0) for middle, low, _ in ratios],
            [max(high - middle, 0) for middle, _, high in ratios],
        ]
        drawn[name] = axes.bar(
            [i - WIDTH / 2 + (index + 0.5) * width for i in places],
            [middle for middle, _, _ in ratios],
            width,
            yerr=bars,
            color=colours[name],
            error_kw={"linewidth": 1},
        )
    limited = [(i, group.limit) for i, group in enumerate(shown) if group.limit is not None]
    if limited:
        left, right = ([i + side * WIDTH / 2 for i, _ in limited] for side in (-1, 1))
        drawn["limit"] = axes.hlines([limit for _, limit in limited], left, right, color="black", linewidth=2)
    drawn["static"] = axes.axhline(1, linestyle="--", linewidth=1, color="gray")
    axes.set_xticks(range(len(shown)), [group.label for group in shown], fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
