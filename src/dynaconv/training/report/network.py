"""What a saved network is made of, and what it costs, beside the static backbone that it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import dynaconv
from dynaconv.analysis.profile import profile
from dynaconv.checkpoints.description import build
from dynaconv.config import MethodConfig
from dynaconv.convert import config_from_dict, draft_plan
from dynaconv.models import get_preset
from dynaconv.planning.kernel_warehouse import WarehouseLayerPlan, WarehousePlan
from dynaconv.planning.plan import LayerPlan


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Parameters, and multiply-adds of one image.

    Args:
        parameters: all of them.
        kernels: those that kernels are made of: cells, experts, static kernels.
        branches: those of attention branches or gates.
        convolution: multiply-adds of convolutions and matrix products.
        mixing: of making kernels.
        attention: of attention branches.
    """

    parameters: int
    kernels: int = 0
    branches: int = 0
    convolution: int = 0
    mixing: int = 0
    attention: int = 0

    @property
    def rest(self) -> int:
        """Parameters of everything else: stem, norms, classifier."""
        return self.parameters - self.kernels - self.branches

    @property
    def madds(self) -> int:
        """All multiply-adds."""
        return self.convolution + self.mixing + self.attention


@dataclass(frozen=True, kw_only=True)
class NetworkFigures:
    """What a network is and costs.

    Args:
        name: as it was asked for, a preset or a backbone.
        backbone: the static network.
        method: name of what made it dynamic, None if nothing did.
        settings: fields of the method's config that differ from their defaults.
        input_size: channels and sides of an image.
        cost: of the network.
        static: of its backbone; the same where nothing made it dynamic.
        layers: the plan's dynamic layers.
        warehouses: the plan's, of KernelWarehouse.
        left_static: layers that could have been dynamic.
        notes: the plan's.
    """

    name: str
    backbone: str
    method: str | None
    settings: Mapping[str, Any]
    input_size: tuple[int, int, int]
    cost: Cost
    static: Cost
    layers: tuple[LayerPlan, ...] = ()
    warehouses: tuple[WarehousePlan, ...] = ()
    left_static: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def house_of(self) -> dict[str, WarehousePlan]:
        """The warehouse that each layer draws on, by the layer's name."""
        houses = {house.name: house for house in self.warehouses}
        return {layer.name: houses[layer.warehouse] for layer in self.layers if isinstance(layer, WarehouseLayerPlan)}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The static backbone of a saved network, and what made it dynamic.

    Args:
        arguments: of the backbone, as a checkpoint describes a network.
        config: the method's, None for a static network.
        where: which layers.
    """

    arguments: Mapping[str, Any]
    config: MethodConfig | None = None
    where: list[str] | None = field(default=None)

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Origin:
        """Read from a description's ``model``."""
        static = {**arguments, "config": None, "where": None}
        if arguments["name"] in dynaconv.list_models():
            preset = get_preset(arguments["name"])
            static["name"] = preset.backbone
            static["backbone_kwargs"] = {**preset.backbone_kwargs, **(arguments.get("backbone_kwargs") or {})}
            return cls(arguments=static, config=preset.config, where=list(preset.where) if preset.where else None)
        config = arguments.get("config")
        return cls(arguments=static, config=config_from_dict(config) if config else None, where=arguments.get("where"))

    def static(self, source: str | Path) -> nn.Module:
        """The backbone with random weights.

        Args:
            source: what errors name.
        """
        return build({"model": dict(self.arguments)}, source)


def describe_network(model: nn.Module, description: Mapping[str, Any], source: str | Path) -> NetworkFigures:
    """Count a saved network, and plan its conversion once more.

    Args:
        model: the network; it is left as it is.
        description: of its checkpoint.
        source: the checkpoint, for errors.
    """
    origin, size = Origin.of(description["model"]), description["image_size"]
    input_size = (description["model"]["in_chans"], size, size)
    with torch.device("meta"):
        static = origin.static(source)
    named: dict[str, Any] = {
        "name": description["model"]["name"],
        "backbone": origin.arguments["name"],
        "input_size": input_size,
    }
    plain = _cost(static, input_size)
    if origin.config is None:
        return NetworkFigures(**named, method=None, settings={}, cost=plain, static=plain)
    plan = draft_plan(static, origin.config, origin.where)
    return NetworkFigures(
        **named,
        method=origin.config.method,
        settings=_settings(origin.config),
        cost=_cost(model, input_size, kernels=plan.weight_parameters, branches=plan.branch_parameters),
        static=_cost(static, input_size, kernels=plan.kernel_parameters),
        layers=plan.layers,
        warehouses=getattr(plan, "warehouses", ()),
        left_static=plan.left_static,
        notes=plan.notes,
    )


def _cost(model: nn.Module, input_size: tuple[int, int, int], kernels: int = 0, branches: int = 0) -> Cost:
    found = profile(model, input_size)
    return Cost(
        parameters=found.parameters,
        kernels=kernels,
        branches=branches,
        convolution=found.convolution,
        mixing=found.mixing,
        attention=found.attention,
    )


def _settings(config: MethodConfig) -> dict[str, Any]:
    """What is not as it is by default; the budget or number of kernels always."""
    usual = type(config)().to_dict()
    shown = ("budget", "num_kernels")
    return {
        key: value
        for key, value in config.to_dict().items()
        if key != "method" and (key in shown or usual.get(key) != value)
    }
