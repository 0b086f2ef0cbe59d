"""KernelWarehouse's handler: plan the sharing, then put layers and their warehouses in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dynaconv.config import KernelWarehouseConfig
from dynaconv.convert.registry import register_method
from dynaconv.convert.replace import find_layer, replace_module
from dynaconv.errors import PlanError
from dynaconv.nn import KWConv1d, KWConv2d, KWConv3d, KWLinear, Warehouse, Warehouses
from dynaconv.planning import LayerPlan, LayerSpec, Plan, make_plan

_CONVOLUTIONS: dict[type[nn.Module], type[KWConv1d | KWConv2d | KWConv3d]] = {
    nn.Conv1d: KWConv1d,
    nn.Conv2d: KWConv2d,
    nn.Conv3d: KWConv3d,
}


@register_method(KernelWarehouseConfig)
class KernelWarehouseMethod:
    """Plans and builds KernelWarehouse networks."""

    def plan(
        self,
        selected: Sequence[LayerSpec],
        config: KernelWarehouseConfig,
        *,
        trunk: Sequence[LayerSpec],
        other_parameters: int,
        left_static: Sequence[str],
    ) -> Plan:
        """Plan the sharing."""
        return make_plan(selected, config, trunk=trunk, other_parameters=other_parameters, left_static=left_static)

    def apply(self, model: nn.Module, plan: Plan) -> nn.Module:
        """Replace every planned layer and register the warehouses as ``model.warehouses``."""
        if hasattr(model, "warehouses"):
            raise PlanError(
                f"{type(model).__name__} has an attribute 'warehouses' already; a network is converted once, "
                "with all layers in one plan"
            )
        layers = {layer.name: (find_layer(model, layer.spec), layer) for layer in plan.layers}
        if "" in layers:
            source, layer = layers[""]
            return _build(source, layer, plan.config, None)
        warehouses = {}
        for house in plan.warehouses:
            members = [layers[name][1] for name in house.layers]
            weight = layers[house.layers[0]][0].get_parameter("weight")
            warehouses[house.name] = Warehouse(house, members, weight.device, weight.dtype)
        for name, (source, layer) in layers.items():
            replace_module(model, name, _build(source, layer, plan.config, warehouses[layer.warehouse]))
        model.add_module("warehouses", Warehouses(warehouses))
        return model


def _build(source: nn.Module, plan: LayerPlan, config: KernelWarehouseConfig, warehouse: Warehouse | None) -> nn.Module:
    """The dynamic layer for a static one; without a warehouse it gets one of its own."""
    weight = source.get_parameter("weight")
    options: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype, "config": config}
    if warehouse is not None:
        options |= {"plan": plan, "warehouse": warehouse}
    if isinstance(source, nn.Linear):
        layer = KWLinear(source.in_features, source.out_features, source.bias is not None, **options)
    elif isinstance(source, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        layer = _CONVOLUTIONS[type(source)](
            source.in_channels,
            source.out_channels,
            source.kernel_size,
            source.stride,
            source.padding,
            source.dilation,
            source.groups,
            source.bias is not None,
            source.padding_mode,  # pyright: ignore[reportArgumentType]
            **options,
        )
    else:
        raise PlanError(f"'{plan.name}' is a {type(source).__name__}; expected a convolution or linear layer")
    if layer.bias is not None and source.bias is not None:
        with torch.no_grad():
            layer.bias.copy_(source.bias)
    return layer.train(source.training)
