"""One handler for every method whose layers are made from a config, alone or with a branch that their block shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from dynaconv.convert.build import LayerType, build_layer, pick
from dynaconv.convert.replace import find_layer, replace_module
from dynaconv.convert.select import Candidates
from dynaconv.errors import PlanError
from dynaconv.nn import BlockBranch
from dynaconv.planning import BlockPlan, LayerPlan, LayerSpec, Plan, read_structure


class LayerMethod:
    """Plans and builds a method from its layer classes, one for every number of dimensions it can do.

    Args:
        layers: classes that take torch.nn's arguments and ``config=``, with the attention branch as ``attention``.
    """

    def __init__(self, *layers: LayerType) -> None:
        self.layers = layers

    def default(self, candidates: Candidates, config: Any) -> Sequence[LayerSpec]:
        """Every layer of the body but the stem that the method takes."""
        return [spec for spec in candidates.default if self.refuses(spec, config) is None]

    def narrow(self, chosen: Sequence[LayerSpec], candidates: Candidates, config: Any) -> Sequence[LayerSpec]:
        """All of them."""
        return chosen

    def refuses(self, spec: LayerSpec, config: Any) -> str | None:
        """Why the method can not take a layer's place, or None."""
        layer = pick(self.layers, spec)
        if layer is None:
            kind = "linear" if spec.is_linear else f"{len(spec.kernel_size)}-d"
            return f"the method {type(config).method} has no {kind} layer"
        return layer.refuses(spec, config)

    def plan(
        self,
        selected: Sequence[LayerSpec],
        config: Any,
        *,
        trunk: Sequence[LayerSpec],
        other_parameters: int,
        left_static: Sequence[str],
        refused: Mapping[str, str],
    ) -> Plan:
        """Count every layer by making it without memory."""
        blocks = _plan_blocks(selected, config, trunk)
        home = {name: block for block in blocks for name in block.layers}
        return Plan(
            config=config,
            layers=tuple(self._plan_layer(spec, config, home.get(spec.name)) for spec in selected),
            blocks=tuple(blocks),
            other_parameters=other_parameters,
            left_static=tuple(left_static),
            refused=tuple(refused.items()),
        )

    def _plan_layer(self, spec: LayerSpec, config: Any, block: BlockPlan | None) -> LayerPlan:
        kind = pick(self.layers, spec)
        assert kind is not None  # refused before
        layer = build_layer(_outline(spec), kind, config=config, block_branch=_branch(block, config, device="meta"))
        branch = _count(getattr(layer, "attention", None))
        static_bias = spec.out_channels if spec.bias else 0
        return LayerPlan(
            spec=spec,
            weight_parameters=_count(layer) - branch - static_bias,
            branch_parameters=branch,
            block=None if block is None else block.name,
        )

    def apply(self, model: nn.Module, plan: Plan) -> nn.Module:
        """Replace every planned layer, and give blocks the branches that their layers share."""
        sources = {layer.name: find_layer(model, layer.spec) for layer in plan.layers}
        branches: dict[str, BlockBranch] = {}
        for block in plan.blocks:
            weight = sources[block.layers[0]].get_parameter("weight")
            made = _branch(block, plan.config, device=weight.device, dtype=weight.dtype)
            assert made is not None  # there is a block
            branches[block.name] = made
            if hasattr(model.get_submodule(block.name), "block_branch"):
                raise PlanError(f"'{block.name}' has a member 'block_branch' already; a network is converted once")
        built = {}
        for layer in plan.layers:
            kind = pick(self.layers, layer.spec)
            assert kind is not None  # planned before
            branch = None if layer.block is None else branches[layer.block]
            built[layer.name] = build_layer(sources[layer.name], kind, config=plan.config, block_branch=branch)
        if "" in built:
            return built[""]
        for name, branch in branches.items():
            branch.train(model.get_submodule(name).training)
            branch.serve(model.get_submodule(name))
        for name, layer in built.items():
            replace_module(model, name, layer)
        return model


def _plan_blocks(selected: Sequence[LayerSpec], config: Any, trunk: Sequence[LayerSpec]) -> list[BlockPlan]:
    """The branches that layers of a block share, if the method has such."""
    features = getattr(config, "branch_features", None)
    if features is None or not trunk:
        return []
    block_of = read_structure(trunk).block_of
    first: dict[str, LayerSpec] = {}
    for spec in trunk:
        if (block := block_of[spec.name]) is not None:
            first.setdefault(block, spec)
    members: dict[str, list[str]] = {}
    for spec in selected:
        if (block := block_of.get(spec.name)) is not None:
            members.setdefault(block, []).append(spec.name)
    planned = []
    for block, names in members.items():
        channels = first[block].in_channels
        if (outputs := features(channels)) is not None:
            parameters = (channels + 1) * outputs
            planned.append(BlockPlan(name=block, in_channels=channels, parameters=parameters, layers=tuple(names)))
    return planned


def _branch(block: BlockPlan | None, config: Any, **options: Any) -> BlockBranch | None:
    if block is None:
        return None
    return BlockBranch(block.in_channels, config.branch_features(block.in_channels), **options)


def _outline(spec: LayerSpec) -> nn.Module:
    """A static layer of these sizes, without memory."""
    if spec.is_linear:
        return nn.Linear(spec.in_channels, spec.out_channels, spec.bias, device="meta")
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(spec.kernel_size) - 1]
    sizes: Any = {"kernel_size": spec.kernel_size, "stride": spec.stride}
    return convolution(spec.in_channels, spec.out_channels, groups=spec.groups, bias=spec.bias, device="meta", **sizes)


def _count(module: nn.Module | None) -> int:
    return 0 if module is None else sum(p.numel() for p in module.parameters())
