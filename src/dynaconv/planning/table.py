"""A plan as text: one row a layer, then the totals and what to mind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynaconv.planning.plan import Plan

HEADER = ("layer", "kernel", "branch of", "kernel params before", "after", "branch params")


def format_shape(sizes: Sequence[int]) -> str:
    """Sizes as people write them: 64x64x3x3."""
    return "x".join(map(str, sizes))


def align(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Rows as lines of aligned columns, the first ``left`` of them flush left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def total_lines(plan: Plan, weights: str) -> list[str]:
    """The lines below a plan's table: parameters before and after, what stays static, what can not be converted.

    Args:
        plan: any plan.
        weights: what the kernels are made of, such as "cells".
    """
    change = plan.parameters_after / plan.parameters_before - 1
    lines = [
        f"parameters before: {plan.parameters_before:>13,}  (kernels of these layers {plan.kernel_parameters:,})",
        f"parameters after:  {plan.parameters_after:>13,}  ({change:+.1%}; {weights} {plan.weight_parameters:,}, "
        f"attention branches {plan.branch_parameters:,})",
    ]
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
    return lines + [f"note: {note}" for note in plan.notes]


def plan_table(plan: Plan) -> str:
    """Format a plan for reading in a terminal."""
    rows: list[tuple[str, ...]] = [HEADER]
    for layer in plan.layers:
        rows.append(
            (
                layer.name,
                format_shape(layer.spec.kernel_shape),
                layer.branch_of or "its own",
                f"{layer.spec.kernel_parameters:,}",
                f"{layer.weight_parameters:,}",
                f"{layer.branch_parameters:,}",
            )
        )
    shared = any(layer.branch_of for layer in plan.layers)
    if not shared:
        rows = [(*row[:2], *row[3:]) for row in rows]
    lines = align(rows, left=3 if shared else 2)
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join([*lines, "", *total_lines(plan, "kernels")])
