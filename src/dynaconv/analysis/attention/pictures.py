"""Attention as pictures: the average of every mixture (or of whatever else a layer weighs), by class and by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dynaconv.analysis.attention.maps import MIXING, SCALING, AttentionMap, AttentionMaps
from dynaconv.analysis.figures import new_figure
from dynaconv.errors import DynaconvError

COLOURS = "RdBu_r"
"""Of weights of kernels: white where attention is zero, red above, blue below."""
SCALES = "viridis"
"""Of attention to channels, filters and positions, all of it between 0 and 1."""
LARGEST_INCHES = 14.0
TALLEST_INCHES = 400.0
"""Of pictures of many panels; matplotlib writes no more than 65,536 pixels."""
LABELS = 40
"""Layers of a picture that are named; of more, some are."""
NAMED = 8
"""Classes without images that are named; of more, the number is given."""
COLUMNS = {
    "cells": "cells",
    "kernel": "kernels",
    "channel": "input channels",
    "filter": "filters",
    "spatial": "positions of the kernel",
}


def sheets(maps: AttentionMaps) -> dict[str, list[AttentionMap]]:
    """Layers that are drawn on one picture: those of a warehouse, and those that mix as many whole kernels.

    Empty for ODConv with one kernel, which has :func:`scale_sheets` alone.
    """
    found: dict[str, list[AttentionMap]] = {}
    for name, layers in maps.groups().items():
        shared = layers[0].kind == "cells"
        found.setdefault(name if shared else f"{layers[0].mean.shape[1]} kernels", []).extend(layers)
    return found


def scale_sheets(maps: AttentionMaps) -> dict[str, list[AttentionMap]]:
    """Layers with attention to input channels, filters or positions of the kernel (ODConv), by kind."""
    found: dict[str, list[AttentionMap]] = {}
    for kind in SCALING:
        if layers := [one for one in maps.maps if one.kind == kind]:
            found[kind] = layers
    return found


def draw_sheet(maps: AttentionMaps, name: str) -> Any:
    """Average attention of every mixture that draws on a warehouse (KernelWarehouse, arXiv 2406.07879, figure 3).

    A row is a mixture, a column a cell. Lines part the layers; small squares mark the cells of the assignment, where
    attention may go beyond the scale: that is the one of all others. On the sheet of a kind of ODConv's a row is a
    layer, as wide as all others however many channels it has.

    Args:
        maps: of a network.
        name: one of :func:`sheets`, or of :func:`scale_sheets`.

    Returns:
        A matplotlib figure.

    Raises:
        DynaconvError: if there is no such sheet.
        MissingExtraError: without matplotlib.
    """
    layers = _sheet(maps, name)
    mean = _join([one.mean for one in layers])
    figure = new_figure(*_inches(mean.shape, layers))
    axes = figure.subplots()
    places = _places(layers)
    image = _matrix(axes, mean, *_shades(layers, [mean]))
    figure.colorbar(image, ax=axes, label="average attention", shrink=0.8, extend="both" if places else "neither")
    _part_layers(axes, layers)
    if places:
        rows, columns = torch.tensor(places).unbind(1)
        side = 72 * axes.get_position().width * figure.get_figwidth() / mean.shape[1]
        axes.scatter(
            columns.numpy(), rows.numpy(), s=max(0.5, min(0.4 * side, 6) ** 2), marker="s", linewidths=0.4,
            facecolors="none", edgecolors="black",
        )  # fmt: skip
    tau = "" if maps.temperature is None else f", temperature {maps.temperature:g}"
    images = max(one.images for one in maps.maps)
    figure.suptitle(f"{name}: {_contents(layers)}, {images:,} images{tau}", fontsize=9)
    return figure


def draw_classes(maps: AttentionMaps, name: str, classes: Sequence[str] | None = None) -> Any:
    """How the average attention of each class differs from that of all images, a panel a class.

    Args:
        maps: of a network.
        name: of the sheet.
        classes: of those whose averages were kept; all if None. Those without images are named below.

    Raises:
        DynaconvError: if there is no such sheet, no averages by class were kept, or there was no image of any.
    """
    layers = _sheet(maps, name)
    if not maps.classes or layers[0].by_class is None:
        raise DynaconvError("no averages by class were kept; collect with classes=")
    wanted = maps.classes if classes is None else classes
    empty = [title for title in wanted if title in maps.without_images]
    seen = [title for title in wanted if title not in empty]
    if not seen:
        raise DynaconvError(f"there was no image of the classes {', '.join(empty)}; expected some of at least one")
    places = [maps.classes.index(title) for title in seen]
    differences = [_join([one.by_class[p] - one.mean for one in layers if one.by_class is not None]) for p in places]
    columns = min(5, len(seen))
    rows = -(-len(seen) // columns)
    figure = new_figure(2.6 * columns + 1.0, min(2.4 * rows + 0.5, TALLEST_INCHES))
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    bound, image = max(float(one.abs().max()) for one in differences) or 1.0, None
    for axes, title, difference in zip(panels, seen, differences, strict=False):
        image = _matrix(axes, difference, -bound, bound)
        axes.set_title(title, fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        for edge in _edges(layers):
            axes.axhline(edge, color="0.4", linewidth=0.4)
    for axes in panels[len(seen) :]:
        axes.set_visible(False)
    figure.colorbar(image, ax=list(panels), label="class minus all", shrink=0.8)
    figure.suptitle(f"{name}: average attention of a class minus that of all images", fontsize=10)
    if empty:
        more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
        figure.supxlabel(f"no image of {', '.join(empty[:NAMED])}{more}", fontsize=8)
    return figure


def draw_images(
    images: Sequence[tuple[str, Tensor]],
    attention: Mapping[tuple[str, str], Tensor],
    maps: AttentionMaps,
    name: str,
) -> Any:
    """Attention to two images side by side, and its difference.

    Args:
        images: two, each with a title, shape ``(C, H, W)``, values from 0 to 1.
        attention: of :func:`~dynaconv.analysis.attention.collect.attention_to` both, in the same order.
        maps: says which layers are on the sheet.
        name: of the sheet.

    Raises:
        DynaconvError: if there are not two images, or no such sheet.
    """
    if len(images) != 2:
        raise DynaconvError(f"{len(images)} images; expected two")
    layers = _sheet(maps, name)
    first, second = (_join([attention[one.layer, one.kind][i].double().cpu() for one in layers]) for i in (0, 1))
    width, height = _inches(first.shape, layers)
    figure = new_figure(min(2.2 * width, 2 * LARGEST_INCHES), height + 1.8)
    pictures, panels = figure.subplots(2, 3, height_ratios=[1.6, height])
    for axes, (title, picture) in zip(pictures, images, strict=False):
        shown = picture.permute(1, 2, 0).clamp(0, 1).cpu()
        axes.imshow((shown[..., 0] if shown.shape[2] == 1 else shown).numpy(), cmap="gray")
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    pictures[2].axis("off")
    shades = _shades(layers, [first, second])
    apart = first - second
    bound = float(apart.abs().max()) or 1.0
    for axes, values, limits, title in (
        (panels[0], first, shades, "attention"),
        (panels[1], second, shades, "attention"),
        (panels[2], apart, (-bound, bound, COLOURS), "left minus right"),
    ):
        figure.colorbar(_matrix(axes, values, *limits), ax=axes, shrink=0.7, label=title)
        _part_layers(axes, layers, named=axes is panels[0])
    figure.suptitle(f"{name}: {_contents(layers)}", fontsize=10)
    return figure


def _sheet(maps: AttentionMaps, name: str) -> list[AttentionMap]:
    known = scale_sheets(maps) | sheets(maps)
    if name not in known:
        raise DynaconvError(f"there is no sheet {name!r}; expected one of {', '.join(known)}")
    return known[name]


def _join(values: Sequence[Tensor]) -> Tensor:
    """Matrices one below the other, those of fewer columns stretched to the width of the widest."""
    width = max(one.shape[1] for one in values)
    columns = torch.arange(width)
    return torch.cat([one[:, columns * one.shape[1] // width] for one in values])


def _places(layers: Sequence[AttentionMap]) -> list[tuple[int, int]]:
    """Row and column of the assignment's ones on a sheet."""
    places, top = [], 0
    for one in layers:
        places += [(top + i, j) for i, j in one.assigned]
        top += len(one.mean)
    return places


def _shades(layers: Sequence[AttentionMap], values: Sequence[Tensor]) -> tuple[float, float, str]:
    """Ends of the scale of matrices, and its colours.

    The scale of kernels' weights has zero in the middle, and ends with the largest value apart from the assignment's,
    which would leave the others no colour.
    """
    if layers[0].kind in MIXING:
        places = _places(layers)
        bound = max(_bound(one, places) for one in values)
        return -bound, bound, COLOURS
    return min(float(one.min()) for one in values), max(float(one.max()) for one in values), SCALES


def _bound(values: Tensor, places: Sequence[tuple[int, int]]) -> float:
    others = values.abs().clone()
    for row, column in places:
        others[row, column] = 0
    return float(others.max()) or float(values.abs().max()) or 1.0


def _inches(shape: Sequence[int], layers: Sequence[AttentionMap]) -> tuple[float, float]:
    """Width and height of a picture of a matrix, with room for the layers' names."""
    rows, columns = shape
    height = max(0.035 * rows, 0.13 * min(len(layers), LABELS))
    return min(LARGEST_INCHES, 4.5 + 0.045 * columns), min(LARGEST_INCHES, 2.2 + height)


def _matrix(axes: Any, values: Tensor, low: float, high: float, colours: str = COLOURS) -> Any:
    return axes.imshow(values.numpy(), aspect="auto", cmap=colours, vmin=low, vmax=high, interpolation="nearest")


def _edges(layers: Sequence[AttentionMap]) -> list[float]:
    """Rows between which layers change."""
    ends = torch.tensor([len(one.mean) for one in layers]).cumsum(0)[:-1]
    return [float(end) - 0.5 for end in ends]


def _part_layers(axes: Any, layers: Sequence[AttentionMap], named: bool = True) -> None:
    edges = _edges(layers)
    for edge in edges:
        axes.axhline(edge, color="0.3", linewidth=0.5)
    last = sum(len(one.mean) for one in layers) - 0.5
    middles = [(a + b) / 2 for a, b in zip([-0.5, *edges], [*edges, last], strict=True)]
    step = -(-len(layers) // LABELS)
    axes.set_yticks(middles[::step], [one.layer for one in layers][::step] if named else [], fontsize=7)
    axes.set_xlabel(COLUMNS[layers[0].kind] + (", first to last" if _stretched(layers) else ""), fontsize=8)
    if _stretched(layers):
        axes.set_xticks([])


def _stretched(layers: Sequence[AttentionMap]) -> bool:
    """Whether layers have different numbers of columns."""
    return len({one.mean.shape[1] for one in layers}) > 1


def _contents(layers: Sequence[AttentionMap]) -> str:
    kind, columns = layers[0].kind, layers[0].mean.shape[1]
    what = COLUMNS[kind]
    if kind == "cells":
        rows = sum(len(one.mean) for one in layers)
        return f"{rows} mixtures of {len(layers)} layers over {columns} {what}"
    return (
        f"{len(layers)} layers, each over its own {what}"
        if kind in SCALING
        else f"{len(layers)} layers over {columns} {what}"
    )
