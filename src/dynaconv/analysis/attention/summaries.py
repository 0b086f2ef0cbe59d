"""Pictures of figures about attention: how weights are distributed, what cells are used, what is left without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dynaconv.analysis.attention.maps import AttentionMap, AttentionMaps, cosine_of_cells
from dynaconv.analysis.attention.pictures import COLOURS, LARGEST_INCHES, TALLEST_INCHES
from dynaconv.analysis.figures import new_figure
from dynaconv.errors import DynaconvError

LABELS = 100
"""Rows of :func:`draw_weights` that are named; of more, some are."""


def draw_weights(maps: AttentionMaps) -> Any:
    """How weights are distributed in every layer, and how many are negative; a row a layer and kind of attention."""
    rows = maps.maps
    single = len({one.layer for one in rows}) == len(rows)
    names = [one.layer if single else f"{one.layer} {one.kind}" for one in rows]
    figure = new_figure(10.5, min(LARGEST_INCHES, 1.6 + 0.24 * len(rows)))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[2.2, 1])
    counts = torch.stack([one.histogram for one in rows])
    counts = (counts / counts.sum(1, keepdim=True)).clamp_min(1e-7).log10()
    reach = max(_reach(one) for one in rows)
    image = left.imshow(
        counts.numpy(), aspect="auto", extent=(-1, 1, len(rows) - 0.5, -0.5), cmap="viridis", interpolation="nearest"
    )
    left.axvline(0, color="white", linewidth=0.5)
    left.set_xlim(-reach, reach)
    left.set_xlabel("attention")
    step = -(-len(rows) // LABELS)
    left.set_yticks(range(0, len(rows), step), names[::step], fontsize=7)
    figure.colorbar(image, ax=left, label="share of weights, log10")
    right.barh(range(len(rows)), [-one.negative_share for one in rows], color="#2166ac", label="negative")
    right.barh(range(len(rows)), [1 - one.negative_share for one in rows], color="#b2182b", label="positive")
    right.axvline(0, color="black", linewidth=0.5)
    right.set_xlabel("share of weights that are not zero")
    right.set_xlim(-1, 1)
    right.legend(fontsize=7, loc="lower right")
    figure.suptitle("Attention weights of every layer", fontsize=10)
    return figure


def _reach(one: AttentionMap) -> float:
    """Absolute attention that all but a thousandth of the weights stay below; at least a tenth."""
    counts = (one.histogram + one.histogram.flip(0))[len(one.histogram) // 2 :]
    shares = counts.cumsum(0) / counts.sum().clamp_min(1)
    return max(0.1, (int((shares < 0.999).sum()) + 1) / len(counts))


def draw_usage(maps: AttentionMaps, names: Sequence[str] | None = None) -> Any:
    """How much the cells of every warehouse are used, most used first.

    Args:
        maps: of a network.
        names: of warehouses; all if None.

    Raises:
        DynaconvError: if there is no warehouse.
    """
    if names is None:
        names = [name for name, layers in maps.groups().items() if layers[0].kind == "cells"]
    if not names:
        raise DynaconvError("the network has no warehouse; expected one of KernelWarehouse")
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(4.2 * columns, min(2.6 * rows + 0.4, TALLEST_INCHES))
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, name in zip(panels, names, strict=False):
        usage = maps.usage(name)
        usage = (usage / usage.mean().clamp_min(1e-30)).sort(descending=True).values
        dead = len(maps.dead_cells(name))
        axes.fill_between(range(len(usage)), usage.numpy(), step="mid", color="#4393c3")
        axes.axhline(1, color="0.5", linewidth=0.6, linestyle="--")
        axes.set_title(f"{name}: {maps.effective_cells(name):.0f} of {len(usage)} in use, {dead} dead", fontsize=9)
        axes.set_xlabel("cells, most used first", fontsize=8)
        axes.set_ylabel("use / average", fontsize=8)
        axes.set_ylim(bottom=0)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    return figure


def draw_similarity(maps: AttentionMaps, cells: Mapping[str, Tensor]) -> Any:
    """Cosine between cells of a warehouse (left), and between its layers' use of them (right).

    Args:
        maps: of a network.
        cells: of each warehouse, shape ``(n, ...)``.
    """
    figure = new_figure(9.0, min(3.6 * len(cells) + 0.3, TALLEST_INCHES))
    panels = figure.subplots(len(cells), 2, squeeze=False)
    for (left, right), (name, values) in zip(panels, cells.items(), strict=True):
        similar = cosine_of_cells(values).cpu()
        away = (similar - torch.eye(len(similar))).abs()
        figure.colorbar(_cosines(left, similar), ax=left, shrink=0.8)
        left.set_title(f"{name}: cosine of cells, at most {float(away.max()):.2f} between two", fontsize=9)
        layers = maps.groups()[name]
        figure.colorbar(_cosines(right, maps.layer_similarity(name)), ax=right, shrink=0.8)
        right.set_yticks(range(len(layers)), [one.layer for one in layers], fontsize=7)
        right.set_title("layers: cosine of their use of cells", fontsize=9)
    return figure


def _cosines(axes: Any, values: Tensor) -> Any:
    return axes.imshow(values.numpy(), aspect="auto", cmap=COLOURS, vmin=-1, vmax=1, interpolation="nearest")


def draw_perturbations(found: Mapping[str, Mapping[str, float]]) -> Any:
    """Top-1 of a network whose attention is replaced, a group of bars a part of the network.

    Args:
        found: top-1, shares of 1, by part and way; that of the network as it is under ``"as it is"`` and ``""``. Parts
            may leave out ways.
    """
    parts = [part for part in found if part != "as it is"]
    ways = list(dict.fromkeys(way for part in parts for way in found[part]))
    figure = new_figure(min(LARGEST_INCHES, 3.4 + 0.9 * len(parts)), 3.8)
    axes = figure.subplots()
    width = 0.8 / len(ways)
    for number, way in enumerate(ways):
        had = [place for place, part in enumerate(parts) if way in found[part]]
        places = [place + (number - (len(ways) - 1) / 2) * width for place in had]
        axes.bar(places, [100 * found[parts[place]][way] for place in had], width, label=way)
    axes.axhline(100 * found["as it is"][""], color="black", linewidth=0.8, linestyle="--", label="as it is")
    axes.set_xticks(range(len(parts)), parts, fontsize=7, rotation=0 if len(parts) < 8 else 60)
    axes.set_ylabel("top-1, %")
    axes.set_ylim(0, 105)
    axes.legend(fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure
