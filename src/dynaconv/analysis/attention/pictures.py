"""Attention as pictures: the average of every mixture, by class and by image, and what cells are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dynaconv.analysis.attention.maps import AttentionMap, AttentionMaps, cosine_of_cells
from dynaconv.analysis.figures import new_figure
from dynaconv.errors import DynaconvError

COLOURS = "RdBu_r"
"""White where attention is zero, red above, blue below."""
LARGEST_INCHES = 14.0
LABELS = 40
"""Layers of a picture that are named; of more, some are."""


def draw_sheet(maps: AttentionMaps, name: str) -> Any:
    """Average attention of every mixture that draws on a warehouse (KernelWarehouse, arXiv 2406.07879, figure 3).

    A row is a mixture, a column a cell. Lines part the layers; small squares mark the cells of the assignment, where
    attention may go beyond the scale: that is the one of all others.

    Args:
        maps: of a network.
        name: one of :func:`sheets`.

    Returns:
        A matplotlib figure.

    Raises:
        DynaconvError: if there is no such sheet.
        MissingExtraError: without matplotlib.
    """
    layers = _sheet(maps, name)
    mean = torch.cat([one.mean for one in layers])
    figure = new_figure(*_inches(mean.shape))
    axes = figure.subplots()
    places = _places(layers)
    image = _matrix(axes, mean, _bound(mean, places))
    figure.colorbar(image, ax=axes, label="average attention", shrink=0.8, extend="both" if places else "neither")
    _part_layers(axes, layers)
    if places:
        rows, columns = torch.tensor(places).unbind(1)
        side = 72 * axes.get_position().width * figure.get_figwidth() / mean.shape[1]
        axes.scatter(
            columns.numpy(), rows.numpy(), s=max(0.5, min(0.4 * side, 6) ** 2), marker="s", linewidths=0.4,
            facecolors="none", edgecolors="black",
        )  # fmt: skip
    _title(figure, maps, f"{name}: {_mixtures(layers)} over {mean.shape[1]} {_columns(layers)}")
    return figure


def draw_classes(maps: AttentionMaps, name: str) -> Any:
    """How the average attention of each class differs from that of all images, a panel a class.

    Raises:
        DynaconvError: if there is no such sheet, or no averages by class were kept.
    """
    layers = _sheet(maps, name)
    if not maps.classes or layers[0].by_class is None:
        raise DynaconvError("no averages by class were kept; collect with classes=")
    differences = torch.cat([one.by_class - one.mean for one in layers if one.by_class is not None], dim=1)
    columns = min(5, len(maps.classes))
    rows = -(-len(maps.classes) // columns)
    figure = new_figure(2.6 * columns + 1.0, 2.4 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    bound, image = float(differences.abs().max()) or 1.0, None
    for axes, title, difference in zip(panels, maps.classes, differences, strict=False):
        image = _matrix(axes, difference, bound)
        axes.set_title(title, fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
        for edge in _edges(layers):
            axes.axhline(edge, color="0.4", linewidth=0.4)
    for axes in panels[len(maps.classes) :]:
        axes.set_visible(False)
    figure.colorbar(image, ax=list(panels), label="class minus all", shrink=0.8)
    figure.suptitle(f"{name}: average attention of a class minus that of all images", fontsize=10)
    return figure


def draw_images(
    images: Mapping[str, Tensor], attention: Mapping[tuple[str, str], Tensor], maps: AttentionMaps, name: str
) -> Any:
    """Attention to two images side by side, and its difference.

    Args:
        images: two, by name, shape ``(C, H, W)``, values from 0 to 1.
        attention: of :func:`~dynaconv.analysis.attention.collect.attention_to` both, in the same order.
        maps: says which layers are on the sheet.
        name: of the sheet.

    Raises:
        DynaconvError: if there are not two images, or no such sheet.
    """
    if len(images) != 2:
        raise DynaconvError(f"{len(images)} images; expected two")
    layers = _sheet(maps, name)
    both = torch.cat([attention[one.layer, one.kind].double().cpu() for one in layers], dim=1)
    first, second = both
    width, height = _inches(first.shape)
    figure = new_figure(min(2.2 * width, 2 * LARGEST_INCHES), height + 1.8)
    pictures, sheets = figure.subplots(2, 3, height_ratios=[1.6, height])
    for axes, (title, picture) in zip(pictures, images.items(), strict=False):
        shown = picture.permute(1, 2, 0).clamp(0, 1).cpu()
        axes.imshow((shown[..., 0] if shown.shape[2] == 1 else shown).numpy(), cmap="gray")
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    pictures[2].axis("off")
    bound = max(_bound(one, _places(layers)) for one in both)
    apart = first - second
    for axes, values, limit, title in (
        (sheets[0], first, bound, "attention"),
        (sheets[1], second, bound, "attention"),
        (sheets[2], apart, float(apart.abs().max()) or 1.0, "left minus right"),
    ):
        figure.colorbar(_matrix(axes, values, limit), ax=axes, shrink=0.7, label=title)
        _part_layers(axes, layers, named=axes is sheets[0])
    figure.suptitle(f"{name}: {_mixtures(layers)} over {first.shape[1]} {_columns(layers)}", fontsize=10)
    return figure


def draw_weights(maps: AttentionMaps) -> Any:
    """How weights are distributed in every layer, and how many are negative."""
    layers = [one for sheet in sheets(maps).values() for one in sheet]
    figure = new_figure(10.5, min(LARGEST_INCHES, 1.6 + 0.24 * len(layers)))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[2.2, 1])
    counts = torch.stack([one.histogram for one in layers])
    counts = (counts / counts.sum(1, keepdim=True)).clamp_min(1e-7).log10()
    reach = max(_reach(one) for one in layers)
    image = left.imshow(
        counts.numpy(), aspect="auto", extent=(-1, 1, len(layers) - 0.5, -0.5), cmap="viridis", interpolation="nearest"
    )
    left.axvline(0, color="white", linewidth=0.5)
    left.set_xlim(-reach, reach)
    left.set_xlabel("attention")
    left.set_yticks(range(len(layers)), [one.layer for one in layers], fontsize=7)
    figure.colorbar(image, ax=left, label="share of weights, log10")
    right.barh(range(len(layers)), [-one.negative_share for one in layers], color="#2166ac", label="negative")
    right.barh(range(len(layers)), [1 - one.negative_share for one in layers], color="#b2182b", label="positive")
    right.axvline(0, color="black", linewidth=0.5)
    right.set_xlabel("share of weights that are not zero")
    right.set_xlim(-1, 1)
    right.legend(fontsize=7, loc="lower right")
    figure.suptitle("Attention weights of every layer", fontsize=10)
    return figure


def draw_usage(maps: AttentionMaps) -> Any:
    """How much the cells of every warehouse are used, most used first."""
    names = [name for name, layers in maps.groups().items() if layers[0].kind == "cells"]
    if not names:
        raise DynaconvError("the network has no warehouse; expected one of KernelWarehouse")
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(4.2 * columns, 2.6 * rows + 0.4)
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
    figure = new_figure(9.0, 3.6 * len(cells) + 0.3)
    panels = figure.subplots(len(cells), 2, squeeze=False)
    for (left, right), (name, values) in zip(panels, cells.items(), strict=True):
        similar = cosine_of_cells(values).cpu()
        away = (similar - torch.eye(len(similar))).abs()
        figure.colorbar(_matrix(left, similar, 1.0), ax=left, shrink=0.8)
        left.set_title(f"{name}: cosine of cells, at most {float(away.max()):.2f} between two", fontsize=9)
        layers = maps.groups()[name]
        figure.colorbar(_matrix(right, maps.layer_similarity(name), 1.0), ax=right, shrink=0.8)
        right.set_yticks(range(len(layers)), [one.layer for one in layers], fontsize=7)
        right.set_title("layers: cosine of their use of cells", fontsize=9)
    return figure


def draw_perturbations(found: Mapping[str, Mapping[str, float]]) -> Any:
    """Top-1 of a network whose attention is replaced, a group of bars a part of the network.

    Args:
        found: top-1, shares of 1, by part and way; that of the network as it is under ``"as it is"`` and ``""``.
    """
    parts = [part for part in found if part != "as it is"]
    ways = list(found[parts[0]])
    figure = new_figure(min(LARGEST_INCHES, 3.4 + 0.9 * len(parts)), 3.8)
    axes = figure.subplots()
    width = 0.8 / len(ways)
    for number, way in enumerate(ways):
        places = [place + (number - (len(ways) - 1) / 2) * width for place in range(len(parts))]
        axes.bar(places, [100 * found[part][way] for part in parts], width, label=way)
    axes.axhline(100 * found["as it is"][""], color="black", linewidth=0.8, linestyle="--", label="as it is")
    axes.set_xticks(range(len(parts)), parts, fontsize=7, rotation=0 if len(parts) < 8 else 60)
    axes.set_ylabel("top-1, %")
    axes.set_ylim(0, 105)
    axes.legend(fontsize=7, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def sheets(maps: AttentionMaps) -> dict[str, list[AttentionMap]]:
    """Layers that are drawn on one picture: those of a warehouse, and those that mix as many whole kernels."""
    found: dict[str, list[AttentionMap]] = {}
    for name, layers in maps.groups().items():
        shared = layers[0].kind == "cells"
        found.setdefault(name if shared else f"{layers[0].mean.shape[1]} kernels", []).extend(layers)
    return found


def _sheet(maps: AttentionMaps, name: str) -> list[AttentionMap]:
    known = sheets(maps)
    if name not in known:
        raise DynaconvError(f"there is no sheet {name!r}; expected one of {', '.join(known)}")
    return known[name]


def _places(layers: Sequence[AttentionMap]) -> list[tuple[int, int]]:
    """Row and column of the assignment's ones on a sheet."""
    places, top = [], 0
    for one in layers:
        places += [(top + i, j) for i, j in one.assigned]
        top += len(one.mean)
    return places


def _bound(values: Tensor, places: Sequence[tuple[int, int]]) -> float:
    """The end of the scale: the largest value apart from the assignment's, which would leave the others no colour."""
    others = values.abs().clone()
    for row, column in places:
        others[row, column] = 0
    return float(others.max()) or float(values.abs().max()) or 1.0


def _inches(shape: Sequence[int]) -> tuple[float, float]:
    """Width and height of a picture of a matrix."""
    rows, columns = shape
    return min(LARGEST_INCHES, 4.5 + 0.045 * columns), min(LARGEST_INCHES, 2.2 + 0.035 * rows)


def _matrix(axes: Any, values: Tensor, bound: float) -> Any:
    return axes.imshow(values.numpy(), aspect="auto", cmap=COLOURS, vmin=-bound, vmax=bound, interpolation="nearest")


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
    axes.set_xlabel(_columns(layers), fontsize=8)


def _columns(layers: Sequence[AttentionMap]) -> str:
    return "cells" if layers[0].kind == "cells" else "kernels"


def _mixtures(layers: Sequence[AttentionMap]) -> str:
    rows = sum(len(one.mean) for one in layers)
    return f"{rows} mixtures of {len(layers)} layers" if layers[0].kind == "cells" else f"{len(layers)} layers"


def _title(figure: Any, maps: AttentionMaps, text: str) -> None:
    tau = "" if maps.temperature is None else f", temperature {maps.temperature:g}"
    images = max(one.images for one in maps.maps)
    figure.suptitle(f"{text}, {images:,} images{tau}", fontsize=9)


def _reach(one: AttentionMap) -> float:
    """Absolute attention that all but a thousandth of the weights stay below; at least a tenth."""
    counts = (one.histogram + one.histogram.flip(0))[len(one.histogram) // 2 :]
    shares = counts.cumsum(0) / counts.sum().clamp_min(1)
    return max(0.1, (int((shares < 0.999).sum()) + 1) / len(counts))
