"""`attention_study` as a plain function: what a saved network attends to, as arrays, pictures and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.analysis.attention import AttentionMaps, collect_attention
from dynaconv.analysis.attention.collect import attention_to
from dynaconv.analysis.attention.maps import class_names
from dynaconv.analysis.attention.pictures import draw_classes, draw_images, draw_sheet, scale_sheets, sheets
from dynaconv.analysis.attention.summaries import draw_perturbations, draw_similarity, draw_usage, draw_weights
from dynaconv.analysis.figures import save_figure
from dynaconv.errors import DynaconvError
from dynaconv.files import write_text
from dynaconv.nn import attending_layers
from dynaconv.nn.kernel_warehouse import WarehouseLayer
from dynaconv.training.config import LoaderConfig
from dynaconv.training.data.augment import eval_transform
from dynaconv.training.data.images import load_image
from dynaconv.training.devices import place
from dynaconv.training.evaluation import Counting, check_limit, first_batches, open_saved
from dynaconv.training.perturbation import perturbation_study, perturbation_table, scopes

MOST_CLASSES = 10
"""Whose averages are kept and drawn, unless others are asked for."""
SCOPES = ("none", "all", "stages", "layers")
"""Of the study of perturbed attention: how finely the network is taken apart."""
PANELS = 50
"""Classes on a picture at most; half as many warehouses."""
Pair = list[tuple[str, Tensor]]
"""Two images, each with a title; or none."""


@dataclass(frozen=True)
class AttentionStudy:
    """What was found.

    Args:
        maps: attention over the validation images.
        files: what was written, the arrays first.
        images: over how many.
        perturbed: top-1 by part (``"all layers"``, a stage, a layer) and way; ``"as it is"`` is the network unchanged.
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

    Images come in an order that is drawn once and is the same every time: data lie sorted by class, and both the first
    images and those of one batch are to be of all classes.

    Args:
        checkpoint: name of the pair of files, such as ``runs/<name>/<time>/best``.
        data: a source; the one it was trained on if None.
        out: the folder for arrays, pictures and tables.
        loader: batch size, workers.
        device: where to run, such as ``cuda``.
        classes: names or numbers of those whose own averages are drawn; the first ten if None.
        pictures: two image files whose attention is drawn side by side; two validation images if none are given, of
            different classes if there are.
        perturb: ``"none"``, ``"all"`` (the network as a whole), ``"stages"`` or ``"layers"``: what is given other
            attention, in the four ways of :data:`~dynaconv.analysis.attention.perturb.PERTURBATIONS`, and judged.
        kinds: endings of the pictures, ``"png"`` or ``"svg"``.
        limit: images at most, the first of that order; all if None.
        counting: a progress bar: is given a text and a number of batches, and gives what to call after each.

    Raises:
        CheckpointError: if the checkpoint can not be loaded.
        DynaconvError: if the network does not attend, something that was asked for is unknown, an image file can not
            be read, ``out`` is a file, or ``perturb`` finds batches of one image.
        StorageError: if the system refuses to write.
    """
    folder = Path(out)
    _check(perturb, kinds, pictures, limit, folder)
    given = [load_image(path) for path in pictures]
    model, images, about = open_saved(checkpoint, data, loader)
    names = list(images.classes)
    chosen = class_names(names, classes, MOST_CLASSES)
    place(model, device)
    counted = counting or (lambda text, total: nullcontext(lambda: None))
    size, count = images.loader.batch_size, images.summary()["val"]
    count = min(limit or count, count)
    if perturb != "none" and min(size, count) < 2:
        raise DynaconvError(
            f"{count} images in batches of {size}; perturb={perturb!r} gives images the attention of others of their "
            "batch: expected two or more"
        )
    loaded = images.shuffled_val_dataloader()

    def batches(text: str) -> Iterator[tuple[Tensor, Tensor]]:
        with counted(text, -(-count // size)) as done:
            yield from first_batches(loaded, limit, done)

    noted = {"checkpoint": str(checkpoint), "data": images.data, "model": about["model"]}
    examples = _Examples()
    maps = collect_attention(
        model, examples.noting(batches("attention")), classes={number: names[number] for number in chosen}, about=noted
    )
    files = [maps.save(folder / "attention.npz")]
    pair = examples.pair(names)
    if given:
        prepare = eval_transform(
            about["image_size"], images.mean, images.std, about["crop_pct"], about["interpolation"]
        )
        pair = list(zip(_titles(pictures), map(prepare, given), strict=True))
    for name, figure in _figures(model, maps, pair, device):
        files += [save_figure(figure, folder / f"{name}.{kind}") for kind in kinds]
    found: dict[str, dict[str, float]] = {}
    if perturb != "none":
        found = perturbation_study(model, maps, batches, scopes(model, maps, perturb))
        figure = draw_perturbations(found)
        files += [save_figure(figure, folder / f"perturbed.{kind}") for kind in kinds]
        write_text(folder / "perturbed.md", perturbation_table(found))
        files.append(folder / "perturbed.md")
    write_text(folder / "attention.txt", str(maps))
    files.append(folder / "attention.txt")
    return AttentionStudy(maps, tuple(files), max(one.images for one in maps.maps), found)


def _check(perturb: str, kinds: Sequence[str], pictures: Sequence[Any], limit: int | None, folder: Path) -> None:
    """Refuse what can be known to be wrong before any image is looked at."""
    if perturb not in SCOPES:
        raise DynaconvError(f"perturb={perturb!r}; expected one of {', '.join(SCOPES)}")
    if unknown := set(kinds) - {"png", "svg"}:
        raise DynaconvError(f"pictures as {', '.join(sorted(unknown))}; expected png or svg")
    if len(pictures) not in (0, 2):
        raise DynaconvError(
            f"{len(pictures)} images to compare; expected two, or none for two of the validation images"
        )
    if folder.exists() and not folder.is_dir():
        raise DynaconvError(
            f"{folder} is a file; expected a folder for pictures and tables, such as {folder}-attention"
        )
    check_limit(limit)


class _Examples:
    """Two images out of batches: the first, and the first of another class, or else the second."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, int]] = []

    def noting(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The same batches; images are kept in passing."""
        for images, labels in batches:
            for image, label in zip(images, labels.tolist(), strict=True):
                if len(self._kept) < 2:
                    self._kept.append((image.clone(), label))
                elif self._kept[0][1] != self._kept[1][1]:
                    break
                elif label != self._kept[0][1]:
                    self._kept[1] = image.clone(), label
            yield images, labels

    def pair(self, classes: Sequence[str]) -> Pair:
        """Both by their classes, or nothing where there was but one image."""
        if len(self._kept) < 2:
            return []
        titles = [str(classes[label]) for _, label in self._kept]
        if titles[0] == titles[1]:
            titles = [f"{title}, image {number}" for number, title in enumerate(titles, start=1)]
        return [(title, image) for title, (image, _) in zip(titles, self._kept, strict=True)]


def _titles(paths: Sequence[str | Path]) -> list[str]:
    """Names of files, with their folders where that is all that tells them apart."""
    names = [Path(path).name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _figures(model: nn.Module, maps: AttentionMaps, pair: Pair, device: str) -> Iterator[tuple[str, Any]]:
    """Name and figure of everything that is drawn."""
    attention = attention_to(model, torch.stack([image for _, image in pair]).to(device)) if pair else {}
    shown = [(title, _as_shown(image)) for title, image in pair]
    seen = [name for name in maps.classes if name not in maps.without_images]
    for sheet in sheets(maps) | scale_sheets(maps):
        name = sheet.replace(" ", "-")
        yield f"attention-{name}", draw_sheet(maps, sheet)
        if seen:
            for page, classes in _pages(f"classes-{name}", maps.classes, PANELS):
                if set(classes) & set(seen):
                    yield page, draw_classes(maps, sheet, classes)
        if attention:
            yield f"images-{name}", draw_images(shown, attention, maps, sheet)
    yield "weights", draw_weights(maps)
    layers = attending_layers(model)
    cells = {
        group: layer.cells.detach().cpu()
        for group, users in maps.groups().items()
        if isinstance(layer := layers[users[0].layer], WarehouseLayer)
    }
    for page, names in _pages("usage", list(cells), PANELS // 2):
        yield page, draw_usage(maps, names)
    for page, names in _pages("similarity", list(cells), PANELS // 2):
        yield page, draw_similarity(maps, {name: cells[name] for name in names})


def _pages(name: str, items: Sequence[str], most: int) -> Iterator[tuple[str, Sequence[str]]]:
    """What goes on one picture, and its name: numbered from 1 where there are several."""
    for start in range(0, len(items), most):
        yield name if len(items) <= most else f"{name}-{start // most + 1}", items[start : start + most]


def _as_shown(image: Tensor) -> Tensor:
    """Values from 0 to 1, whatever it was normalised with."""
    image = image.float()
    return (image - image.min()) / (image.max() - image.min()).clamp_min(1e-6)
