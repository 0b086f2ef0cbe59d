"""Dynamic layers: drop-in replacements for torch.nn's convolutions and linear layer."""

from dynaconv.nn.base import (
    DynamicConvNd,
    DynamicLayer,
    check_linked,
    dynamic_layers,
    get_temperature,
    relink,
    set_temperature,
    temperature_at,
)
from dynaconv.nn.kernel_warehouse import KWConv1d, KWConv2d, KWConv3d, KWLinear
from dynaconv.nn.router import CellRouter
from dynaconv.nn.warehouse import Warehouse, Warehouses

__all__ = [
    "CellRouter",
    "DynamicConvNd",
    "DynamicLayer",
    "KWConv1d",
    "KWConv2d",
    "KWConv3d",
    "KWLinear",
    "Warehouse",
    "Warehouses",
    "check_linked",
    "dynamic_layers",
    "get_temperature",
    "relink",
    "set_temperature",
    "temperature_at",
]
