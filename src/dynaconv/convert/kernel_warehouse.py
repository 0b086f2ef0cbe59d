"""KernelWarehouse's handler: plan the sharing, then put layers and their warehouses in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import nn

from dynaconv.config import KernelWarehouseConfig
from dynaconv.convert.registry import register_method
from dynaconv.convert.replace import find_layer, move_hooks, replace_module
from dynaconv.errors import PlanError
from dynaconv.nn import KWConv1d, KWConv2d, KWConv3d, KWLinear, Warehouse, Warehouses
from dynaconv.planning import LayerPlan, LayerSpec, Plan, make_plan

_CONVOLUTIONS: dict[type[nn.Module], type[KWConv1d | KWConv2d | KWConv3d]] = {
    nn.Conv1d: KWConv1d,
    nn.Conv2d: KWConv2d,
    nn.Conv3d: KWConv3d,
}


def _check_root(model: nn.Module) -> None:
    """Refuse roots that can not own the warehouses: bare containers, and wrappers that track parameters already."""
    if type(model) in (nn.ModuleList, nn.ModuleDict):
        raise PlanError(
            f"a bare {type(model).__name__} can not own the shared cells; convert the network that holds it, or use "
            "nn.Sequential"
        )
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel) or hasattr(model, "_orig_mod"):
        raise PlanError(f"{type(model).__name__} is a wrapper; convert the network first and wrap it afterwards")


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
        refused: Mapping[str, str],
    ) -> Plan:
        """Plan the sharing."""
        return make_plan(
            selected,
            config,
            trunk=trunk,
            other_parameters=other_parameters,
            left_static=left_static,
            refused=refused,
        )

    def apply(self, model: nn.Module, plan: Plan) -> nn.Module:
        """Replace every planned layer and register the warehouses as ``model.warehouses``."""
        _check_root(model)
        if hasattr(model, "warehouses"):
            raise PlanError(
                f"{type(model).__name__} has an attribute 'warehouses' already; a network is converted once, "
                "with all layers in one plan"
            )
        sources = {layer.name: find_layer(model, layer.spec) for layer in plan.layers}
        planned = {layer.name: layer for layer in plan.layers}
        built, warehouses = {}, {}
        for house in plan.warehouses:
            weight = sources[house.layers[0]].get_parameter("weight")
            members = [planned[name] for name in house.layers]
            warehouses[house.name] = Warehouse(house, members, weight.device, weight.dtype)
            for layer in members:
                built[layer.name] = _build(sources[layer.name], layer, house.config, warehouses[house.name])
        if "" in built:
            return built[""].adopt_warehouse()
        for name in sources:
            replace_module(model, name, built[name])
        model.add_module("warehouses", Warehouses(warehouses))
        return model


def _build(
    source: nn.Module, plan: LayerPlan, config: KernelWarehouseConfig, warehouse: Warehouse
) -> KWLinear | KWConv1d | KWConv2d | KWConv3d:
    """The dynamic layer for a static one; it keeps the very bias, hooks and mode."""
    weight = source.get_parameter("weight")
    options: dict[str, Any] = {
        "device": weight.device,
        "dtype": weight.dtype,
        "config": config,
        "plan": plan,
        "warehouse": warehouse,
    }
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
    if source.bias is not None:
        layer.bias = cast(nn.Parameter, source.bias)
    move_hooks(source, layer)
    layer.train(source.training)
    return layer
