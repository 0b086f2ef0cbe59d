"""Average attention as small whole numbers: short enough to stand in a page, exact enough to be read off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.analysis.attention.maps import AttentionMap, AttentionMaps
from dynaconv.analysis.attention.pictures import sheets
from dynaconv.nn import attending_layers
from dynaconv.nn.kernel_warehouse import WarehouseLayer

LARGEST_BYTES = 2**21
"""Of all maps over all images together; and twice that of those by class."""


@dataclass(frozen=True)
class Matrix:
    """Numbers as whole multiples of a step, which each row has of its own.

    Args:
        values: the multiples, signed, of one or two bytes (the lower first), row after row.
        steps: of the rows.
    """

    values: bytes
    steps: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A map: attention of the layers that draw on one warehouse, or that mix as many kernels.

    Args:
        name: of the warehouse.
        shared: whether columns are cells of a warehouse; else they are kernels, and every layer has its own.
        layers: names and numbers of mixtures, from the top.
        columns: cells or kernels.
        mean: average over images, without the assignment's cells, which are zero there.
        assigned: row, column and average of the assignment's cells.
        bound: end of the scale of colours, the largest of ``mean``.
        by_class: average over the images of each class minus that over all images.
        class_bound: end of their scale.
        in_use: effective number of cells in use; None where layers share none.
        dead: cells that are used less than a hundredth as much as the average one.
    """

    name: str
    shared: bool
    layers: tuple[tuple[str, int], ...]
    columns: int
    mean: Matrix
    assigned: tuple[tuple[int, int, float], ...]
    bound: float
    by_class: tuple[Matrix, ...]
    class_bound: float
    in_use: float | None
    dead: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Mixtures of all layers."""
        return sum(count for _, count in self.layers)


@dataclass(frozen=True, kw_only=True)
class AttentionFigures:
    """What a network attends to.

    Args:
        images: over which.
        temperature: of its branches, None where there is none.
        classes: whose averages sheets hold.
        sheets: maps, as long as they fit.
        left_out: names of the sheets that did not.
        layers: a row a layer and kind, see :meth:`~dynaconv.analysis.attention.maps.AttentionMaps.summary`.
    """

    images: int
    temperature: float | None
    classes: tuple[str, ...]
    sheets: tuple[Sheet, ...]
    left_out: tuple[str, ...]
    layers: tuple[dict[str, Any], ...]


def classes_that_fit(model: nn.Module) -> int:
    """Of how many classes averages may be kept, so that all of them stay within the size of a page."""
    weights = sum(
        layer.plan.num_mixtures * layer.plan.num_cells
        for layer in attending_layers(model).values()
        if isinstance(layer, WarehouseLayer)
    )
    return 2 * LARGEST_BYTES // max(weights, 1)


def attention_figures(maps: AttentionMaps, seen: Sequence[str], largest: int = LARGEST_BYTES) -> AttentionFigures:
    """Sum up attention for a page.

    Args:
        maps: over the images, by class.
        seen: names of classes of which there were images; averages of others mean nothing.
        largest: bytes of all maps over all images; a sheet beyond is left out.
    """
    kept = [place for place, name in enumerate(maps.classes) if name in seen]
    made, left_out, taken = [], [], 0
    for name, layers in sheets(maps).items():
        size = 2 * sum(one.mean.numel() for one in layers)
        if taken + size > largest:
            left_out.append(name)
            continue
        taken += size
        made.append(_sheet(name, layers, maps, kept))
    return AttentionFigures(
        images=max(one.images for one in maps.maps),
        temperature=maps.temperature,
        classes=tuple(maps.classes[place] for place in kept),
        sheets=tuple(made),
        left_out=tuple(left_out),
        layers=tuple(maps.summary()),
    )


def _sheet(name: str, layers: Sequence[AttentionMap], maps: AttentionMaps, classes: Sequence[int]) -> Sheet:
    mean = _finite(torch.cat([one.mean for one in layers]))
    others, assigned, top = mean.clone(), [], 0
    for one in layers:
        for i, j in one.assigned:
            assigned.append((top + i, j, float(mean[top + i, j])))
            others[top + i, j] = 0
        top += len(one.mean)
    by_class = [
        _finite(torch.cat([one.by_class[place] - one.mean for one in layers if one.by_class is not None]))
        for place in classes
    ]
    shared = layers[0].kind == "cells"
    return Sheet(
        name=name,
        shared=shared,
        layers=tuple((one.layer, len(one.mean)) for one in layers),
        columns=mean.shape[1],
        mean=in_steps(others, torch.int16),
        assigned=tuple(assigned),
        bound=_largest(others) or _largest(mean) or 1.0,
        by_class=tuple(in_steps(one, torch.int8) for one in by_class),
        class_bound=max(map(_largest, by_class), default=0.0) or 1.0,
        in_use=maps.effective_cells(name) if shared else None,
        dead=tuple(maps.dead_cells(name)) if shared else (),
    )


def in_steps(values: Tensor, whole: torch.dtype) -> Matrix:
    """Round every row to steps, of which its largest number has as many as there are.

    Args:
        values: shape ``(rows, columns)``.
        whole: int8 (127 steps) or int16 (32,767).

    Example:
        >>> matrix = in_steps(torch.tensor([[127.0, -1.0], [0.0, 0.0]]), torch.int8)
        >>> list(matrix.values), matrix.steps
        ([127, 255, 0, 0], (1.0, 0.0))
    """
    steps = values.double().abs().amax(1) / torch.iinfo(whole).max
    found = (values / steps.clamp_min(1e-300).unsqueeze(1)).round().to(whole).contiguous().numpy()
    return Matrix(found.astype(found.dtype.newbyteorder("<")).tobytes(), tuple(steps.tolist()))


def _finite(values: Tensor) -> Tensor:
    """Zero in place of what is no number: a network that diverged has a page, too."""
    return values.nan_to_num(0.0, 0.0, 0.0)


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0
