"""Blocks and stages of a network, read off the names, shapes and strides of its layers.

A block is the deepest indexed prefix that several layers have in common (``layer2.0``, ``blocks.3.1``). A stage is the
indexed prefix above it (``layer2``); where names show none, a new stage starts when a block strides or changes width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dynaconv.planning.spec import LayerSpec

MAX_IMAGE_CHANNELS = 4


@dataclass(frozen=True)
class Stage:
    """Consecutive units (blocks, or single layers of a plain network) of one resolution or width."""

    units: tuple[tuple[LayerSpec, ...], ...]
    outside: tuple[LayerSpec, ...] = ()

    @property
    def blocks(self) -> tuple[LayerSpec, ...]:
        """Every layer inside a block."""
        return tuple(spec for unit in self.units for spec in unit)


@dataclass(frozen=True)
class Structure:
    """A network's stem layers and stages; ``block_of`` maps a layer's name to its block's prefix, if it has one."""

    stem: tuple[LayerSpec, ...]
    stages: tuple[Stage, ...]
    block_of: dict[str, str | None]

    @property
    def is_plain(self) -> bool:
        """Whether no layer is in a block, as in VGG."""
        return all(block is None for block in self.block_of.values())


def _indexed_prefixes(name: str) -> list[str]:
    parts = name.split(".")[:-1]
    return [".".join(parts[: i + 1]) for i, part in enumerate(parts) if part[-1:].isdigit()]


def _blocks_and_parents(specs: Sequence[LayerSpec]) -> dict[str, tuple[str | None, str | None]]:
    """Layer name -> (block prefix, stage prefix)."""
    counts = Counter(prefix for spec in specs for prefix in _indexed_prefixes(spec.name))
    shared = {s.name: [p for p in _indexed_prefixes(s.name) if counts[p] > 1] for s in specs}
    parents = {prefix for prefixes in shared.values() for prefix in prefixes[:-1]}
    found: dict[str, tuple[str | None, str | None]] = {}
    for name, prefixes in shared.items():
        if not prefixes:
            found[name] = (None, None)
        elif prefixes[-1] in parents:
            found[name] = (None, prefixes[-1])
        else:
            found[name] = (prefixes[-1], prefixes[-2] if len(prefixes) > 1 else None)
    return found


@dataclass
class _Unit:
    """A block, or a layer that is in none."""

    block: str | None
    parent: str | None
    layers: list[LayerSpec]


@dataclass
class _OpenStage:
    parent: str | None
    units: list[_Unit]
    outside: list[_Unit]

    @property
    def is_lone(self) -> bool:
        """One unit that keeps the resolution: nothing in it repeats, so it is no stage of its own."""
        layers = [layer for unit in [*self.units, *self.outside] for layer in unit.layers]
        return len(self.units) == 1 and not any(layer.is_strided for layer in layers)

    def close(self) -> Stage:
        outside = tuple(layer for unit in self.outside for layer in unit.layers)
        return Stage(tuple(tuple(unit.layers) for unit in self.units), outside)


def _units(specs: Sequence[LayerSpec]) -> list[_Unit]:
    places, units = _blocks_and_parents(specs), []
    for spec in specs:
        block, parent = places[spec.name]
        if units and block is not None and units[-1].block == block:
            units[-1].layers.append(spec)
        else:
            units.append(_Unit(block, parent, [spec]))
    return units


def _changes_width(unit: _Unit, previous: _Unit) -> bool:
    strided = any(layer.is_strided for layer in unit.layers)
    return strided or unit.layers[-1].out_channels != previous.layers[-1].out_channels


def _stages(units: Sequence[_Unit], plain: bool) -> list[_OpenStage]:
    stages: list[_OpenStage] = []
    for unit in units:
        inside = plain or unit.block is not None
        if not stages:
            fresh = True
        elif unit.parent is not None:
            fresh = unit.parent != stages[-1].parent
        elif inside:
            fresh = bool(stages[-1].units) and _changes_width(unit, stages[-1].units[-1])
        else:
            fresh = False
        if fresh:
            stages.append(_OpenStage(unit.parent, [], []))
        (stages[-1].units if inside else stages[-1].outside).append(unit)
    return stages


def _merge_lone(stages: Sequence[_OpenStage]) -> list[_OpenStage]:
    merged: list[_OpenStage] = []
    for stage in stages:
        if merged and merged[-1].units and stage.is_lone:
            merged[-1].units += stage.units
            merged[-1].outside += stage.outside
        else:
            merged.append(stage)
    return merged


def read_structure(specs: Sequence[LayerSpec]) -> Structure:
    """Find blocks and stages.

    Args:
        specs: every convolution and linear layer of the trunk, in module order.

    Returns:
        The stem (layers before the first block, or a first block that reads the image; in a plain network the first
        layer) and the stages. A stage of one
        block that keeps the resolution belongs to the stage before it, as MobileNetV2's last one does.
    """
    units = _units(specs)
    plain = all(unit.block is None for unit in units)
    if plain:
        start = min(1, len(units))
    else:
        start = next(i for i, unit in enumerate(units) if unit.block is not None or unit.parent is not None)
        if start == 0 and len(units) > 1 and units[0].layers[0].in_channels <= MAX_IMAGE_CHANNELS:
            start = 1  # a stem of several layers, as in ResNet-D
    stages = _merge_lone(_stages(units[start:], plain))
    return Structure(
        stem=tuple(layer for unit in units[:start] for layer in unit.layers),
        stages=tuple(stage.close() for stage in stages),
        block_of={layer.name: unit.block for unit in units for layer in unit.layers},
    )
