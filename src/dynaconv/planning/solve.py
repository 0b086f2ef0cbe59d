"""From the parameters that a network may have to the budget and cells that come closest from below.

KernelWarehouse's parameters are cells, n = b m_t of them, and attention branches, m (n + 1) logits a layer. For one
size of cells both grow with b, so the largest b that fits is looked for. Between sizes of cells the paper decides:
cells of the whole divisor where b >= 1 fits, else cells of half of it, which give a small warehouse more cells to
choose from, at sixteen times the logits. Where branches would then hold more than half as many parameters as the cells,
what they take comes out of the kernels, and cells stay whole: the rule of ``cell_scale=None`` for a budget, asked at
the size that is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from dynaconv.config import MAX_BUDGET, KernelWarehouseConfig, parse_params
from dynaconv.errors import PlanError
from dynaconv.planning.sharing import group_layers
from dynaconv.planning.sizes import WarehouseSizes, count, size_warehouses, spends_on_cells
from dynaconv.planning.spec import LayerSpec

STEPS_PER_OCTAVE = 8  # of the scan over budgets
PRECISION = 1e-9  # to which the largest budget is found, relative
FAR = 0.02  # a solution this share below the request is worth a note

# What may bring a request within reach, in the order in which it is offered.
REMEDIES: tuple[tuple[str, Any], ...] = (
    ("cell_scale", 1.0),
    ("cell_scale", 0.5),
    ("nonlocal_basis_ratio", 1 / 16),
    ("sharing", "block"),
    ("sharing", "layer"),
    ("min_hidden", 4),
)


@dataclass(frozen=True, kw_only=True)
class Solution:
    """How a request for parameters was met.

    Args:
        config: the budget and cells that were found, without the request.
        asked: the request as it was made: a number, a share, or a text such as "4M".
        target: parameters that the network may have at most.
        parameters: those that it has.
        next_larger: those of the next larger network, None if there is none.
    """

    config: KernelWarehouseConfig
    asked: int | float | str
    target: int
    parameters: int
    next_larger: int | None

    def __str__(self) -> str:
        """The request, the budget and the cells, in one line."""
        larger = "" if self.next_larger is None else f"; one step larger: {self.next_larger:,}"
        found = f"b = {self.config.budget:g}, cells of {_cells_text(self.config)}"
        return f"{request_text(self.asked, self.target)}: {found}{larger}"

    @property
    def is_far(self) -> bool:
        """Whether more than 2 % of what was asked for is left over."""
        return self.parameters < (1 - FAR) * self.target


def request_text(asked: int | float | str, target: int) -> str:
    """A request in words; a share also as the number that it comes to."""
    return f"params={asked!r}" + (f" ({target:,})" if isinstance(parse_params(asked), float) else "")


def _cells_text(config: KernelWarehouseConfig) -> str:
    scales = config.cell_scales
    if scales is None:
        return "half the channels' divisor where it is even"
    sizes = [{1.0: "the whole", 0.5: "half the"}.get(scale, f"{scale:g} of the") for scale in scales]
    if sizes[0] == sizes[1]:
        return f"{sizes[0]} channels' divisor"
    return f"{sizes[0]} out-channels' divisor, {sizes[1]} in-channels'"


class _Sizes:
    """Parameters of a network as a function of b, for cells of one size; each counted once."""

    def __init__(
        self, selected: Sequence[LayerSpec], trunk: Sequence[LayerSpec], config: KernelWarehouseConfig, other: int
    ) -> None:
        self.groups: Mapping[str, Sequence[LayerSpec]] = group_layers(selected, trunk, config)
        self.config, self.other = config, other
        self._known: dict[float, tuple[int, int]] = {}

    def warehouses(self, budget: float) -> list[WarehouseSizes]:
        return size_warehouses(self.groups, replace(self.config, budget=budget))

    def counts(self, budget: float) -> tuple[int, int]:
        """Parameters of cells, and of branches."""
        if budget not in self._known:
            self._known[budget] = count(self.warehouses(budget))
        return self._known[budget]

    def total(self, budget: float) -> int:
        """Parameters of the whole network."""
        return self.other + sum(self.counts(budget))

    def least_budget(self) -> float:
        """Where every warehouse has one cell, or as low as the assignment allows."""
        if self.config.sharing == "none":
            return 1.0
        # at 1/2, where cells that the config leaves to the budget are the smaller ones
        mixtures = max(sum(layer.grid.num_mixtures for layer in w.layers) for w in self.warehouses(0.5))
        return 2.0 if self.config.assignment == "several" else 1 / (2 * mixtures)

    def budgets(self, below: float = math.inf) -> list[float]:
        """Budgets to look at, falling."""
        high = min(0.5 if self.config.assignment == "pairs" else MAX_BUDGET, below)
        low = self.least_budget()
        if self.config.sharing == "none":  # every mixture has b cells of its own
            return [float(b) for b in range(MAX_BUDGET, 0, -1) if b <= high]
        if low > high:
            return []
        steps = math.ceil(STEPS_PER_OCTAVE * math.log2(high / low))
        return [*(high * 2 ** (-step / STEPS_PER_OCTAVE) for step in range(steps)), low]

    def smallest(self) -> float:
        """The budget of the smallest network; at the least one narrow layers may want cells of their own."""
        return min(self.budgets(below=1.0) or self.budgets(), key=self.total)


class _Found(NamedTuple):
    budget: float
    next_larger: int | None


def _largest(sizes: _Sizes, target: int, below: float = math.inf) -> _Found | None:
    """The largest budget whose network fits, and the size of the next larger network; None if none fits."""
    grid = sizes.budgets(below)
    index = next((i for i, budget in enumerate(grid) if sizes.total(budget) <= target), None)
    if index is None:
        return None
    fits, over = grid[index], grid[max(index - 1, 0)]
    while sizes.config.sharing != "none" and over - fits > PRECISION * over:
        middle = (fits + over) / 2
        fits, over = (middle, over) if sizes.total(middle) <= target else (fits, middle)
    return _Found(_shortest(sizes, fits), sizes.total(over) if index else None)


def _shortest(sizes: _Sizes, budget: float) -> float:
    """The number of fewest digits that makes warehouses of the same sizes."""
    least = sizes.least_budget()
    for digits in range(12):
        short = math.floor(budget * 10**digits) / 10**digits
        if short >= least and sizes.counts(short) == sizes.counts(budget):
            return short
    return budget


def _pinned(sizes: _Sizes, budget: float) -> KernelWarehouseConfig:
    """The config of halved cells: their scale as a number, unless some divisor is odd, which stays whole."""
    config = replace(sizes.config, budget=budget)
    try:
        plain = replace(config, cell_scale=0.5)
        same = [(w.name, w.cell_shape) for w in size_warehouses(sizes.groups, plain)]
    except PlanError:
        return config
    return plain if same == [(w.name, w.cell_shape) for w in sizes.warehouses(budget)] else config


def solve(
    selected: Sequence[LayerSpec], trunk: Sequence[LayerSpec], config: KernelWarehouseConfig, other_parameters: int
) -> Solution:
    """Find the budget, and the cells where the config leaves them open, for a number of parameters.

    Args:
        selected: the layers to convert.
        trunk: all layers from which stages are read.
        config: with ``params``.
        other_parameters: of the network outside the selected kernels; they count, too.

    Raises:
        PlanError: if no budget meets the request; it says what can be reached, and what would help.
    """
    assert config.params is not None
    asked, before = parse_params(config.params), other_parameters + sum(s.kernel_parameters for s in selected)
    target = asked if isinstance(asked, int) else int(asked * before)

    def sizes_of(**changes: Any) -> _Sizes:
        return _Sizes(selected, trunk, replace(config, params=None, **changes), other_parameters)

    sizes = sizes_of(cell_scale=1.0 if config.cell_scale is None else config.cell_scale)
    found = _largest(sizes, target)
    solved = None if found is None else replace(sizes.config, budget=found.budget)
    if config.cell_scale is None and (found is None or found.budget < 1):
        halves = sizes_of()
        other = _largest(halves, target, below=math.nextafter(1, 0))
        if other is not None and spends_on_cells(halves.warehouses(other.budget)):
            larger = other.next_larger or (found and found.next_larger)  # beyond the last budget below 1
            sizes, found, solved = halves, _Found(other.budget, larger), _pinned(halves, other.budget)
    if found is None or solved is None:
        raise PlanError(_too_small(config, target, sizes, sizes_of))
    top = sizes.budgets()[0]
    if found.next_larger is None and target > sizes.total(top):
        raise PlanError(
            f"{request_text(config.params, target)} is more than these layers can hold: {_extent(sizes, top)} is the "
            "largest. Ask for less, or convert more layers (where=)"
        )
    return Solution(
        config=solved,
        asked=config.params,
        target=target,
        parameters=sizes.total(found.budget),
        next_larger=found.next_larger,
    )


def _extent(sizes: _Sizes, budget: float) -> str:
    cells, branches = sizes.counts(budget)
    return (
        f"{sizes.total(budget):,} parameters (b = {budget:.3g}: cells {cells:,}, attention branches {branches:,}, "
        f"all else {sizes.other:,})"
    )


def _too_small(config: KernelWarehouseConfig, target: int, sizes: _Sizes, sizes_of: Callable[..., _Sizes]) -> str:
    """What the smallest network is, and which changes would bring the request within reach."""
    assert config.params is not None
    hints = []
    for name, value in REMEDIES:
        if name == "sharing" and not isinstance(config.sharing, str):
            continue  # the user's own grouping
        try:
            changed = sizes_of(**{"cell_scale": config.cell_scale or 1.0, name: value})
            least = changed.total(changed.smallest())
        except PlanError:
            continue
        if least <= target:
            hints.append(f"{name}={value!r} (from {least:,})")
    helps = f"What helps: {', '.join(hints)}" if hints else "Ask for more, or convert more layers (where=)"
    share = f"; a share of the network has a point and is at most {MAX_BUDGET}.0" if target < 1000 else ""
    return (
        f"{request_text(config.params, target)} can not be reached: {_extent(sizes, sizes.smallest())} is the "
        f"smallest that these layers make{share}. {helps}"
    )
