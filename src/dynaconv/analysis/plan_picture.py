"""A KernelWarehouse plan as a picture: warehouses, the kernels cut into mixtures, and the assignment (section 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from dynaconv.analysis.figures import new_figure
from dynaconv.errors import DynaconvError, require
from dynaconv.planning import KernelWarehousePlan, Plan, WarehouseLayerPlan, WarehousePlan
from dynaconv.planning.table import format_shape

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#997755", "#8899aa")
"""One a layer, again from the first where there are more: Paul Tol's bright ones, told apart with any colour vision."""

EMPTY = "#ffffff"
LINE = "#444444"
MOST_NUMBERS = 64
"""Cells of a warehouse up to which they are numbered."""


def draw_plan(plan: Plan, warehouses: Sequence[str] | None = None, title: str | None = None) -> Any:
    """Draw who shares what: a row for every warehouse.

    Left, its n cells in the colours of the layers that start from them; in the middle, every layer's kernel, cut into
    its mixtures, each with the cell that it starts from, white where that is the zero cell; right, the assignment beta,
    a row a mixture and a column a cell, the zero cell last.

    Args:
        plan: a KernelWarehouse plan, as ``dynaconv.plan`` gives it.
        warehouses: names of those to draw; all if None.
        title: above the picture.

    Returns:
        A matplotlib Figure: ``draw_plan(plan).savefig("plan.png")``.

    Raises:
        DynaconvError: if the plan is another method's, or has no warehouse of a name.
        MissingExtraError: without matplotlib.
    """
    if not isinstance(plan, KernelWarehousePlan):
        raise DynaconvError(
            f"the plan is one of {type(plan.config).__name__}; only KernelWarehouse's draw on warehouses"
        )
    houses = plan.warehouses if warehouses is None else [plan.warehouse(name) for name in warehouses]
    members = [[layer for layer in plan.layers if layer.warehouse == house.name] for house in houses]
    heights = [max(2.2, 0.5 + 1.5 * math.ceil(len(layers) / _columns(layers))) for layers in members]
    figure = new_figure(11, sum(heights) + (0.4 if title else 0))
    if title:
        figure.suptitle(title)
    rows = figure.subfigures(len(houses), 1, height_ratios=heights, squeeze=False)
    for row, house, layers in zip(rows[:, 0], houses, members, strict=True):
        row.suptitle(
            f"{house.name}: n = {house.num_cells} cells of {format_shape(house.cell_shape)} "
            f"for {house.num_mixtures} mixtures of {len(layers)} layer{'s' * (len(layers) > 1)}",
            fontsize=10,
            fontweight="bold",
        )
        cells, kernels, beta = row.subplots(1, 3, width_ratios=(3, 9, 5))
        colours = {layer.name: COLOURS[i % len(COLOURS)] for i, layer in enumerate(layers)}
        _draw_cells(cells, house, layers, colours)
        _draw_kernels(kernels, house, layers, colours)
        _draw_assignment(beta, house, layers, colours)
    return figure


def _columns(layers: Sequence[WarehouseLayerPlan]) -> int:
    """Kernels beside each other."""
    return min(len(layers), 6)


def _owners(house: WarehousePlan, layers: Sequence[WarehouseLayerPlan], colours: dict[str, str]) -> list[str]:
    """The colour of every cell; the last one is the zero cell's."""
    owned = [EMPTY] * (house.num_cells + 1)
    for layer in layers:
        owned[layer.first_cell : layer.first_cell + layer.own_cells] = [colours[layer.name]] * layer.own_cells
    return owned


def _squares(axes: Any, places: Sequence[tuple[float, float]], colours: Sequence[str], labels: Sequence[str]) -> None:
    """Unit squares with their lower left corners at the places."""
    patches = require("matplotlib.patches", "train")
    shapes = [patches.Rectangle(place, 1, 1) for place in places]
    collection = require("matplotlib.collections", "train").PatchCollection(
        shapes, facecolors=colours, edgecolors=LINE, linewidths=0.4
    )
    axes.add_collection(collection)
    for (x, y), label in zip(places, labels, strict=True):
        if label:
            axes.text(x + 0.5, y + 0.5, label, fontsize=5, ha="center", va="center")


def _label(cell: int, house: WarehousePlan) -> str:
    return str(cell) if cell < house.num_cells <= MOST_NUMBERS else ""


def _bare(axes: Any, title: str, width: float, height: float) -> None:
    axes.set_title(title, fontsize=8)
    axes.set_xlim(-0.3, width + 0.3)
    axes.set_ylim(height + 0.3, -0.3)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _draw_cells(axes: Any, house: WarehousePlan, layers: Sequence[WarehouseLayerPlan], colours: dict[str, str]) -> None:
    across = max(4, math.ceil(math.sqrt(house.num_cells)))
    places = [(float(i % across), float(i // across)) for i in range(house.num_cells)]
    labels = [_label(i, house) for i in range(house.num_cells)]
    _squares(axes, places, _owners(house, layers, colours)[:-1], labels)
    _bare(axes, "warehouse: its cells", across, places[-1][1] + 1)


def _tiles(layer: WarehouseLayerPlan) -> Iterator[tuple[float, float]]:
    """Where a layer's mixtures lie in its kernel: positions as panels, out-blocks downward, in-blocks to the right."""
    grid, sizes = layer.grid, layer.spec.kernel_size
    across = math.prod(sizes[1:]) if grid.spatial > 1 and sizes else 1
    for position in range(grid.spatial):
        left = position % across * (grid.in_blocks + 0.25)
        top = position // across * (grid.out_blocks + 0.25)
        for out_block in range(grid.out_blocks):
            for in_block in range(grid.in_blocks):
                yield left + in_block, top + out_block


def _draw_kernels(
    axes: Any, house: WarehousePlan, layers: Sequence[WarehouseLayerPlan], colours: dict[str, str]
) -> None:
    owned = _owners(house, layers, colours)
    tiles = [list(_tiles(layer)) for layer in layers]
    columns = _columns(layers)
    heights = [
        max(max(y for _, y in places) for places in tiles[start : start + columns]) + 1
        for start in range(0, len(layers), columns)
    ]
    name_room = 0.25 * max(heights)
    height = sum(heights) + len(heights) * name_room
    widest = max(max(x for x, _ in places) for places in tiles) + 1
    wide = max(
        1.1 * widest, 4 * height / len(heights) / columns
    )  # as wide as the names, which have a size of their own
    for index, (layer, places) in enumerate(zip(layers, tiles, strict=True)):
        row = index // columns
        left, top = index % columns * wide, sum(heights[:row]) + (row + 1) * name_room
        cells = [cells[0] if len(cells) == 1 else None for cells in layer.rows]
        shown = [EMPTY if cell is None else owned[cell] for cell in cells]
        labels = ["" if cell is None else _label(cell, house) for cell in cells]
        _squares(axes, [(left + x, top + y) for x, y in places], shown, labels)
        text = f"{layer.name}\n{format_shape(layer.spec.kernel_shape)}"
        axes.text(left, top - 0.12, text, fontsize=6, va="bottom")
    _bare(axes, "kernels: every mixture, and its cell", columns * wide, height)


def _draw_assignment(
    axes: Any, house: WarehousePlan, layers: Sequence[WarehouseLayerPlan], colours: dict[str, str]
) -> None:
    first = 0
    for layer in layers:
        ones = [(cell, first + i) for i, cells in enumerate(layer.rows) for cell in cells]
        colour = colours[layer.name]
        axes.axhspan(first - 0.5, first + layer.num_mixtures - 0.5, color=colour, alpha=0.15, linewidth=0)
        if ones:
            axes.scatter(*zip(*ones, strict=True), s=5, marker="s", color=colour, linewidths=0)
        first += layer.num_mixtures
    axes.axvline(house.num_cells - 0.5, color=LINE, linewidth=0.6)
    axes.set_xlim(-0.5, house.num_cells + 0.5)
    axes.set_ylim(first - 0.5, -0.5)
    axes.set_title("assignment: where attention is 1 at the start", fontsize=8)
    axes.set_xlabel("cell, and right of the line the zero cell", fontsize=7)
    axes.set_ylabel("mixture", fontsize=7)
    axes.tick_params(labelsize=6)
