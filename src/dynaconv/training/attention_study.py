"""`attention_study` as a plain function: what a saved network attends to, as arrays, pictures and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.analysis.attention import AttentionMaps, collect_attention
from dynaconv.analysis.attention.collect import attention_to
from dynaconv.analysis.attention.maps import class_names
from dynaconv.analysis.attention.perturb import PERTURBATIONS, perturbed
from dynaconv.analysis.attention.pictures import (
    draw_classes,
    draw_images,
    draw_perturbations,
    draw_sheet,
    draw_similarity,
    draw_usage,
    draw_weights,
    sheets,
)
from dynaconv.analysis.figures import save_figure
from dynaconv.errors import DynaconvError
from dynaconv.files import write_text
from dynaconv.nn import Warehouse
from dynaconv.training.config import LoaderConfig
from dynaconv.training.data.augment import eval_transform
from dynaconv.training.data.images import load_image
from dynaconv.training.devices import place
from dynaconv.training.evaluation import Counting, check_limit, first_batches, open_saved

MOST_CLASSES = 10
"""Whose averages are kept and drawn, unless others are asked for."""
SCOPES = ("none", "all", "stages", "layers")
"""Of the study of perturbed attention: how finely the network is taken apart."""


@dataclass(frozen=True)
class AttentionStudy:
    """What was found.

    Args:
        maps: attention over the validation images.
        files: what was written, the arrays first.
        perturbed: top-1 by scope (``"all layers"``, a stage, a layer) and way; ``None`` is the network as it is.
        images: over which.
    """

    maps: AttentionMaps
    files: tuple[Path, ...]
    images: int
    perturbed: dict[str, dict[str, float]] = field(default_factory=dict)


def attention_study(
    checkpoint: str | Path,
    data: str | None = None,
    *,
    out: str | Path,
    loader: LoaderConfig | None = None,
    device: str = "cpu",
    classes: Sequence[int | str] | None = None,
    pictures: Sequence[str | Path] = (),
    perturb: str = "none",
    kinds: Sequence[str] = ("png",),
    limit: int | None = None,
    counting: Counting | None = None,
) -> AttentionStudy:
    """Collect what a saved network attends to on validation images, and draw it.

    Args:
        checkpoint: name of the pair of files, such as ``runs/<name>/<time>/best``.
        data: a source; the one it was trained on if None.
        out: the folder for arrays, pictures and tables.
        loader: batch size, workers.
        device: where to run, such as ``cuda``.
        classes: names or numbers of those whose own averages are drawn; the first ten if None.
        pictures: two image files whose attention is drawn side by side; two validation images of different classes if
            none are given.
        perturb: ``"none"``, ``"all"`` (the network as a whole), ``"stages"`` or ``"layers"``: what is given other
            attention, in the four ways of :data:`~dynaconv.analysis.attention.perturb.PERTURBATIONS`, and judged.
        kinds: endings of the pictures, ``"png"`` or ``"svg"``.
        limit: images at most; all if None.
        counting: a progress bar: is given a text and a number of batches, and gives what to call after each.

    Raises:
        CheckpointError: if the checkpoint can not be loaded.
        DynaconvError: if the network does not attend, or something that was asked for is unknown.
        StorageError: if the system refuses to write.
    """
    _check(perturb, kinds, pictures, limit)
    model, images, about = open_saved(checkpoint, data, loader)
    names, folder = list(images.classes), Path(out)
    chosen = class_names(names, classes, MOST_CLASSES)
    place(model, device)
    counted = counting or (lambda text, total: nullcontext(lambda: None))
    loaded = images.val_dataloader()
    size = images.loader.batch_size
    total = -(-min(limit or images.summary()["val"], images.summary()["val"]) // size)

    def batches(text: str) -> Iterator[tuple[Tensor, Tensor]]:
        with counted(text, total) as done:
            yield from first_batches(loaded, limit, done)

    noted = {"checkpoint": str(checkpoint), "data": images.data, "model": about["model"]}
    maps = collect_attention(
        model, batches("attention"), classes={number: names[number] for number in chosen}, about=noted
    )
    files = [maps.save(folder / "attention.npz")]
    pair = _pair(pictures, about, batches("two images"), images.mean, images.std)
    for name, figure in _figures(model, maps, pair, device):
        files += [save_figure(figure, folder / f"{name}.{kind}") for kind in kinds]
    found: dict[str, dict[str, float]] = {}
    if perturb != "none":
        found = perturbation_study(model, maps, batches, scopes(maps, perturb))
        figure = draw_perturbations(found)
        files += [save_figure(figure, folder / f"perturbed.{kind}") for kind in kinds]
        write_text(folder / "perturbed.md", perturbation_table(found))
        files.append(folder / "perturbed.md")
    write_text(folder / "attention.txt", str(maps))
    files.append(folder / "attention.txt")
    return AttentionStudy(maps, tuple(files), max(one.images for one in maps.maps), found)


def perturbation_study(
    model: nn.Module,
    maps: AttentionMaps,
    batches: Callable[[str], Iterator[tuple[Tensor, Tensor]]],
    parts: dict[str, list[str]],
) -> dict[str, dict[str, float]]:
    """Top-1 of a network whose layers attend otherwise.

    Args:
        model: in any mode; left in evaluation.
        maps: its attention over the same images.
        batches: images and labels anew, given a word for a progress bar.
        parts: names of the layers that are changed together, by a name of theirs.

    Returns:
        By part and way, a share of 1; ``{"as it is": {"": top1}}`` first.
    """
    model.eval()
    found = {"as it is": {"": _top1(model, batches("as it is"))}}
    for part, layers in parts.items():
        found[part] = {}
        for way in PERTURBATIONS:
            with perturbed(model, maps, way, layers=dict.fromkeys(layers)):
                found[part][way] = _top1(model, batches(f"{part}, {way}"))
    return found


def scopes(maps: AttentionMaps, kind: str) -> dict[str, list[str]]:
    """What is changed together: all layers, and each stage (the modules that the network is made of) or layer."""
    names = [one.layer for group in maps.groups().values() for one in group]
    parts = {"all layers": names}
    if kind == "layers":
        parts |= {name: [name] for name in names}
    elif kind == "stages":
        depth = 1 if len({name.split(".")[0] for name in names}) > 1 else 2
        for name in names:
            parts.setdefault(".".join(name.split(".")[:depth]), []).append(name)
    return parts


def perturbation_table(found: dict[str, dict[str, float]]) -> str:
    """Top-1 in percent as a table of Markdown."""
    lines = [f"| attention of | {' | '.join(PERTURBATIONS)} |", f"|---|{'---:|' * len(PERTURBATIONS)}"]
    for part, row in list(found.items())[1:]:
        lines.append(f"| {part} | {' | '.join(f'{100 * row[way]:.1f}' for way in PERTURBATIONS)} |")
    return f"Top-1 in percent; the network as it is: {100 * found['as it is']['']:.1f}.\n\n" + "\n".join(lines) + "\n"


def _check(perturb: str, kinds: Sequence[str], pictures: Sequence[Any], limit: int | None) -> None:
    if perturb not in SCOPES:
        raise DynaconvError(f"perturb={perturb!r}; expected one of {', '.join(SCOPES)}")
    if unknown := set(kinds) - {"png", "svg"}:
        raise DynaconvError(f"pictures as {', '.join(sorted(unknown))}; expected png or svg")
    if len(pictures) not in (0, 2):
        raise DynaconvError(
            f"{len(pictures)} images to compare; expected two, or none for two of the validation images"
        )
    check_limit(limit)


@torch.no_grad()
def _top1(model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]) -> float:
    device, right, seen = next(model.parameters()).device, 0, 0
    for images, labels in batches:
        right += int((model(images.to(device)).argmax(1).cpu() == labels.cpu()).sum())
        seen += len(labels)
    return right / max(seen, 1)


def _pair(
    paths: Sequence[str | Path], about: dict[str, Any], batches: Iterator[tuple[Tensor, Tensor]], mean: Any, std: Any
) -> dict[str, Tensor]:
    """Two images as the network sees them: files, or the first of the data and the first of another class."""
    if paths:
        prepare = eval_transform(about["image_size"], mean, std, about["crop_pct"], about["interpolation"])
        return {Path(path).name: prepare(load_image(path)) for path in paths}
    found: dict[str, Tensor] = {}
    for images, labels in batches:
        for image, label in zip(images, labels.tolist(), strict=True):
            found.setdefault(str(about["classes"][label]), image)
            if len(found) == 2:
                return found
    return found


def _figures(model: nn.Module, maps: AttentionMaps, pair: dict[str, Tensor], device: str) -> Iterator[tuple[str, Any]]:
    """Name and figure of everything that is drawn."""
    attention = attention_to(model, torch.stack(list(pair.values())).to(device)) if len(pair) == 2 else {}
    shown = {name: _as_shown(image) for name, image in pair.items()}
    for sheet in sheets(maps):
        name = sheet.replace(" ", "-")
        yield f"attention-{name}", draw_sheet(maps, sheet)
        if maps.classes:
            yield f"classes-{name}", draw_classes(maps, sheet)
        if attention:
            yield f"images-{name}", draw_images(shown, attention, maps, sheet)
    yield "weights", draw_weights(maps)
    groups = maps.groups()
    cells = {
        name.rpartition(".")[2]: module.cells.detach().cpu()
        for name, module in model.named_modules()
        if isinstance(module, Warehouse) and name.rpartition(".")[2] in groups
    }
    if cells:
        yield "usage", draw_usage(maps)
        yield "similarity", draw_similarity(maps, cells)


def _as_shown(image: Tensor) -> Tensor:
    """Values from 0 to 1, whatever it was normalised with."""
    image = image.float()
    return (image - image.min()) / (image.max() - image.min()).clamp_min(1e-6)
