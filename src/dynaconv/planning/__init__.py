"""Planning: pure Python on names and shapes. Which layers share a warehouse, how large, and who starts where."""

from dynaconv.planning.assignment import assign
from dynaconv.planning.budget import warehouse_size
from dynaconv.planning.kernel_warehouse import (
    KernelWarehousePlan,
    WarehouseLayerPlan,
    WarehousePlan,
    make_plan,
    without_empty_mixtures,
)
from dynaconv.planning.partition import CellGrid, cell_grid, cell_shape
from dynaconv.planning.plan import LayerPlan, Plan
from dynaconv.planning.sharing import group_layers
from dynaconv.planning.spec import LayerSpec
from dynaconv.planning.structure import Stage, Structure, read_structure

__all__ = [
    "CellGrid",
    "KernelWarehousePlan",
    "LayerPlan",
    "LayerSpec",
    "Plan",
    "Stage",
    "Structure",
    "WarehouseLayerPlan",
    "WarehousePlan",
    "assign",
    "cell_grid",
    "cell_shape",
    "group_layers",
    "make_plan",
    "read_structure",
    "warehouse_size",
    "without_empty_mixtures",
]
