"""KernelWarehouse's plan: for every layer its warehouse, cells, assignment and cost (arXiv 2406.07879, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from dynaconv.config import KernelWarehouseConfig
from dynaconv.errors import PlanError
from dynaconv.planning.assignment import Rows, assign
from dynaconv.planning.partition import CellGrid
from dynaconv.planning.plan import LayerPlan, Plan
from dynaconv.planning.sharing import group_layers
from dynaconv.planning.sizes import WarehouseSizes, usual_sizes
from dynaconv.planning.solve import Solution, solve
from dynaconv.planning.spec import LayerSpec
from dynaconv.planning.warehouse_table import warehouse_notes, warehouse_table


@dataclass(frozen=True, kw_only=True)
class WarehouseLayerPlan(LayerPlan):
    """One layer's part of a KernelWarehouse plan. It has no kernel parameters of its own: cells are the warehouse's.

    Args:
        warehouse: name of the warehouse it draws on.
        grid: how cells tile its kernel.
        num_cells: n, cells in its warehouse.
        rows: its rows of beta, one tuple of cell indices a mixture; index n is the zero cell.
        first_cell: where its own slice of the warehouse starts.
        own_cells: how many cells it owns, that is, initialises.
        hidden: width of its attention branch.
        num_local: cells addressed directly if the branch uses the low-rank basis.
        basis: width of the low-rank basis, or None.
        logits: logits per mixture: n + 1, or b + 1 if every mixture has cells of its own.
    """

    warehouse: str
    grid: CellGrid
    num_cells: int
    rows: Rows
    first_cell: int
    own_cells: int
    hidden: int
    num_local: int
    basis: int | None
    logits: int

    @property
    def num_mixtures(self) -> int:
        """m, the cells that make up the kernel."""
        return self.grid.num_mixtures

    @property
    def is_private(self) -> bool:
        """Whether every mixture attends to cells of its own only (``sharing="none"``)."""
        return self.logits != self.num_cells + 1


@dataclass(frozen=True, kw_only=True)
class WarehousePlan:
    """One warehouse: ``num_cells`` cells of ``cell_shape`` for the ``layers``' ``num_mixtures`` mixtures."""

    name: str
    cell_shape: tuple[int, ...]
    num_cells: int
    num_mixtures: int
    layers: tuple[str, ...]
    config: KernelWarehouseConfig

    @property
    def parameters(self) -> int:
        """Parameters of all cells."""
        return self.num_cells * math.prod(self.cell_shape)


@dataclass(frozen=True, kw_only=True)
class KernelWarehousePlan(Plan):
    """Who shares what: the layers to convert, in module order, and the warehouses they draw on.

    Args:
        config: what was asked for; if that was ``params``, the budget and cells that were found for it.
        layers: the layers' plans.
        warehouses: the warehouses, in order of first appearance.
        solution: how ``params`` was met, or None.
    """

    config: KernelWarehouseConfig
    layers: tuple[WarehouseLayerPlan, ...]
    warehouses: tuple[WarehousePlan, ...]
    solution: Solution | None = None

    @property
    def cell_parameters(self) -> int:
        """Parameters of all cells."""
        return sum(warehouse.parameters for warehouse in self.warehouses)

    @property
    def weight_parameters(self) -> int:
        """Parameters of all cells."""
        return self.cell_parameters

    def warehouse(self, name: str) -> WarehousePlan:
        """The warehouse of that name.

        Raises:
            PlanError: if there is none.
        """
        for warehouse in self.warehouses:
            if warehouse.name == name:
                return warehouse
        raise PlanError(f"no warehouse '{name}' in this plan; it has {[w.name for w in self.warehouses]}")

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know before converting: costs that outweigh the gain, and layers that start empty."""
        return tuple(warehouse_notes(self))

    def __str__(self) -> str:
        """A table: layer, warehouse, kernel, cell, m, n, start, parameters before and after."""
        return warehouse_table(self)


def _build(sizes: WarehouseSizes) -> tuple[WarehousePlan, list[WarehouseLayerPlan]]:
    """Hand a warehouse's cells to its layers."""
    mixtures = [layer.grid.num_mixtures for layer in sizes.layers]
    owned = assign(mixtures, sizes.num_cells, sizes.config.budget, sizes.config.assignment)
    layers = [
        WarehouseLayerPlan(
            spec=layer.spec,
            warehouse=sizes.name,
            grid=layer.grid,
            num_cells=sizes.num_cells,
            rows=share.rows,
            first_cell=share.first,
            own_cells=share.size,
            hidden=layer.hidden,
            num_local=layer.num_local,
            basis=layer.basis,
            logits=layer.logits,
            branch_parameters=layer.branch_parameters,
        )
        for layer, share in zip(sizes.layers, owned, strict=True)
    ]
    warehouse = WarehousePlan(
        name=sizes.name,
        cell_shape=sizes.cell_shape,
        num_cells=sizes.num_cells,
        num_mixtures=sum(mixtures),
        layers=tuple(layer.name for layer in layers),
        config=sizes.config,
    )
    return warehouse, layers


def make_plan(
    selected: Sequence[LayerSpec],
    config: KernelWarehouseConfig,
    *,
    trunk: Sequence[LayerSpec] = (),
    other_parameters: int = 0,
    left_static: Sequence[str] = (),
    refused: Mapping[str, str] | None = None,
) -> KernelWarehousePlan:
    """Plan the conversion of some layers.

    Args:
        selected: the layers to convert, in module order.
        config: what is asked for.
        trunk: all layers from which stages are read; by default the selected ones.
        other_parameters: parameters of the network outside the selected kernels.
        left_static: names to report as not selected.
        refused: layers that can not be converted, with the reason.

    Raises:
        PlanError: if the request can not be met; it names the layer, the sizes and what would work.
    """
    groups = group_layers(selected, trunk or selected, config)
    idle = [p for p in config.overrides if not any(fnmatchcase(name, p) for name in groups)]
    if idle:
        raise PlanError(f"overrides names warehouses that do not exist: {idle}; this plan has {sorted(groups)}")
    solution = None
    if config.params is not None:
        solution = solve(selected, trunk or selected, config, other_parameters)
        config = solution.config
    built = [_build(sizes) for sizes in usual_sizes(groups, config)]
    layers = {layer.name: layer for _, members in built for layer in members}
    return KernelWarehousePlan(
        config=config,
        layers=tuple(layers[spec.name] for spec in selected),
        warehouses=tuple(warehouse for warehouse, _ in built),
        solution=solution,
        other_parameters=other_parameters,
        left_static=tuple(left_static),
        refused=tuple((refused or {}).items()),
    )


def without_empty_mixtures(plan: KernelWarehousePlan) -> KernelWarehousePlan:
    """The same plan with no assignment where b < 1, which would blend trained kernels with zero cells."""
    sparse = {house.name for house in plan.warehouses if house.config.budget < 1}
    if not sparse:
        return plan
    layers = (
        replace(layer, rows=((),) * layer.num_mixtures) if layer.warehouse in sparse else layer for layer in plan.layers
    )
    houses = (
        replace(house, config=replace(house.config, assignment="none")) if house.name in sparse else house
        for house in plan.warehouses
    )
    return replace(plan, config=_free_below_one(plan.config), layers=tuple(layers), warehouses=tuple(houses))


def _free_below_one(config: KernelWarehouseConfig) -> KernelWarehouseConfig:
    """The config that plans no assignment where b < 1."""

    def kind(values: Mapping[str, Any]) -> Any:
        budget, asked = values.get("budget", config.budget), values.get("assignment", config.assignment)
        return "none" if budget < 1 else asked

    overrides = {pattern: {**values, "assignment": kind(values)} for pattern, values in config.overrides.items()}
    return replace(config, assignment=kind({}), overrides=overrides)
