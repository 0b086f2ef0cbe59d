"""Which cell every mixture starts from: the assignment beta (KernelWarehouse, section 3.3 and its ablations).

A row of beta is given as the tuple of its ones. Index n is the zero cell e_z, which holds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from dynaconv.errors import PlanError

Rows = tuple[tuple[int, ...], ...]


class OwnedCells(NamedTuple):
    """One layer's share of a warehouse: its rows of beta and the slice of cells that it initialises."""

    rows: Rows
    first: int
    size: int


def _one_to_one(index: int, num_cells: int, budget: float) -> tuple[int, ...]:
    return (index * int(budget),)


def _several(index: int, num_cells: int, budget: float) -> tuple[int, ...]:
    step = int(budget)
    return tuple(range(index * step, (index + 1) * step))


def _pairs(index: int, num_cells: int, budget: float) -> tuple[int, ...]:
    return (min(index // int(1 / budget), num_cells - 1),)


def _all(index: int, num_cells: int, budget: float) -> tuple[int, ...]:
    return tuple(range(num_cells))


def _nothing(index: int, num_cells: int, budget: float) -> tuple[int, ...]:
    return ()


def _order_of_preference(count: int, budget: float) -> list[int]:
    """For b < 1, a layer's mixtures in the order in which they get cells.

    When 1 / b is whole, first those of the paper's diagonal pattern, which reaches every in- and out-block; otherwise
    first those that are spread evenly.
    """
    ratio = int(1 / budget)
    if math.isclose(ratio * budget, 1.0):
        preferred = [i for i in range(count) if i % ratio == (i // ratio) % ratio]
    else:
        preferred = [i for i in range(count) if int((i + 1) * budget) > int(i * budget)]
    first = set(preferred)
    return preferred + [i for i in range(count) if i not in first]


def _sparse(mixtures: Sequence[int], num_cells: int, budget: float) -> list[OwnedCells]:
    """One-to-one for b < 1: every layer gets its share b * m of the cells, rounded so that all n are handed out."""
    owned, first, done = [], 0, 0
    for position, count in enumerate(mixtures):
        done += count
        end = num_cells if position == len(mixtures) - 1 else min(int(budget * done), num_cells)
        chosen = sorted(_order_of_preference(count, budget)[: end - first])
        cell_of = dict(zip(chosen, range(first, end), strict=False))
        rows = tuple((cell_of.get(i, num_cells),) for i in range(count))
        owned.append(OwnedCells(rows, first, len(chosen)))
        first += len(chosen)
    return owned


def assign(mixtures: Sequence[int], num_cells: int, budget: float, kind: str = "one-to-one") -> list[OwnedCells]:
    """Hand a warehouse's cells to the layers that share it, in their order.

    Args:
        mixtures: m of every layer.
        num_cells: n.
        budget: b.
        kind: ``"one-to-one"``: mixture k gets cell k * int(b); for b < 1 the diagonal pattern with the zero cell.
            ``"several"``: b cells each (b > 1). ``"pairs"``: 1 / b mixtures share a cell (b < 1). ``"all"``: every
            cell to every mixture. ``"none"``: nothing.

    Returns:
        One entry a layer.

    Raises:
        PlanError: if the kind does not fit the budget.

    Example:
        >>> [owned.rows for owned in assign([4, 2], num_cells=3, budget=0.5)]
        [((0,), (3,), (3,), (1,)), ((2,), (3,))]
    """
    if kind == "several" and budget < 2:
        raise PlanError(
            f"assignment='several' gives every mixture int(budget) cells; budget={budget:g}, expected 2 or more"
        )
    if kind == "pairs" and not 1 / budget >= 2:
        raise PlanError(
            f"assignment='pairs' shares a cell among 1/budget mixtures; budget={budget:g}, expected 1/2 or less"
        )
    if kind == "one-to-one" and budget < 1:
        return _sparse(mixtures, num_cells, budget)
    rule = {"one-to-one": _one_to_one, "several": _several, "pairs": _pairs, "all": _all, "none": _nothing}[kind]
    total, done, owned, first = sum(mixtures), 0, [], 0
    for count in mixtures:
        rows = tuple(rule(done + local, num_cells, budget) for local in range(count))
        done += count
        end = done * int(budget) if budget >= 1 else num_cells * done // total
        owned.append(OwnedCells(rows, first, end - first))
        first = end
    return owned
