"""Attention of a network over images, summed up batch by batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.analysis.attention.batches import by_image, images_and_classes
from dynaconv.analysis.attention.maps import BINS, AttentionMap, AttentionMaps
from dynaconv.errors import DynaconvError
from dynaconv.nn import Warehouse, attending_layers, get_temperature, watching
from dynaconv.nn.base import Attentions, DynamicLayer
from dynaconv.nn.kernel_warehouse import WarehouseLayer
from dynaconv.nn.observing import Watcher

LARGEST_BYTES = 2**31
"""Of averages by class."""
Place = tuple[str, str]
"""Layer and kind."""


def collect_attention(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    classes: Mapping[int, str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> AttentionMaps:
    """Run images through a network in evaluation mode, and keep what its layers attend to.

    A layer may see several parts of an image as samples (windows), one image's after the other's, and be called several
    times: an image's attention is the average over them.

    Args:
        model: with at least one layer that mixes kernels by attention; left in the mode that it was in.
        batches: images ``(B, C, H, W)``, alone or the first of a sequence whose second are class numbers ``(B,)``;
            moved to the model's device.
        classes: number and name of each class whose own average is kept; needs class numbers.
        about: what to note of network and data.

    Returns:
        Averages over all images, see :class:`~dynaconv.analysis.attention.maps.AttentionMaps`.

    Raises:
        DynaconvError: if no layer attends, there is no image, averages by class take more than 2 GiB, or a layer sees
            no whole number of samples an image.

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
    if isinstance(batches, Tensor):
        raise DynaconvError(
            f"batches is one tensor of shape {tuple(batches.shape)}; expected batches, such as images.split(64)"
        )
    sums = _Sums(list(classes or ()))
    with _watched(model, {layer: sums.watcher(name) for name, layer in layers.items()}) as device:
        for batch in batches:
            images, labels = images_and_classes(batch, wanted=bool(classes))
            if len(images):
                sums.begin(len(images))
                model(images.to(device))
                sums.end(None if labels is None else labels.cpu())
    if not sums.kept:
        raise DynaconvError("there was no image; expected at least one batch")
    groups = _groups(model, layers)
    maps = tuple(
        sums.result(name, kind, layers[name], groups[name])
        for name in layers
        for owner, kind in sums.kept
        if owner == name
    )
    seen = tuple(sums.images[number] for number in classes or ())
    return AttentionMaps(maps, tuple((classes or {}).values()), get_temperature(model), dict(about or {}), seen)


class _Pass:
    """Attention of the images of one batch, averaged over the parts of an image that a layer sees, and its calls."""

    def __init__(self, images: int) -> None:
        self.images = images
        self._sums: dict[Place, Tensor] = {}
        self._parts: Counter[Place] = Counter()

    def add(self, place: Place, attention: Tensor) -> None:
        """What a layer attends with in one call, shape ``(k B, m, n)``."""
        parts = by_image(attention, self.images, place[0])
        own = parts[:, 0] if parts.shape[1] == 1 else parts.sum(1)
        self._sums[place] = self._sums[place] + own if place in self._sums else own
        self._parts[place] += parts.shape[1]

    def averages(self) -> Iterator[tuple[Place, Tensor]]:
        """By layer and kind, shape ``(B, m, n)``."""
        for place, total in self._sums.items():
            yield place, total if self._parts[place] == 1 else total / self._parts[place]


@dataclass
class _Sum:
    """Sums over images for one layer and kind; ``seen`` counts images by class, ``parts`` what the layer saw."""

    total: Tensor
    square: Tensor
    size: Tensor
    by_class: Tensor
    seen: Tensor
    histogram: Tensor
    images: int = 0
    parts: int = 0
    negative: int = 0
    positive: int = 0

    @classmethod
    def over(cls, like: Tensor, classes: int) -> _Sum:
        """Nothing yet, for attention of a shape."""
        zero = torch.zeros_like(like, dtype=torch.float64, device="cpu")
        return cls(
            total=zero,
            square=zero.clone(),
            size=zero.clone(),
            by_class=zero.expand(classes, *zero.shape).clone(),
            seen=zero.new_zeros(classes),
            histogram=torch.zeros(BINS, dtype=torch.float64),
        )

    def count(self, attention: Tensor) -> None:
        """Weights as they are, of every part of an image: attention ``(k B, m, n)``."""
        self.parts += len(attention)
        self.size += attention.abs().sum(0, dtype=torch.float64)
        self.negative += int((attention < 0).sum())
        self.positive += int((attention > 0).sum())
        self.histogram += torch.histc(attention.float().clamp(-1, 1), BINS, -1, 1).double()

    def add(self, attention: Tensor, labels: Tensor | None, classes: Sequence[int]) -> None:
        """Attention ``(B, m, n)`` of images, and the number of each one's class."""
        exact = attention.double()
        self.images += len(exact)
        self.total += exact.sum(0)
        self.square += exact.square().sum(0)
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
        self.images: Counter[int] = Counter()
        self.kept: dict[Place, _Sum] = {}
        self._pass = _Pass(0)

    def watcher(self, name: str) -> Callable[[Attentions], None]:
        def watch(attentions: Attentions) -> None:
            for kind, attention in attentions.items():
                self._see((name, kind), _with_mixtures(attention).cpu())  # not every device has float64

        return watch

    def begin(self, images: int) -> None:
        """What is seen from now on belongs to so many images."""
        self._pass = _Pass(images)

    def end(self, labels: Tensor | None) -> None:
        """The images have been seen; labels ``(B,)`` are their classes."""
        for place, attention in self._pass.averages():
            self.kept[place].add(attention, labels, self.classes)
        if labels is not None:
            self.images.update(labels.tolist())
        self._pass = _Pass(0)

    def _see(self, place: Place, attention: Tensor) -> None:
        self._pass.add(place, attention)
        if place not in self.kept:
            self._check(place[0], len(self.classes) * attention[0].numel() * 8)
            self.kept[place] = _Sum.over(attention[0], len(self.classes))
        self.kept[place].count(attention)

    def _check(self, name: str, more: int) -> None:
        held = sum(kept.by_class.numel() * 8 for kept in self.kept.values()) + more
        if held > LARGEST_BYTES:
            raise DynaconvError(
                f"averages of {len(self.classes)} classes take more than {LARGEST_BYTES // 2**30} GiB at layer "
                f"{name}; choose fewer classes"
            )

    def result(self, name: str, kind: str, layer: DynamicLayer, group: str) -> AttentionMap:
        kept = self.kept[name, kind]
        mean = kept.total / kept.images
        by_class = kept.by_class / kept.seen.view(-1, 1, 1)  # of a class without images no number
        return AttentionMap(
            layer=name,
            kind=kind,
            group=group,
            images=kept.images,
            mean=mean,
            size=kept.size / kept.parts,
            spread=(kept.square / kept.images - mean.square()).clamp_min(0).sqrt(),
            histogram=kept.histogram,
            negative=kept.negative,
            positive=kept.positive,
            by_class=by_class if self.classes else None,
            assigned=_assigned(layer) if isinstance(layer, WarehouseLayer) else (),
        )


def _with_mixtures(attention: Tensor) -> Tensor:
    """Shape ``(B, m, n)``, where there are no mixtures ``(B, 1, size)``."""
    return (attention.unsqueeze(1) if attention.dim() == 2 else attention).detach()


def _assigned(layer: WarehouseLayer) -> tuple[tuple[int, int], ...]:
    """The assignment's ones among the cells; those at the zero cell are left out."""
    plan = layer.plan
    return tuple((i, j) for i, row in enumerate(plan.rows) for j in row if j < plan.num_cells)


def _groups(model: nn.Module, layers: Mapping[str, DynamicLayer]) -> dict[str, str]:
    """Layer -> the warehouse that it draws on; its own name where that is its alone, or there is none.

    Warehouses are told apart by their cells: parts of a network that were converted one by one may use a name twice.
    These go by their path in the network.
    """
    paths = {id(module.cells): name for name, module in model.named_modules() if isinstance(module, Warehouse)}
    groups = {name: name for name in layers}
    owners = {name: layer for name, layer in layers.items() if isinstance(layer, WarehouseLayer)}
    short = {
        id(layer.cells): layer.plan.warehouse if layer.warehouse is None else name or layer.plan.warehouse
        for name, layer in owners.items()
    }
    used = Counter(short.values())
    for name, layer in owners.items():
        cells = id(layer.cells)
        groups[name] = short[cells] if used[short[cells]] == 1 else paths.get(cells, name)
    return groups


def attention_to(model: nn.Module, images: Tensor) -> dict[Place, Tensor]:
    """What every layer attends to in each of a few images, in evaluation mode.

    Args:
        model: as of :func:`collect_attention`.
        images: shape ``(B, C, H, W)``.

    Returns:
        By layer and kind, shape ``(B, m, n)`` or ``(B, 1, size)``, on the CPU; the average over an image's parts, and
        a layer's calls.

    Raises:
        DynaconvError: if a layer sees no whole number of samples an image.
    """
    seen = _Pass(len(images))

    def watcher(name: str) -> Callable[[Attentions], None]:
        def watch(attentions: Attentions) -> None:
            for kind, attention in attentions.items():
                seen.add((name, kind), _with_mixtures(attention))

        return watch

    with _watched(model, {layer: watcher(name) for name, layer in attending_layers(model).items()}) as device:
        model(images.to(device))
    return dict(seen.averages())


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
