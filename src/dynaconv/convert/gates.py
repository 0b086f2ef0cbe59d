"""The handler of SE, CBAM and ECA: nothing is replaced, a gate goes behind the last convolution of every block."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.convert.replace import find_layer, replace_module
from dynaconv.convert.select import Candidates, Selection
from dynaconv.convert.warm_start import WarmStart
from dynaconv.errors import PlanError
from dynaconv.nn import Gate, Gated, LayerStart
from dynaconv.planning import LayerPlan, LayerSpec, Plan, read_structure

SHORTCUT_PART = re.compile(r"down_?sample|short_?cut|skip|proj_?skip|identity", re.IGNORECASE)
SCALES = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.PReLU)
"""Activations that commute with a positive factor."""
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


class GateMethod:
    """Plans gates and puts them in place.

    Args:
        gate: the gate's class.
    """

    def __init__(self, gate: type[Gate]) -> None:
        self.gate = gate

    def default(self, candidates: Candidates, config: Any) -> Sequence[LayerSpec]:
        """The last convolution of every block, its shortcut aside; none where that one is dynamic already."""
        body = candidates.body
        block_of = read_structure(body).block_of if body else {}
        blocks: dict[str, list[LayerSpec]] = {}
        for spec in body:
            block = block_of[spec.name]
            if block is None or spec.is_linear:
                continue
            inside = spec.name.removeprefix(f"{block}.").split(".")
            if not any(SHORTCUT_PART.fullmatch(part) for part in inside):
                blocks.setdefault(block, []).append(spec)
        ends = [_end(layers) for layers in blocks.values()]
        static = {spec.name for spec in candidates.trunk}
        return [spec for spec in ends if spec.name in static]

    def narrow(
        self, chosen: Sequence[LayerSpec], literal: Collection[str], candidates: Candidates, config: Any
    ) -> Sequence[LayerSpec]:
        """Naming a module gates the ends of its blocks; a pattern of layers, and a function, mean just those layers."""
        meant = {spec.name for spec in self.default(candidates, config)} | set(literal)
        return [spec for spec in chosen if spec.name in meant] or chosen

    def refuses(self, spec: LayerSpec, config: Any) -> str | None:
        """Linear layers: a gate scales the channels of a map."""
        return "a gate stands behind a convolution" if spec.is_linear else None

    def plan(self, selection: Selection, config: Any) -> Plan:
        """Count every gate; kernels stay."""
        layers = [
            LayerPlan(
                spec=spec,
                weight_parameters=spec.kernel_parameters,
                branch_parameters=sum(p.numel() for p in self._make(spec, config, device="meta").parameters()),
            )
            for spec in selection.layers
        ]
        return Plan(
            config=config,
            layers=tuple(layers),
            **selection.rest,
        )

    def _make(self, spec: LayerSpec, config: Any, **options: Any) -> Gate:
        return self.gate(spec.out_channels, len(spec.kernel_size), config=config, **options)

    def apply(self, model: nn.Module, plan: Plan, start: WarmStart | None = None) -> nn.Module:
        """Put a gate behind every planned convolution, after the normalisation that follows it, if one does.

        From trained weights a gate scales every input alike at first, and what it stands behind makes up for it.
        """
        places = {}
        for layer in plan.layers:  # all or none
            find_layer(model, layer.spec)
            places[layer.name] = place = _norm_after(model, layer.name, layer.spec.out_channels) or layer.name
            body = model.get_submodule(place)
            if isinstance(body, Gated):
                raise PlanError(f"'{layer.name}' has a {type(body.gate).__name__} gate behind it already")
            if start is not None:
                _check_scalable(body, place)
        for layer in plan.layers:
            weight, place = model.get_submodule(layer.name).get_parameter("weight"), places[layer.name]
            gate = self._make(layer.spec, plan.config, device=weight.device, dtype=weight.dtype)
            body = model.get_submodule(place)
            if start is not None:
                gate.start = LayerStart(0.0, float(weight.detach().double().square().sum()))
                _scale(body, 1 / gate.rest())
            gated = Gated(body, gate.train(body.training)).train(body.training)
            if place == "":
                return gated
            replace_module(model, place, gated)
        return model


def _check_scalable(body: nn.Module, name: str) -> None:
    """Check that a convolution or normalisation can make up for a gate that scales everything.

    Raises:
        PlanError: if it has no scale of its own, or an activation in it that scaling would go through.
    """
    activation = getattr(body, "act", None)
    if not isinstance(getattr(body, "weight", None), Tensor):
        raise PlanError(
            f"'{name}' ({type(body).__name__}) has no scale to make up for a gate at one half; use init='scratch'"
        )
    if activation is not None and not isinstance(activation, SCALES):
        raise PlanError(
            f"'{name}' ends with {type(activation).__name__}, which a gate at one half can not be made up for before; "
            "gate another layer (where=), or use init='scratch'"
        )


@torch.no_grad()
def _scale(body: nn.Module, factor: float) -> None:
    """Scale what a convolution or normalisation gives."""
    for values in (body.weight, body.bias):
        if isinstance(values, Tensor):
            values.mul_(factor)


def _end(layers: Sequence[LayerSpec]) -> LayerSpec:
    """The last convolution of a block's body: not one that runs beside it, from the block's input to its width.

    Such a shortcut does not go on where the convolution before it ended, or strides when one has already.
    """
    rest = list(layers)
    while len(rest) > 1:
        last, before = rest[-1], rest[-2]
        breaks_off = last.in_channels != before.out_channels or (
            last.is_strided and any(spec.is_strided for spec in rest[:-1])
        )
        starts_over = last.in_channels == rest[0].in_channels and last.out_channels == before.out_channels
        if not (breaks_off and starts_over and not last.is_spatial):
            break
        rest.pop()
    return rest[-1]


def _normalises(module: nn.Module, channels: int) -> bool:
    """Whether a module normalises so many channels, frozen BatchNorm included."""
    if isinstance(module, nn.GroupNorm):
        return module.num_channels == channels
    known = isinstance(module, NORMS) and module.num_features == channels
    statistics = getattr(module, "running_mean", None)
    return known or (isinstance(statistics, Tensor) and statistics.shape == (channels,))


def _norm_after(model: nn.Module, name: str, channels: int) -> str | None:
    """Name of the normalisation that stands right behind a convolution in the same parent."""
    parent, _, child = name.rpartition(".")
    siblings = [n for n, m in model.get_submodule(parent).named_children() if not isinstance(m, nn.Identity)]
    following = siblings[siblings.index(child) + 1 : siblings.index(child) + 2] if child else []
    for sibling in following:
        place = f"{parent}.{sibling}".removeprefix(".")
        module = model.get_submodule(place)
        if isinstance(module, Gated) or _normalises(module, channels):
            return place
    return None
