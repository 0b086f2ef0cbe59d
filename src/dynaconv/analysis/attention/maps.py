"""Attention of a network over a data set: what was summed over images, and figures that follow from it."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynaconv.errors import DynaconvError, require
from dynaconv.files import replacing

BINS = 201
"""Of histograms over attention from -1 to 1; an odd number, so that zero is in the middle of one."""
DEAD_SHARE = 0.01
"""A cell that is used less than this share of the average cell is dead."""
FORMAT = 1
MIXING = ("cells", "kernel")
"""Kinds of attention that weigh kernels, or cells of them, against each other."""
SCALING = ("channel", "filter", "spatial")
"""Kinds that scale a kernel along one of its dimensions: ODConv's others."""


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """Attention of one layer, of one kind, over images.

    Args:
        layer: its module name.
        kind: ``"cells"`` (KernelWarehouse), ``"kernel"``, ``"channel"``, ``"filter"`` or ``"spatial"``.
        group: the warehouse that the layer draws on; its own name where it shares none.
        images: how many were seen; an image that a layer sees in parts is one.
        mean: average over images, shape ``(m, n)``, float64; ``(1, size)`` but for cells.
        size: average of absolute attention, of every part of an image, same shape.
        spread: standard deviation over images, same shape.
        histogram: how many weights of all images lie in each of :data:`BINS` bins from -1 to 1; those beyond are in
            the outermost.
        negative: how many weights are below zero, counted exactly; ``positive`` likewise, the rest are zero.
        positive: how many are above zero.
        by_class: average over the images of each class, shape ``(classes, m, n)``, or None; NaN where there was none.
        assigned: (mixture, cell) of the assignment's ones, beta of the paper; empty where there is none.
    """

    layer: str
    kind: str
    group: str
    images: int
    mean: Tensor
    size: Tensor
    spread: Tensor
    histogram: Tensor
    negative: int
    positive: int
    by_class: Tensor | None = None
    assigned: tuple[tuple[int, int], ...] = ()

    @property
    def dependence(self) -> float:
        """How much attention depends on the image: its spread over images relative to its size, averaged."""
        return float(self.spread.mean() / self.size.mean().clamp_min(1e-30))

    @property
    def negative_share(self) -> float:
        """Share of weights below zero among those that are not zero."""
        return self.negative / max(self.negative + self.positive, 1)

    @property
    def on_assignment(self) -> float | None:
        """Share of absolute attention that lies where the assignment put it; None without an assignment."""
        places = [(i, j) for i, j in self.assigned if j < self.size.shape[1]]
        if not places:
            return None
        rows, columns = torch.tensor(places).unbind(1)
        return float(self.size[rows, columns].sum() / self.size.sum().clamp_min(1e-30))

    @property
    def effective_cells(self) -> float:
        """How many cells a mixture uses: exp of the entropy of its absolute attention, averaged over mixtures."""
        return float(effective_number(self.size).mean())


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Attention of a network, layer by layer.

    Args:
        maps: in module order.
        classes: whose averages ``by_class`` holds.
        temperature: of the network's branches; None where there is none.
        about: what the network and the data were.
        class_images: how many images there were of each of ``classes``; empty where they were not counted.
    """

    maps: tuple[AttentionMap, ...]
    classes: tuple[str, ...] = ()
    temperature: float | None = None
    about: dict[str, Any] = field(default_factory=dict)
    class_images: tuple[int, ...] = ()

    @property
    def without_images(self) -> tuple[str, ...]:
        """Classes of which there was no image, so that they have no average."""
        return tuple(name for name, count in zip(self.classes, self.class_images, strict=False) if not count)

    def groups(self) -> dict[str, list[AttentionMap]]:
        """Maps of kernels' weights (cells or whole kernels) by warehouse, or by layer."""
        found: dict[str, list[AttentionMap]] = {}
        for one in self.maps:
            if one.kind in MIXING:
                found.setdefault(one.group, []).append(one)
        return found

    def usage(self, group: str) -> Tensor:
        """How much each cell of a warehouse is used: absolute attention summed over all mixtures, shape ``(n,)``."""
        return torch.stack([one.size.sum(0) for one in self._group(group)]).sum(0)

    def dead_cells(self, group: str) -> list[int]:
        """Cells that are used less than :data:`DEAD_SHARE` of the average one."""
        usage = self.usage(group)
        return (usage < DEAD_SHARE * usage.mean()).nonzero().flatten().tolist()

    def effective_cells(self, group: str) -> float:
        """How many cells of a warehouse are in use: exp of the entropy of :meth:`usage`."""
        return float(effective_number(self.usage(group).unsqueeze(0)))

    def layer_similarity(self, group: str) -> Tensor:
        """Cosine between the layers' use of cells, shape ``(layers, layers)``: 1 where two draw on the same ones."""
        uses = torch.stack([one.size.sum(0) for one in self._group(group)])
        uses = uses / uses.norm(dim=1, keepdim=True).clamp_min(1e-30)
        return uses @ uses.T

    def _group(self, group: str) -> list[AttentionMap]:
        groups = self.groups()
        if group not in groups:
            raise DynaconvError(f"there is no warehouse {group!r}; expected one of {', '.join(groups)}")
        return groups[group]

    def summary(self) -> list[dict[str, Any]]:
        """A row a layer, plain types."""
        return [
            {
                "layer": one.layer,
                "kind": one.kind,
                "group": one.group,
                "mixtures": one.mean.shape[0],
                "cells": one.mean.shape[1],
                "effective_cells": one.effective_cells,
                "on_assignment": one.on_assignment,
                "negative_share": one.negative_share,
                "dependence": one.dependence,
            }
            for one in self.maps
        ]

    def __str__(self) -> str:
        """A table: what every layer attends to."""
        head = f"{'layer':<28} {'kind':<8} {'m x n':>11} {'used':>7} {'assigned':>9} {'negative':>9} {'by image':>9}"
        lines = [head]
        for row in self.summary():
            shape = f"{row['mixtures']} x {row['cells']}"
            assigned = "-" if row["on_assignment"] is None else f"{row['on_assignment']:.0%}"
            lines.append(
                f"{row['layer']:<28} {row['kind']:<8} {shape:>11} {row['effective_cells']:>7.1f} {assigned:>9} "
                f"{row['negative_share']:>9.0%} {row['dependence']:>9.1%}"
            )
        groups = self.groups()
        lines += [""] * bool(groups)
        for group in groups:
            n, dead = len(self.usage(group)), self.dead_cells(group)
            lines.append(f"{group}: {self.effective_cells(group):.1f} of {n} cells in use, {len(dead)} dead")
        lines += [
            "",
            "used: effective number of cells a mixture (exp of the entropy); assigned: share of absolute attention on",
            "the assignment; negative: share of weights; by image: spread over images relative to the size",
        ]
        if self.without_images:
            lines.append(f"no image of the classes {', '.join(self.without_images)}, so no averages of them")
        return "\n".join(lines)

    def save(self, path: str | Path) -> Path:
        """Write all arrays as an ``.npz``, and what they are as JSON under the key ``about``.

        Arrays of a layer are named ``LAYER/KIND/ARRAY``: ``mean``, ``size``, ``spread``, ``histogram`` and, if there
        are classes, ``by_class`` (NaN for those without images). The JSON has the classes, and ``class_images``.

        Raises:
            StorageError: if the system refuses; what was there before stays.
        """
        numpy = require("numpy", "train")
        arrays, rows = {}, []
        for one in self.maps:
            name = f"{one.layer}/{one.kind}"
            for key in ("mean", "size", "spread", "histogram", "by_class"):
                if (value := getattr(one, key)) is not None:
                    arrays[f"{name}/{key}"] = value.numpy()
            plain = {key: getattr(one, key) for key in ("layer", "kind", "group", "images", "negative", "positive")}
            rows.append({**plain, "assigned": one.assigned})
        kept = ("classes", "class_images", "temperature", "about")
        head = {"format": FORMAT} | {key: getattr(self, key) for key in kept}
        arrays["about"] = numpy.array(json.dumps({**head, "maps": rows}))
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            numpy.savez_compressed(file, **arrays)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> AttentionMaps:
        """Read what :meth:`save` wrote.

        Raises:
            DynaconvError: if the file is no such file.
        """
        numpy = require("numpy", "train")
        try:
            with numpy.load(path, allow_pickle=False) as arrays:
                head = json.loads(str(arrays["about"]))
                held = {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "about"}
            if head["format"] != FORMAT:
                raise DynaconvError(f"{path} is of format {head['format']}; this version reads {FORMAT}")
            maps = []
            for row in head["maps"]:
                name = f"{row['layer']}/{row['kind']}/"
                own: dict[str, Any] = {
                    key.removeprefix(name): value for key, value in held.items() if key.startswith(name)
                }
                maps.append(AttentionMap(**{**row, "assigned": tuple(map(tuple, row["assigned"]))}, **own))
        except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise DynaconvError(
                f"{path} holds no attention ({error}); expected an .npz of dynaconv attention"
            ) from error
        counts = tuple(head.get("class_images", ()))
        return cls(tuple(maps), tuple(head["classes"]), head["temperature"], head["about"], counts)


def effective_number(weights: Tensor) -> Tensor:
    """Exp of the entropy of rows: n where all are alike, 1 where one has all.

    Args:
        weights: not negative, shape ``(..., n)``.

    Returns:
        Shape ``(...)``; 0 where a row is zero.

    Example:
        >>> effective_number(torch.tensor([[1.0, 1.0, 0.0], [2.0, 0.0, 0.0]]))
        tensor([2., 1.])
    """
    total = weights.sum(-1, keepdim=True)
    shares = weights / total.clamp_min(1e-30)
    entropy = -torch.xlogy(shares, shares).sum(-1)
    return torch.where(total.squeeze(-1) > 0, entropy.exp(), 0.0)


def cosine_of_cells(cells: Tensor) -> Tensor:
    """Cosine between all pairs of cells, shape ``(n, ...)`` -> ``(n, n)``."""
    flat = cells.detach().double().flatten(1)
    flat = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-30)
    return flat @ flat.T


def class_names(classes: Sequence[str], chosen: Sequence[int | str] | None, most: int) -> list[int]:
    """Numbers of the classes to keep averages of: those chosen by name or number, or the first ones.

    Raises:
        DynaconvError: if one is unknown.
    """
    if chosen is None:
        return list(range(min(len(classes), most)))
    found = []
    for one in chosen:
        text = str(one)
        if text in classes:
            found.append(list(classes).index(text))
        elif text.isdigit() and int(text) < len(classes):
            found.append(int(text))
        else:
            raise DynaconvError(f"there is no class {one!r}; expected names or numbers below {len(classes)}")
    return found
