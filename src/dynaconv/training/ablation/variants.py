"""From a table's variants to contenders of a comparison: the paper's setting on a backbone, and what differs there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch

from dynaconv.convert import draft_plan
from dynaconv.errors import DynaconvError
from dynaconv.models import create_model, get_preset, list_models
from dynaconv.models.kernel_warehouse import published
from dynaconv.planning import KernelWarehousePlan, LayerSpec, read_structure
from dynaconv.training.ablation.tables import AblationTable, Variant
from dynaconv.training.comparison.contenders import Contender

NARROW: Mapping[str, Any] = {"channels": [8, 16, 32, 64], "stem_type": "deep", "stem_width": 4}
"""Arguments of a ResNet of an eighth of the width; the deep stem alone lets timm narrow what the first stage reads."""

NO_LIMIT = 1e6
"""`branch_limit` of all variants: the paper has no such rule, and sharing is what its tables vary."""


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """What all variants are made from.

    Args:
        model: a timm backbone; None for each table's own, as in the paper.
        where: layers to convert; None for those of the paper's network on that backbone, if it has one.
        arguments: of the backbone.
        fields: of KernelWarehouse's config, changed in all variants but where they are what varies.
    """

    model: str | None = None
    where: str | list[str] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)

    def model_of(self, table: AblationTable) -> str:
        """The backbone of a table."""
        return self.model or table.model

    def where_of(self, model: str) -> str | list[str] | None:
        """Patterns of the layers to convert."""
        preset = f"kw1x_{model}"
        if self.where is not None or preset not in list_models():
            return self.where
        where = get_preset(preset).where
        return list(where) if isinstance(where, tuple) else where


def label_of(model: str, variant: Variant) -> str:
    """The label of a variant's contender, the same in all tables."""
    return f"{model} {variant.name}"


def contenders_of(tables: Sequence[AblationTable], backbone: Backbone) -> list[Contender]:
    """Every variant of some tables, each network once.

    Raises:
        DynaconvError: if a variant can not be planned on the backbone; it names both.
    """
    found: dict[str, Contender] = {}
    for table in tables:
        model = backbone.model_of(table)
        if model in list_models():
            raise DynaconvError(
                f"model '{model}' is a preset with a config of its own; an ablation needs its backbone, "
                f"'{get_preset(model).backbone}'"
            )
        for variant in table.variants:
            label = label_of(model, variant)
            if label not in found:
                found[label] = _contender(label, model, variant, backbone)
    return list(found.values())


def _contender(label: str, model: str, variant: Variant, backbone: Backbone) -> Contender:
    if variant.fields is None:
        return Contender(label=label, model=model, backbone=backbone.arguments)
    where = backbone.where_of(model)
    try:
        with torch.device("meta"):
            network = create_model(model, **backbone.arguments)
        config = published(**{"branch_limit": NO_LIMIT, **backbone.fields, **variant.fields})
        plan = cast(KernelWarehousePlan, draft_plan(network, config, where))
        if variant.same_place:
            config = replace(config, sharing=same_place(plan))
            draft_plan(network, config, where)
    except DynaconvError as error:
        raise DynaconvError(f"'{variant.name}' does not fit {model}: {error}") from error
    return Contender(label=label, model=model, method=config.to_dict(), where=where, backbone=backbone.arguments)


def same_place(plan: KernelWarehousePlan) -> dict[str, str]:
    """Which layers share if kernels of different dimensions do not: those at the same place of a range's blocks.

    A shortcut (a layer within a sequence in a block) counts with the block's first layer, which reads the same input.

    Args:
        plan: with sharing between kernels of all dimensions.

    Returns:
        Layer name -> warehouse name.

    Raises:
        DynaconvError: if no warehouse of the plan holds layers at different places.
    """
    layers = [layer.spec for layer in plan.layers]
    block_of = read_structure(layers).block_of
    first: dict[str | None, str] = {}
    for spec in layers:
        first.setdefault(block_of[spec.name], _last(spec))
    home: dict[str, str] = {}
    for layer in plan.layers:
        own = _last(layer.spec)
        home[layer.name] = f"{layer.warehouse}_{first[block_of[layer.name]] if own.isdigit() else own}"
    if len(set(home.values())) == len(plan.warehouses):
        raise DynaconvError("no layers of different dimensions share a warehouse; take a backbone such as resnet50")
    return home


def _last(spec: LayerSpec) -> str:
    return spec.name.rpartition(".")[2]
