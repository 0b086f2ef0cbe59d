"""Which layers share a warehouse (KernelWarehouse, section 3.2 and its ablation of the sharing range)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from dynaconv.config import KernelWarehouseConfig
from dynaconv.errors import PlanError
from dynaconv.planning.partition import channel_gcds
from dynaconv.planning.spec import LayerSpec
from dynaconv.planning.structure import Stage, Structure, read_structure

Home = tuple[str, str]  # (range, kind): the two halves of a warehouse's name


def _kind(spec: LayerSpec, in_block: bool, split_pointwise: bool) -> str:
    """The kind of warehouse a layer belongs to; kernels of different kinds do not share cells."""
    if spec.is_depthwise:
        return "depthwise"
    if spec.groups > 1:
        return "grouped"
    if spec.is_spatial:
        return "downsample" if spec.is_strided and not in_block else "conv"
    kind = "linear" if spec.is_linear else "pointwise"
    if split_pointwise:
        widens = in_block and spec.out_channels > spec.in_channels
        return f"{kind}_expand" if widens else f"{kind}_reduce"
    return kind


def _share_across_kernel_sizes(specs: Sequence[LayerSpec], homes: dict[str, Home]) -> dict[str, Home]:
    """Let point-wise layers share with a range's spatial convolutions where that does not shrink the latter's cells.

    ResNet's 1x1 and 3x3 kernels share cells (section 3.2); DenseNet's would be cut to crumbs by it, and do not.
    """
    members: dict[Home, list[LayerSpec]] = {}
    for spec in specs:
        members.setdefault(homes[spec.name], []).append(spec)
    shared = dict(homes)
    for (place, kind), layers in members.items():
        if not kind.startswith("pointwise"):
            continue
        spatial = members.get((place, "conv"), [])
        pointwise = [s for (p, k), group in members.items() if p == place and k.startswith("pointwise") for s in group]
        if spatial and channel_gcds([*spatial, *pointwise]) == channel_gcds(spatial):
            shared.update({s.name: (place, "conv") for s in layers})
    return shared


def _is_inverted(block: Sequence[LayerSpec]) -> bool:
    """Whether a block widens point-wise before a depth-wise layer: then all its widths follow from its input's."""
    first = block[0]
    widens = not first.is_spatial and first.groups == 1 and first.out_channels > first.in_channels
    return widens and any(s.is_depthwise for s in block)


def _handed_over(stage: Stage) -> set[str]:
    """Layers that still have the width of the stage before theirs, and share with it.

    These are the stage's own down-sampling layer and those layers of its first block that read a number of channels
    which its later blocks do not; an inverted block goes whole.
    """
    first = stage.units[0] if stage.units else ()
    if first and _is_inverted(first):
        reading_previous = list(first)
    else:
        own = {s.in_channels for unit in stage.units[1:] for s in unit} or {s.out_channels for s in first}
        reading_previous = [s for s in first if s.in_channels not in own]
    downsampling = [s for s in stage.outside if s.is_spatial and s.is_strided]
    return {s.name for s in (*reading_previous, *downsampling)}


def _run_of_block(stage: Stage, spec: LayerSpec, runs: int) -> int:
    """Which of ``runs`` equal runs of a stage's blocks a layer is in."""
    for position, unit in enumerate(stage.units):
        if spec in unit:
            return position * runs // len(stage.units)
    return 0


def _stage_ranges(structure: Structure, config: KernelWarehouseConfig) -> dict[str, str]:
    """Layer name -> ``stage<i>``, the paper's rule."""
    unknown = sorted(set(config.stage_splits) - set(range(len(structure.stages))))
    if unknown:
        raise PlanError(
            f"stage_splits names the stages {unknown}; this network has stages 0 to {len(structure.stages) - 1}"
        )
    ranges = {}
    for index, stage in enumerate(structure.stages):
        handed = _handed_over(stage) if config.handover and index > 0 else set()
        runs = config.stage_splits.get(index, 1)
        if runs > 1 and runs > len(stage.units):
            raise PlanError(f"stage_splits asks for {runs} runs of stage {index}, which has {len(stage.units)} blocks")
        for spec in (*stage.blocks, *stage.outside):
            if spec.name in handed:
                ranges[spec.name] = f"stage{index - 1}"
            elif runs > 1:
                ranges[spec.name] = f"stage{index}_{_run_of_block(stage, spec, runs)}"
            else:
                ranges[spec.name] = f"stage{index}"
    return ranges


def _range_names(structure: Structure, config: KernelWarehouseConfig) -> dict[str, str]:
    """Layer name -> warehouse name, for a sharing range."""
    body = [spec for stage in structure.stages for spec in (*stage.blocks, *stage.outside)]
    if config.sharing in ("layer", "none"):
        return {spec.name: spec.name for spec in (*structure.stem, *body)}
    if config.sharing == "stage":
        ranges = _stage_ranges(structure, config)
    elif config.sharing == "block":
        ranges = {spec.name: structure.block_of[spec.name] or spec.name for spec in body}
    else:
        ranges = {spec.name: "model" for spec in body}
    homes = {}
    for spec in body:
        in_block = structure.block_of[spec.name] is not None or structure.is_plain
        homes[spec.name] = (ranges[spec.name], _kind(spec, in_block, config.split_pointwise))
    homes = _share_across_kernel_sizes(body, homes)
    stem = {spec.name: f"stem_{'linear' if spec.is_linear else 'conv'}" for spec in structure.stem}
    return stem | {name: "_".join(home) for name, home in homes.items()}


def _given_names(specs: Sequence[LayerSpec], sharing: Mapping[str, str] | Callable[[LayerSpec], str]) -> dict[str, str]:
    if callable(sharing):
        names = {spec.name: sharing(spec) for spec in specs}
    else:
        names = {}
        for spec in specs:
            hits = [name for pattern, name in sharing.items() if fnmatchcase(spec.name, pattern)]
            if hits:
                names[spec.name] = hits[0]
        idle = [p for p in sharing if not any(fnmatchcase(s.name, p) for s in specs)]
        if idle:
            raise PlanError(
                f"sharing names layers that are not selected: {idle}; selected are {[s.name for s in specs]}"
            )
    missing = [s.name for s in specs if not isinstance(names.get(s.name), str) or not names[s.name]]
    if missing:
        raise PlanError(
            f"sharing names no warehouse for the selected layers {missing}; "
            "give each a name, or leave them out by where="
        )
    return names


def _split_dimensions(specs: Sequence[LayerSpec], names: Mapping[str, str]) -> dict[str, str]:
    """Give 1-D, 2-D, 3-D and linear layers that got one name a warehouse each: their cells differ in shape."""
    dimensions: dict[str, set[int]] = {}
    for spec in specs:
        dimensions.setdefault(names[spec.name], set()).add(len(spec.kernel_size))
    return {
        s.name: f"{names[s.name]}_{len(s.kernel_size)}d" if len(dimensions[names[s.name]]) > 1 else names[s.name]
        for s in specs
    }


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)


def group_layers(
    selected: Sequence[LayerSpec], trunk: Sequence[LayerSpec], config: KernelWarehouseConfig
) -> dict[str, list[LayerSpec]]:
    """Group the selected layers by the warehouse they draw on.

    Args:
        selected: layers that become dynamic, in module order.
        trunk: every convolution and linear layer of the network in module order, from which stages are read; the
            selection does not move a stage's border.
        config: names the range, the mapping or the function.

    Returns:
        Warehouse name -> its layers, both in order of first appearance. Names are identifiers.

    Raises:
        PlanError: if a mapping or function leaves a layer without a warehouse.
    """
    if isinstance(config.sharing, str):
        chosen = {s.name for s in selected}
        extra = [s for s in selected if s not in trunk]
        structure = read_structure([*trunk, *extra])
        names = {k: v for k, v in _range_names(structure, config).items() if k in chosen}
        for spec in selected:
            # Cells that keep the spatial kernel can only be shared by kernels of one size.
            if config.partition == "channel":
                names[spec.name] += "_" + "x".join(map(str, spec.kernel_size))
            elif config.partition == "none":
                names[spec.name] += "_" + "x".join(map(str, spec.kernel_shape))
        names = _split_dimensions(selected, names)
    else:
        names = _given_names(selected, config.sharing)
    groups: dict[str, list[LayerSpec]] = {}
    for spec in selected:
        groups.setdefault(_identifier(names[spec.name]), []).append(spec)
    if len(groups) != len(set(names.values())):
        raise PlanError(f"two warehouse names differ only in punctuation: {sorted(set(names.values()))}; rename one")
    return groups
