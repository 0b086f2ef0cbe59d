"""KernelWarehouse's plan as text: one row a layer, then the warehouses' totals and what to mind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dynaconv.planning.table import align, format_shape, total_lines

if TYPE_CHECKING:
    from dynaconv.planning.kernel_warehouse import KernelWarehousePlan, WarehouseLayerPlan

HEADER = ("layer", "warehouse", "kernel", "cell", "m", "n", "start", "kernel params", "branch params")


def _start(layer: WarehouseLayerPlan) -> str:
    """Where the layer's mixtures start: its own cells, and how many wait at the zero cell."""
    zeros = sum(row == (layer.num_cells,) for row in layer.rows)
    if not any(layer.rows):
        return "-"
    if layer.own_cells == 0:
        return "all zero"
    own = f"{layer.first_cell}..{layer.first_cell + layer.own_cells - 1}"
    return f"{own} +{zeros} zero" if zeros else own


def _heaviest(plan: KernelWarehousePlan) -> str:
    """The warehouse whose branches weigh most, and the layer that makes its cells small."""
    by_house: dict[str, int] = {}
    for layer in plan.layers:
        by_house[layer.warehouse] = by_house.get(layer.warehouse, 0) + layer.branch_parameters
    name = max(by_house, key=lambda key: by_house[key])
    house = plan.warehouse(name)
    members = [layer for layer in plan.layers if layer.warehouse == name]
    narrow = min(members, key=lambda layer: layer.spec.kernel_shape[0] * layer.spec.kernel_shape[1])
    cell = format_shape(house.cell_shape)
    return (
        f"most in '{name}' ({by_house[name]:,} against {house.parameters:,}, cells of {cell}; "
        f"its narrowest layer is '{narrow.name}', {format_shape(narrow.spec.kernel_shape)})"
    )


def warehouse_notes(plan: KernelWarehousePlan) -> list[str]:
    """What to mind about a plan: branches that outweigh kernels, a network that grows, layers that start empty."""
    notes = []
    helps = (
        "What helps: larger cells (cell_scale=1, or partition='channel'), narrower sharing (sharing='block' or "
        "'layer'), nonlocal_basis_ratio=1/16, or fewer layers (where=)"
    )
    if plan.branch_parameters > plan.cell_parameters:
        notes.append(
            f"the attention branches weigh more than the kernels' cells ({plan.branch_parameters:,} against "
            f"{plan.cell_parameters:,} parameters), {_heaviest(plan)}. {helps}"
        )
    elif plan.config.budget < 1 and plan.cell_parameters + plan.branch_parameters > 0.9 * plan.kernel_parameters:
        notes.append(
            f"the attention branches ({plan.branch_parameters:,} parameters) take back what the budget of "
            f"{plan.config.budget:g} saves, {_heaviest(plan)}. {helps}"
        )
    if plan.solution is not None and plan.solution.is_far and plan.solution.next_larger is not None:
        notes.append(
            f"{plan.parameters_after:,} parameters are the closest to {plan.solution.target:,} from below, the next "
            f"larger network has {plan.solution.next_larger:,}. A smaller cell_scale gives finer steps"
        )
    empty = [layer.name for layer in plan.layers if not layer.own_cells and any(layer.rows)]
    if empty:
        notes.append(
            f"layers that own no cell start as zero while temperature is 1 ({len(empty)}): {', '.join(empty[:4])}"
            f"{' ...' if len(empty) > 4 else ''}. A larger budget, a smaller cell_scale or wider sharing helps"
        )
    return notes


def warehouse_table(plan: KernelWarehousePlan) -> str:
    """Format a plan for reading in a terminal."""
    rows: list[tuple[str, ...]] = [HEADER]
    for layer in plan.layers:
        cell = plan.warehouse(layer.warehouse).cell_shape
        rows.append(
            (
                layer.name,
                layer.warehouse,
                format_shape(layer.spec.kernel_shape),
                format_shape(cell),
                str(layer.num_mixtures),
                str(layer.num_cells),
                _start(layer),
                f"{layer.spec.kernel_parameters:,}",
                f"{layer.branch_parameters:,}",
            )
        )
    lines = align(rows, left=4)
    lines.insert(1, "-" * max(map(len, lines)))
    totals: list[tuple[str, ...]] = [("warehouse", "layers", "m_t", "n", "b", "cell params")]
    for house in plan.warehouses:
        budget = f"{house.num_cells / house.num_mixtures:.3g}"
        sizes = (str(len(house.layers)), str(house.num_mixtures), str(house.num_cells), budget)
        totals.append((house.name, *sizes, f"{house.parameters:,}"))
    lines += ["", *align(totals, left=1), ""]
    asked = [] if plan.solution is None else [f"asked for:         {plan.solution}"]
    return "\n".join([*lines, *asked, *total_lines(plan, "cells")])
