"""How large warehouses and their layers' attention branches are: counts alone, without who starts from which cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from dynaconv.config import KernelWarehouseConfig
from dynaconv.errors import PlanError
from dynaconv.planning.budget import basis_size, branch_parameters, hidden_width, warehouse_size
from dynaconv.planning.partition import CellGrid, cell_grid, cell_shape, paper_scale
from dynaconv.planning.spec import LayerSpec

MINOR_PARAMETERS = 20_000  # a warehouse of fewer is too small to split for its branches' sake


@dataclass(frozen=True)
class LayerSizes:
    """One layer's tiles and attention branch; fields as in :class:`dynaconv.planning.WarehouseLayerPlan`."""

    spec: LayerSpec
    grid: CellGrid
    hidden: int
    num_local: int
    basis: int | None
    logits: int
    branch_parameters: int


@dataclass(frozen=True)
class WarehouseSizes:
    """One warehouse: ``num_cells`` cells of ``cell_shape`` for its ``layers``, under its own ``config``."""

    name: str
    config: KernelWarehouseConfig
    cell_shape: tuple[int, ...]
    num_cells: int
    layers: tuple[LayerSizes, ...]

    @property
    def cell_parameters(self) -> int:
        """Parameters of all cells."""
        return self.num_cells * math.prod(self.cell_shape)

    @property
    def branch_parameters(self) -> int:
        """Parameters of its layers' attention branches."""
        return sum(layer.branch_parameters for layer in self.layers)


def _is_private(config: KernelWarehouseConfig) -> bool:
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


def _size_warehouse(name: str, specs: Sequence[LayerSpec], config: KernelWarehouseConfig) -> WarehouseSizes:
    scale = config.cell_scales or paper_scale(specs, config.budget)
    cell = cell_shape(specs, scale=scale, partition=config.partition)
    grids = [cell_grid(spec, cell) for spec in specs]
    num_cells = warehouse_size(config.budget, sum(grid.num_mixtures for grid in grids))
    logits = int(config.budget) + 1 if _is_private(config) else num_cells + 1
    layers = []
    for spec, grid in zip(specs, grids, strict=True):
        hidden = hidden_width(spec.in_channels, config.reduction, config.min_hidden)
        num_local = int(config.budget * grid.num_mixtures)
        low_rank = config.nonlocal_basis_ratio < 1
        basis = basis_size(num_cells, num_local, config.nonlocal_basis_ratio) if low_rank else None
        branch = branch_parameters(
            in_channels=spec.in_channels,
            hidden=hidden,
            num_mixtures=grid.num_mixtures,
            logits=logits,
            layer_norm=config.norm == "layer",
            basis=None if basis is None else (num_local, basis),
        )
        layers.append(LayerSizes(spec, grid, hidden, num_local, basis, logits, branch))
    return WarehouseSizes(name, config, cell, num_cells, tuple(layers))


def _outweighs(sizes: WarehouseSizes, limit: float) -> bool:
    """Whether a warehouse's attention branches hold more than ``limit`` times its cells, and enough to matter."""
    return sizes.branch_parameters > limit * max(sizes.cell_parameters, MINOR_PARAMETERS)


def _size_group(name: str, specs: Sequence[LayerSpec], config: KernelWarehouseConfig) -> list[WarehouseSizes]:
    """A warehouse, or one for every width if one for all would crumble the cells."""
    sizes = _size_warehouse(name, specs, config)
    widths: dict[str, list[LayerSpec]] = {}
    for spec in specs:
        widths.setdefault("x".join(map(str, spec.kernel_shape[:2])), []).append(spec)
    if len(widths) == 1 or not isinstance(config.sharing, str) or not _outweighs(sizes, config.branch_limit):
        return [sizes]
    return [_size_warehouse(f"{name}_{width}", members, config) for width, members in widths.items()]


def _local_config(config: KernelWarehouseConfig, warehouse: str) -> KernelWarehouseConfig:
    for pattern, values in config.overrides.items():
        if fnmatchcase(warehouse, pattern):
            return replace(config, overrides={}, **values)
    return config


def size_warehouses(groups: Mapping[str, Sequence[LayerSpec]], config: KernelWarehouseConfig) -> list[WarehouseSizes]:
    """Size the warehouse, or warehouses, of every group of layers; cells exactly as the config says.

    Raises:
        PlanError: if cells do not tile a kernel, or the sharing does not fit the budget.
    """
    return [sizes for name, specs in groups.items() for sizes in _size_group(name, specs, _local_config(config, name))]


def count(warehouses: Sequence[WarehouseSizes]) -> tuple[int, int]:
    """Parameters of all cells, and of all attention branches."""
    return sum(w.cell_parameters for w in warehouses), sum(w.branch_parameters for w in warehouses)


def spends_on_cells(warehouses: Sequence[WarehouseSizes]) -> bool:
    """Whether attention branches hold at most half as many parameters as the cells do."""
    cells, branches = count(warehouses)
    return 2 * branches <= cells


def usual_sizes(groups: Mapping[str, Sequence[LayerSpec]], config: KernelWarehouseConfig) -> list[WarehouseSizes]:
    """:func:`size_warehouses`, but without the paper's smaller cells below b = 1 where branches would eat the saving.

    It counts where the config leaves ``cell_scale`` open.
    """
    sizes = size_warehouses(groups, config)
    halved = any(w.config.budget < 1 and w.config.cell_scale is None for w in sizes)
    if config.cell_scale is None and halved and not spends_on_cells(sizes):
        return size_warehouses(groups, replace(config, cell_scale=1.0))
    return sizes
