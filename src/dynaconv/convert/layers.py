"""One handler for every method whose layers are made from a config, alone or with a branch that their block shares."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from torch import nn

from dynaconv.convert.build import LayerType, build_layer, pick
from dynaconv.convert.replace import find_layer, replace_module
from dynaconv.convert.select import Candidates, Selection
from dynaconv.convert.warm_start import WarmStart
from dynaconv.nn import LayerStart, MethodConvNd, MethodLinear, SharesBlockBranch
from dynaconv.planning import LayerPlan, LayerSpec, Plan, read_structure


class LayerMethod:
    """Plans and builds a method from its layer classes, one for every number of dimensions it can do.

    Args:
        layers: classes that take torch.nn's arguments and ``config=``, with the attention branch as ``attention``.
    """

    def __init__(self, *layers: LayerType) -> None:
        self.layers = layers

    def default(self, candidates: Candidates, config: Any) -> Sequence[LayerSpec]:
        """Every layer of the body but the stem."""
        return candidates.default

    def narrow(
        self, chosen: Sequence[LayerSpec], literal: Collection[str], candidates: Candidates, config: Any
    ) -> Sequence[LayerSpec]:
        """All of them."""
        return chosen

    def refuses(self, spec: LayerSpec, config: Any) -> str | None:
        """Why the method can not take a layer's place, or None."""
        layer = pick(self.layers, spec)
        if layer is None:
            kind = "linear" if spec.is_linear else f"{len(spec.kernel_size)}-d"
            return f"the method {type(config).method} has no {kind} layer"
        return layer.refuses(spec, config)

    def plan(self, selection: Selection, config: Any) -> Plan:
        """Count every layer by making it without memory."""
        first = _first_of_blocks(selection.layers, config, selection.trunk)
        outlines = {spec.name: self._build(_outline(spec), spec, config) for spec in selection.layers}
        _share(outlines, first)
        return Plan(
            config=config,
            layers=tuple(_plan_layer(spec, outlines[spec.name], first.get(spec.name)) for spec in selection.layers),
            **selection.rest,
        )

    def _build(self, source: nn.Module, spec: LayerSpec, config: Any) -> nn.Module:
        kind = pick(self.layers, spec)
        assert kind is not None  # refused before
        return build_layer(source, kind, spec.name, config=config)

    def apply(self, model: nn.Module, plan: Plan, start: WarmStart | None = None) -> nn.Module:
        """Replace every planned layer, and let those of a block share its first layer's branch."""
        sources = {layer.name: find_layer(model, layer.spec) for layer in plan.layers}
        built = {layer.name: self._build(sources[layer.name], layer.spec, plan.config) for layer in plan.layers}
        _share(built, {layer.name: layer.branch_of for layer in plan.layers if layer.branch_of is not None})
        if start is not None:
            for name, layer in built.items():
                _adopt(cast(MethodConvNd | MethodLinear, layer), sources[name], start)
        if "" in built:
            return built[""]
        for name, layer in built.items():
            replace_module(model, name, layer)
        return model


def _first_of_blocks(selected: Sequence[LayerSpec], config: Any, trunk: Sequence[LayerSpec]) -> dict[str, str]:
    """Convolution -> the first one of its block, whose branch it shares, if the method lets them.

    Linear layers are left out: in windowed attention they see other samples than the block.
    """
    if not config.shared_branch or not trunk:
        return {}
    block_of, first, shared = read_structure(trunk).block_of, {}, {}
    for spec in selected:
        block = block_of.get(spec.name)
        if block is not None and not spec.is_linear and first.setdefault(block, spec.name) != spec.name:
            shared[spec.name] = first[block]
    return shared


def _share(layers: Mapping[str, nn.Module], first: Mapping[str, str]) -> None:
    for name, leader in first.items():
        layer, owner = layers[name], layers[leader]
        if isinstance(layer, SharesBlockBranch) and isinstance(owner, SharesBlockBranch):
            layer.follow(owner)


def _adopt(layer: MethodConvNd | MethodLinear, source: nn.Module, start: WarmStart) -> None:
    kernel = source.get_parameter("weight").detach()
    error = layer.adopt(kernel, None if source.bias is None else source.bias.detach(), start.noise)  # pyright: ignore
    norm = float(kernel.double().square().sum())
    layer.start = LayerStart(error**2 * norm, norm)


def _plan_layer(spec: LayerSpec, layer: nn.Module, first: str | None) -> LayerPlan:
    branch = _count(layer.get_submodule("attention")) if getattr(layer, "attention", None) is not None else 0
    static_bias = spec.out_channels if spec.bias else 0
    return LayerPlan(
        spec=spec,
        weight_parameters=_count(layer) - branch - static_bias,
        branch_parameters=branch,
        branch_of=first,
    )


def _outline(spec: LayerSpec) -> nn.Module:
    """A static layer of these sizes, without memory."""
    if spec.is_linear:
        return nn.Linear(spec.in_channels, spec.out_channels, spec.bias, device="meta")
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(spec.kernel_size) - 1]
    sizes: Any = {"kernel_size": spec.kernel_size, "stride": spec.stride}
    return convolution(spec.in_channels, spec.out_channels, groups=spec.groups, bias=spec.bias, device="meta", **sizes)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
