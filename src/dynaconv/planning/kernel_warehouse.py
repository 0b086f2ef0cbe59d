"""KernelWarehouse's plan: for every layer its warehouse, cells, assignment and cost (arXiv 2406.07879, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from dynaconv.config import KernelWarehouseConfig
from dynaconv.errors import PlanError
from dynaconv.planning.assignment import Rows, assign
from dynaconv.planning.budget import basis_size, branch_parameters, hidden_width, warehouse_size
from dynaconv.planning.partition import CellGrid, cell_grid, cell_shape, paper_scale
from dynaconv.planning.plan import LayerPlan, Plan
from dynaconv.planning.sharing import group_layers
from dynaconv.planning.spec import LayerSpec
from dynaconv.planning.warehouse_table import warehouse_notes, warehouse_table

MINOR_PARAMETERS = 20_000  # a warehouse of fewer is too small to split for its branches' sake


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
        config: what was asked for.
        layers: the layers' plans.
        warehouses: the warehouses, in order of first appearance.
    """

    config: KernelWarehouseConfig
    layers: tuple[WarehouseLayerPlan, ...]
    warehouses: tuple[WarehousePlan, ...]

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
    def has_halved_cells(self) -> bool:
        """Whether the paper's rule for b < 1 made some cells smaller than they could be."""
        return any(w.config.budget < 1 and w.config.cell_scale is None for w in self.warehouses)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know before converting: costs that outweigh the gain, and layers that start empty."""
        return tuple(warehouse_notes(self))

    def __str__(self) -> str:
        """A table: layer, warehouse, kernel, cell, m, n, start, parameters before and after."""
        return warehouse_table(self)


def _local_config(config: KernelWarehouseConfig, warehouse: str) -> KernelWarehouseConfig:
    for pattern, values in config.overrides.items():
        if fnmatchcase(warehouse, pattern):
            return replace(config, overrides={}, **values)
    return config


def _private(config: KernelWarehouseConfig) -> bool:
    if config.sharing != "none":
        return False
    if config.budget < 1 or config.budget != int(config.budget) or config.nonlocal_basis_ratio < 1:
        raise PlanError(
            "sharing='none' gives every mixture its own cells: budget must be a whole number of at least 1 and "
            "nonlocal_basis_ratio 1; "
            f"got budget={config.budget:g}, nonlocal_basis_ratio={config.nonlocal_basis_ratio:g}"
        )
    if config.assignment in ("all", "pairs"):
        raise PlanError(
            f"assignment={config.assignment!r} shares cells between mixtures, which sharing='none' rules out; "
            "use 'one-to-one', 'several' or 'none'"
        )
    return True


def _plan_warehouse(
    name: str, specs: Sequence[LayerSpec], config: KernelWarehouseConfig
) -> tuple[WarehousePlan, list[WarehouseLayerPlan]]:
    scale = config.cell_scales or paper_scale(specs, config.budget)
    cell = cell_shape(specs, scale=scale, partition=config.partition)
    grids = [cell_grid(spec, cell) for spec in specs]
    mixtures = [grid.num_mixtures for grid in grids]
    num_cells = warehouse_size(config.budget, sum(mixtures))
    private = _private(config)
    layers = []
    for spec, grid, owned in zip(
        specs, grids, assign(mixtures, num_cells, config.budget, config.assignment), strict=True
    ):
        hidden = hidden_width(spec.in_channels, config.reduction, config.min_hidden)
        num_local = int(config.budget * grid.num_mixtures)
        low_rank = config.nonlocal_basis_ratio < 1
        basis = basis_size(num_cells, num_local, config.nonlocal_basis_ratio) if low_rank else None
        logits = int(config.budget) + 1 if private else num_cells + 1
        layers.append(
            WarehouseLayerPlan(
                spec=spec,
                warehouse=name,
                grid=grid,
                num_cells=num_cells,
                rows=owned.rows,
                first_cell=owned.first,
                own_cells=owned.size,
                hidden=hidden,
                num_local=num_local,
                basis=basis,
                logits=logits,
                branch_parameters=branch_parameters(
                    in_channels=spec.in_channels,
                    hidden=hidden,
                    num_mixtures=grid.num_mixtures,
                    logits=logits,
                    layer_norm=config.norm == "layer",
                    basis=None if basis is None else (num_local, basis),
                ),
            )
        )
    warehouse = WarehousePlan(
        name=name,
        cell_shape=cell,
        num_cells=num_cells,
        num_mixtures=sum(mixtures),
        layers=tuple(spec.name for spec in specs),
        config=config,
    )
    return warehouse, layers


def _outweighs(warehouse: WarehousePlan, layers: Sequence[WarehouseLayerPlan], limit: float) -> bool:
    """Whether a warehouse's attention branches hold more than ``limit`` times its cells, and enough to matter."""
    return sum(p.branch_parameters for p in layers) > limit * max(warehouse.parameters, MINOR_PARAMETERS)


def _plan_group(
    name: str, specs: Sequence[LayerSpec], config: KernelWarehouseConfig
) -> list[tuple[WarehousePlan, list[WarehouseLayerPlan]]]:
    """Plan a warehouse, or one for every width if one for all would crumble the cells."""
    planned = _plan_warehouse(name, specs, config)
    widths: dict[str, list[LayerSpec]] = {}
    for spec in specs:
        widths.setdefault("x".join(map(str, spec.kernel_shape[:2])), []).append(spec)
    if len(widths) == 1 or not isinstance(config.sharing, str) or not _outweighs(*planned, config.branch_limit):
        return [planned]
    return [_plan_warehouse(f"{name}_{width}", members, config) for width, members in widths.items()]


def _plan_groups(
    groups: Mapping[str, Sequence[LayerSpec]], config: KernelWarehouseConfig
) -> tuple[list[WarehousePlan], dict[str, WarehouseLayerPlan]]:
    warehouses, layers = [], {}
    for name, specs in groups.items():
        for warehouse, planned in _plan_group(name, specs, _local_config(config, name)):
            warehouses.append(warehouse)
            layers.update({layer.name: layer for layer in planned})
    return warehouses, layers


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
    warehouses, layers = _plan_groups(groups, config)
    plan = KernelWarehousePlan(
        config=config,
        layers=tuple(layers[spec.name] for spec in selected),
        warehouses=tuple(warehouses),
        other_parameters=other_parameters,
        left_static=tuple(left_static),
        refused=tuple((refused or {}).items()),
    )
    if config.cell_scale is None and plan.has_halved_cells and 2 * plan.branch_parameters > plan.cell_parameters:
        return replace(_with_full_cells(plan, groups), config=config)
    return plan


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
    return replace(plan, layers=tuple(layers), warehouses=tuple(houses))


def _with_full_cells(plan: KernelWarehousePlan, groups: Mapping[str, Sequence[LayerSpec]]) -> KernelWarehousePlan:
    """The same plan with cells of the whole divisor."""
    warehouses, layers = _plan_groups(groups, replace(plan.config, cell_scale=1.0))
    return replace(plan, layers=tuple(layers[p.name] for p in plan.layers), warehouses=tuple(warehouses))
