"""Attention of a network over images, summed up batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.analysis.attention.maps import BINS, AttentionMap, AttentionMaps
from dynaconv.errors import DynaconvError
from dynaconv.nn import attending_layers, get_temperature, watching
from dynaconv.nn.base import Attentions, DynamicLayer
from dynaconv.nn.kernel_warehouse import WarehouseLayer
from dynaconv.nn.observing import Watcher

LARGEST_BYTES = 2**31
"""Of averages by class."""


def collect_attention(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    classes: Mapping[int, str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> AttentionMaps:
    """Run images through a network in evaluation mode, and keep what its layers attend to.

    Args:
        model: with at least one layer that mixes kernels by attention; left in the mode that it was in.
        batches: images ``(B, C, H, W)``, or pairs of images and class numbers ``(B,)``; moved to the model's device.
        classes: number and name of each class whose own average is kept; needs the pairs.
        about: what to note of network and data.

    Returns:
        Averages over all images, see :class:`~dynaconv.analysis.attention.maps.AttentionMaps`.

    Raises:
        DynaconvError: if no layer attends, there is no image, or averages by class take more than 2 GiB.

    Example:
        >>> from dynaconv import DYConv2d
        >>> net = nn.Sequential(DYConv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> found = collect_attention(net, [torch.randn(5, 3, 8, 8)])
        >>> [(one.layer, one.kind, tuple(one.mean.shape), one.images) for one in found.maps]
        [('0', 'kernel', (1, 4), 5)]
    """
    layers = attending_layers(model)
    if not layers:
        raise DynaconvError(
            f"{type(model).__name__} has no layer that mixes kernels by attention; expected one of KernelWarehouse, "
            "ODConv, DY-Conv or CondConv"
        )
    sums = _Sums(list(classes or ()))
    with _watched(model, {layer: sums.watcher(name) for name, layer in layers.items()}) as device:
        for batch in batches:
            images, labels = batch if isinstance(batch, (tuple, list)) else (batch, None)
            if classes and labels is None:
                raise DynaconvError("averages by class need batches of (images, class numbers); got images alone")
            sums.labels = None if labels is None else labels.to(device)
            model(images.to(device))
    if not sums.kept:
        raise DynaconvError("there was no image; expected at least one batch")
    maps = tuple(sums.result(name, kind, layers[name]) for name in layers for owner, kind in sums.kept if owner == name)
    return AttentionMaps(maps, tuple((classes or {}).values()), get_temperature(model), dict(about or {}))


@dataclass
class _Sum:
    """Sums over images for one layer and kind; ``seen`` counts images by class."""

    total: Tensor
    square: Tensor
    size: Tensor
    by_class: Tensor
    seen: Tensor
    histogram: Tensor
    images: int = 0
    negative: int = 0
    positive: int = 0

    @classmethod
    def over(cls, like: Tensor, classes: int) -> _Sum:
        """Nothing yet, for attention of a shape."""
        zero = torch.zeros_like(like, dtype=torch.float64)
        return cls(
            total=zero,
            square=zero.clone(),
            size=zero.clone(),
            by_class=zero.expand(classes, *zero.shape).clone(),
            seen=zero.new_zeros(classes),
            histogram=torch.zeros(BINS, dtype=torch.float64),
        )

    def add(self, attention: Tensor, labels: Tensor | None, classes: Sequence[int]) -> None:
        """Attention ``(B, m, n)`` of images, and the number of each one's class."""
        exact = attention.double()
        self.images += len(exact)
        self.total += exact.sum(0)
        self.square += exact.square().sum(0)
        self.size += exact.abs().sum(0)
        self.negative += int((exact < 0).sum())
        self.positive += int((exact > 0).sum())
        self.histogram += torch.histc(attention.float().clamp(-1, 1), BINS, -1, 1).double().cpu()
        if labels is None:
            return
        for place, number in enumerate(classes):
            chosen = labels == number
            self.by_class[place] += exact[chosen].sum(0)
            self.seen[place] += chosen.sum()


class _Sums:
    """Sums over images for every layer and kind."""

    def __init__(self, classes: Sequence[int]) -> None:
        self.classes = classes
        self.labels: Tensor | None = None
        self.kept: dict[tuple[str, str], _Sum] = {}

    def watcher(self, name: str) -> Callable[[Attentions], None]:
        def watch(attentions: Attentions) -> None:
            for kind, attention in attentions.items():
                self.add(name, kind, attention)

        return watch

    def add(self, name: str, kind: str, attention: Tensor) -> None:
        """Attention ``(B, m, n)`` or ``(B, size)`` of a batch, or ``(k B, ...)`` where a layer sees parts of images."""
        a = _with_mixtures(attention)
        if (name, kind) not in self.kept:
            self._check(name, len(self.classes) * a[0].numel() * 8)
            self.kept[name, kind] = _Sum.over(a[0], len(self.classes))
        labels = None if self.labels is None else self.labels.repeat_interleave(len(a) // len(self.labels))
        self.kept[name, kind].add(a, labels, self.classes)

    def _check(self, name: str, more: int) -> None:
        held = sum(kept.by_class.numel() * 8 for kept in self.kept.values()) + more
        if held > LARGEST_BYTES:
            raise DynaconvError(
                f"averages of {len(self.classes)} classes take more than {LARGEST_BYTES // 2**30} GiB at layer "
                f"{name}; choose fewer classes"
            )

    def result(self, name: str, kind: str, layer: DynamicLayer) -> AttentionMap:
        kept = self.kept[name, kind]
        mean = kept.total / kept.images
        by_class = kept.by_class / kept.seen.clamp_min(1).view(-1, 1, 1)
        cells = layer if isinstance(layer, WarehouseLayer) else None
        return AttentionMap(
            layer=name,
            kind=kind,
            group=name if cells is None else cells.plan.warehouse,
            images=kept.images,
            mean=mean.cpu(),
            size=(kept.size / kept.images).cpu(),
            spread=(kept.square / kept.images - mean.square()).clamp_min(0).sqrt().cpu(),
            histogram=kept.histogram,
            negative=kept.negative,
            positive=kept.positive,
            by_class=by_class.cpu() if self.classes else None,
            assigned=() if cells is None else _assigned(cells),
        )


def _with_mixtures(attention: Tensor) -> Tensor:
    """Shape ``(B, m, n)``, where there are no mixtures ``(B, 1, size)``."""
    return (attention.unsqueeze(1) if attention.dim() == 2 else attention).detach()


def _assigned(layer: WarehouseLayer) -> tuple[tuple[int, int], ...]:
    """The assignment's ones among the cells; those at the zero cell are left out."""
    plan = layer.plan
    return tuple((i, j) for i, row in enumerate(plan.rows) for j in row if j < plan.num_cells)


def attention_to(model: nn.Module, images: Tensor) -> dict[tuple[str, str], Tensor]:
    """What every layer attends to in each of a few images, in evaluation mode.

    Args:
        model: as of :func:`collect_attention`.
        images: shape ``(B, C, H, W)``.

    Returns:
        By layer and kind, shape ``(B, m, n)`` or ``(B, 1, size)``, on the CPU.
    """
    found: dict[tuple[str, str], Tensor] = {}

    def watcher(name: str) -> Callable[[Attentions], None]:
        def watch(attentions: Attentions) -> None:
            for kind, attention in attentions.items():
                found[name, kind] = _with_mixtures(attention).cpu()

        return watch

    with _watched(model, {layer: watcher(name) for name, layer in attending_layers(model).items()}) as device:
        model(images.to(device))
    return found


@contextmanager
def _watched(model: nn.Module, watchers: Mapping[DynamicLayer, Watcher]) -> Iterator[torch.device]:
    """A network in evaluation without gradients, its attention watched; gives its device, and leaves all modes."""
    modes = {module: module.training for module in model.modules()}  # some may stand still in a network that trains
    model.eval()
    try:
        with torch.no_grad(), watching(watchers):
            yield next((p.device for p in model.parameters()), torch.device("cpu"))
    finally:
        for module, training in modes.items():
            module.training = training
