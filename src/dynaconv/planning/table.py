"""A plan as text: one row a layer, then the warehouses' totals and what to mind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynaconv.planning.plan import LayerPlan, Plan

HEADER = ("layer", "warehouse", "kernel", "cell", "m", "n", "start", "kernel params", "branch params")


def _shape(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


def _start(layer: LayerPlan) -> str:
    """Where the layer's mixtures start: its own cells, and how many wait at the zero cell."""
    zeros = sum(row == (layer.num_cells,) for row in layer.rows)
    if not any(layer.rows):
        return "-"
    if layer.own_cells == 0:
        return "all zero"
    own = f"{layer.first_cell}..{layer.first_cell + layer.own_cells - 1}"
    return f"{own} +{zeros} zero" if zeros else own


def _lines(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _heaviest(plan: Plan) -> str:
    """The warehouse whose branches weigh most, and the layer that makes its cells small."""
    by_house: dict[str, int] = {}
    for layer in plan.layers:
        by_house[layer.warehouse] = by_house.get(layer.warehouse, 0) + layer.branch_parameters
    name = max(by_house, key=lambda key: by_house[key])
    house = plan.warehouse(name)
    members = [layer for layer in plan.layers if layer.warehouse == name]
    narrow = min(members, key=lambda layer: layer.spec.kernel_shape[0] * layer.spec.kernel_shape[1])
    return (
        f"most in '{name}' ({by_house[name]:,} against {house.parameters:,}, cells of {_shape(house.cell_shape)}; "
        f"its narrowest layer is '{narrow.name}', {_shape(narrow.spec.kernel_shape)})"
    )


def plan_notes(plan: Plan) -> list[str]:
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
    empty = [layer.name for layer in plan.layers if not layer.own_cells and any(layer.rows)]
    if empty:
        notes.append(
            f"layers that own no cell start as zero while temperature is 1 ({len(empty)}): {', '.join(empty[:4])}"
            f"{' ...' if len(empty) > 4 else ''}. A larger budget, a smaller cell_scale or wider sharing helps"
        )
    return notes


def plan_table(plan: Plan) -> str:
    """Format a plan for reading in a terminal."""
    rows: list[tuple[str, ...]] = [HEADER]
    for layer in plan.layers:
        cell = plan.warehouse(layer.warehouse).cell_shape
        rows.append(
            (
                layer.name,
                layer.warehouse,
                _shape(layer.spec.kernel_shape),
                _shape(cell),
                str(layer.num_mixtures),
                str(layer.num_cells),
                _start(layer),
                f"{layer.spec.kernel_parameters:,}",
                f"{layer.branch_parameters:,}",
            )
        )
    lines = _lines(rows, left=4)
    lines.insert(1, "-" * max(map(len, lines)))
    totals: list[tuple[str, ...]] = [("warehouse", "layers", "m_t", "n", "b", "cell params")]
    for house in plan.warehouses:
        budget = f"{house.num_cells / house.num_mixtures:.3g}"
        sizes = (str(len(house.layers)), str(house.num_mixtures), str(house.num_cells), budget)
        totals.append((house.name, *sizes, f"{house.parameters:,}"))
    lines += ["", *_lines(totals, left=1), ""]
    change = plan.parameters_after / plan.parameters_before - 1
    lines.append(f"parameters before: {plan.parameters_before:>13,}  (replaced kernels {plan.kernel_parameters:,})")
    lines.append(
        f"parameters after:  {plan.parameters_after:>13,}  ({change:+.1%}; cells {plan.cell_parameters:,}, "
        f"attention branches {plan.branch_parameters:,})"
    )
    if plan.left_static:
        shown = ", ".join(plan.left_static[:6]) + (" ..." if len(plan.left_static) > 6 else "")
        lines.append(f"left static:       {len(plan.left_static)} layers: {shown}")
    if plan.refused:
        reasons: dict[str, list[str]] = {}
        for name, reason in plan.refused:
            reasons.setdefault(reason, []).append(name)
        shown = "; ".join(
            f"{reason} ({names[0]}{f' and {len(names) - 1} more' if names[1:] else ''})"
            for reason, names in reasons.items()
        )
        lines.append(f"not convertible:   {len(plan.refused)} layers: {shown}")
    lines += [f"note: {note}" for note in plan.notes]
    return "\n".join(lines)
