"""Top-1 of a network whose attention is replaced, part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from dynaconv.analysis.attention import PERTURBATIONS, AttentionMaps, perturbations_for, perturbed
from dynaconv.convert.select import find_candidates, layer_spec
from dynaconv.nn import attending_layers
from dynaconv.planning import Stage, read_structure

Batches = Iterable[tuple[Tensor, Tensor]]


def perturbation_study(
    model: nn.Module,
    maps: AttentionMaps,
    batches: Callable[[str], Batches],
    parts: dict[str, list[str]],
) -> dict[str, dict[str, float]]:
    """Top-1 of a network whose layers attend otherwise.

    Args:
        model: in any mode; left in evaluation.
        maps: its attention over the same images.
        batches: images and labels anew, given a word for a progress bar; in an order that mixes classes, as attention
            of other images is that of others in the batch. One that holds a single image joins another.
        parts: names of the layers that are changed together, by a name of theirs.

    Returns:
        By part and way, a share of 1, the ways that change something in the part; ``{"as it is": {"": top1}}`` first.

    Raises:
        DynaconvError: if there is one image only.
    """
    model.eval()
    found = {"as it is": {"": _top1(model, batches("as it is"))}}
    for part, layers in parts.items():
        found[part] = {}
        for way in perturbations_for(maps, layers):
            with perturbed(model, maps, way, layers=layers):
                found[part][way] = _top1(model, join_lone(batches(f"{part}, {way}")))
    return found


def join_lone(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches, where one that holds a single image, such as a remainder, is part of the one before it.

    Example:
        >>> pairs = [(torch.zeros(count, 1), torch.zeros(count)) for count in (4, 4, 1)]
        >>> [len(labels) for _, labels in join_lone(pairs)]
        [4, 5]
    """
    held: tuple[Tensor, Tensor] | None = None
    for images, labels in batches:
        if held is None:
            held = images, labels
        elif len(labels) == 1 or len(held[1]) == 1:
            held = torch.cat([held[0], images]), torch.cat([held[1], labels])
        else:
            yield held
            held = images, labels
    if held is not None:
        yield held


@torch.no_grad()
def _top1(model: nn.Module, batches: Batches) -> float:
    device, right, seen = next(model.parameters()).device, 0, 0
    for images, labels in batches:
        right += int((model(images.to(device)).argmax(1).cpu() == labels.cpu()).sum())
        seen += len(labels)
    return right / max(seen, 1)


def scopes(model: nn.Module, maps: AttentionMaps, kind: str) -> dict[str, list[str]]:
    """Which layers are changed together: all of them, and those of each stage, or each alone.

    Args:
        model: whose attention was collected.
        maps: its attention.
        kind: ``"all"``, ``"stages"`` (those that plans are made by) or ``"layers"``.

    Returns:
        Layers in module order, by a name of their part.
    """
    names = list(dict.fromkeys(one.layer for one in maps.maps))
    parts = {"all layers": names}
    if kind == "layers":
        return parts | {name: [name] for name in names}
    if kind == "stages":
        stage_of = stages(model)
        for name in names:
            parts.setdefault(stage_of[name], []).append(name)
    return parts


def stages(model: nn.Module) -> dict[str, str]:
    """Attending layer -> name of its stage, as plans see the network, whatever of it is dynamic; or ``"stem"``."""
    layers = {name: layer_spec(name, layer) for name, layer in attending_layers(model).items()}
    specs = layers | {spec.name: spec for spec in find_candidates(model).trunk}
    structure = read_structure([specs[name] for name, _ in model.named_modules() if name in specs])
    found = {spec.name: "stem" for spec in structure.stem}
    for stage, title in zip(structure.stages, _titles(structure.stages, structure.block_of), strict=True):
        found |= {spec.name: title for spec in (*stage.blocks, *stage.outside)}
    return {name: found[name] for name in layers}


def _titles(found: Iterable[Stage], block_of: dict[str, str | None]) -> list[str]:
    """Names of stages: the modules that hold their blocks; where these hold others too, the first and last block."""
    units = [
        list(dict.fromkeys(block_of[spec.name] or spec.name for spec in stage.blocks or stage.outside))
        for stage in found
    ]
    holders = [list(dict.fromkeys(name.rpartition(".")[0] for name in names)) for names in units]
    shared = [holder for own in holders for holder in own]
    titles = []
    for names, own in zip(units, holders, strict=True):
        if all(holder and shared.count(holder) == 1 for holder in own):
            titles.append(", ".join(own))
        else:
            titles.append(names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}")
    return titles


def perturbation_table(found: dict[str, dict[str, float]]) -> str:
    """Top-1 in percent as a table of Markdown."""
    lines = [f"| attention of | {' | '.join(PERTURBATIONS)} |", f"|---|{'---:|' * len(PERTURBATIONS)}"]
    for part, row in list(found.items())[1:]:
        cells = [f"{100 * row[way]:.1f}" if way in row else "–" for way in PERTURBATIONS]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    return f"Top-1 in percent; the network as it is: {100 * found['as it is']['']:.1f}.\n\n" + "\n".join(lines) + "\n"
