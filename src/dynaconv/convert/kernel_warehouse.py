"""KernelWarehouse's handler: plan the sharing, then put layers and their warehouses in place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

from torch import nn

from dynaconv.config import KernelWarehouseConfig
from dynaconv.convert.build import build_layer, pick
from dynaconv.convert.fill_warehouse import fill_warehouse
from dynaconv.convert.replace import find_layer, replace_module
from dynaconv.convert.select import Candidates, Selection
from dynaconv.convert.warm_start import WarmStart
from dynaconv.errors import PlanError
from dynaconv.nn import KWConv1d, KWConv2d, KWConv3d, KWLinear, Warehouse, Warehouses
from dynaconv.nn.kernel_warehouse import WarehouseLayer
from dynaconv.planning import KernelWarehousePlan, LayerSpec, make_plan, without_empty_mixtures

LAYERS = (KWLinear, KWConv1d, KWConv2d, KWConv3d)


def _check_root(model: nn.Module) -> None:
    """Refuse roots that can not own the warehouses: bare containers, and wrappers that track parameters already."""
    if type(model) in (nn.ModuleList, nn.ModuleDict):
        raise PlanError(
            f"a bare {type(model).__name__} can not own the shared cells; convert the network that holds it, or use "
            "nn.Sequential"
        )
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel) or hasattr(model, "_orig_mod"):
        raise PlanError(f"{type(model).__name__} is a wrapper; convert the network first and wrap it afterwards")


class KernelWarehouseMethod:
    """Plans and builds KernelWarehouse networks."""

    def default(self, candidates: Candidates, config: KernelWarehouseConfig) -> Sequence[LayerSpec]:
        """Every layer of the body but the stem."""
        return candidates.default

    def narrow(
        self,
        chosen: Sequence[LayerSpec],
        literal: Collection[str],
        candidates: Candidates,
        config: KernelWarehouseConfig,
    ) -> Sequence[LayerSpec]:
        """All of them."""
        return chosen

    def refuses(self, spec: LayerSpec, config: KernelWarehouseConfig) -> str | None:
        """Nothing: cells tile any kernel."""
        return None

    def plan(self, selection: Selection, config: KernelWarehouseConfig) -> KernelWarehousePlan:
        """Plan the sharing."""
        rest = {**selection.rest, "refused": dict(selection.rest["refused"])}
        return make_plan(selection.layers, config, trunk=selection.trunk, **rest)

    def apply(self, model: nn.Module, plan: KernelWarehousePlan, start: WarmStart | None = None) -> nn.Module:
        """Replace every planned layer and register the warehouses as ``model.warehouses``."""
        _check_root(model)
        if hasattr(model, "warehouses"):
            raise PlanError(
                f"{type(model).__name__} has an attribute 'warehouses' already; a network is converted once, "
                "with all layers in one plan"
            )
        sources = {layer.name: find_layer(model, layer.spec) for layer in plan.layers}
        if start is not None:
            plan = without_empty_mixtures(plan)
        planned = {layer.name: layer for layer in plan.layers}
        built, warehouses = {}, {}
        for house in plan.warehouses:
            weight = sources[house.layers[0]].get_parameter("weight")
            members = [planned[name] for name in house.layers]
            warehouses[house.name] = Warehouse(house, members, weight.device, weight.dtype)
            for layer in members:
                source, owner = sources[layer.name], warehouses[house.name]
                kind = pick(LAYERS, layer.spec)
                assert kind is not None  # there is one for every number of dimensions
                built[layer.name] = build_layer(
                    source, kind, layer.name, config=house.config, plan=layer, warehouse=owner
                )
            if start is not None:
                layers = {name: cast(WarehouseLayer, built[name]) for name in house.layers}
                fill_warehouse(warehouses[house.name], house, layers, sources, start)
        if "" in built:
            return cast(WarehouseLayer, built[""]).adopt_warehouse()
        for name in sources:
            replace_module(model, name, built[name])
        model.add_module("warehouses", Warehouses(warehouses, plan.config))
        return model
