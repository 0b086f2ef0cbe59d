"""Attention otherwise than it was computed: does a network need it, and where?

The four ways are those of the DY-Conv paper's study of its attention (arXiv 1912.03458, "Is dynamic convolution
dynamic?"), carried over to attention that is signed, and to ODConv's other kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.analysis.attention.batches import by_image
from dynaconv.analysis.attention.maps import MIXING, AttentionMaps
from dynaconv.errors import DynaconvError
from dynaconv.nn import attending_layers, watching
from dynaconv.nn.base import Attentions, DynamicLayer
from dynaconv.nn.kernel_warehouse import WarehouseLayer


@dataclass(frozen=True)
class _Setting:
    """What a way needs to know besides attention.

    Args:
        layer: its name.
        means: average attention by kind, shape ``(m, n)`` or ``(1, size)``.
        columns: each mixture's own cells, shape ``(m, c)``; None where all are everybody's.
        images: in the batch; None where the network itself is not called.
        generator: of random orders.
    """

    layer: str
    means: Mapping[str, Tensor]
    columns: Tensor | None
    images: int | None
    generator: torch.Generator


Change = Callable[[Attentions, _Setting], Attentions]


def _average(attentions: Attentions, at: _Setting) -> Attentions:
    return {
        kind: at.means[kind].to(attention).reshape(attention.shape[1:]).expand_as(attention)
        for kind, attention in attentions.items()
    }


def _maximum(attentions: Attentions, at: _Setting) -> Attentions:
    return {kind: _on_largest(a) if kind in MIXING else a for kind, a in attentions.items()}


def _on_largest(attention: Tensor) -> Tensor:
    """All weight of a mixture on the cell with the largest; its sign and the sum of absolute weights stay."""
    size = attention.abs()
    chosen = size.argmax(-1, keepdim=True)
    whole = size.sum(-1, keepdim=True) * attention.gather(-1, chosen).sign()
    return torch.zeros_like(attention).scatter(-1, chosen, whole)


def _within(attentions: Attentions, at: _Setting) -> Attentions:
    def shuffled(attention: Tensor) -> Tensor:
        order = torch.rand(attention.shape, generator=at.generator).argsort(-1).to(attention.device)
        return attention.gather(-1, order)

    found = {}
    for kind, attention in attentions.items():
        if kind == "cells" and at.columns is not None:  # the other cells are not the mixture's to use
            own = at.columns.expand(len(attention), -1, -1)
            found[kind] = attention.scatter(-1, own, shuffled(attention.gather(-1, own)))
        else:
            found[kind] = shuffled(attention)
    return found


def _across(attentions: Attentions, at: _Setting) -> Attentions:
    images = len(next(iter(attentions.values()))) if at.images is None else at.images
    order = derangement(images, at.generator)
    return {
        kind: by_image(attention, images, at.layer)[order.to(attention.device)].flatten(0, 1)
        for kind, attention in attentions.items()
    }


def derangement(count: int, generator: torch.Generator) -> Tensor:
    """A random order in which no number is at its own place: one cycle through all of them.

    Raises:
        DynaconvError: if there is but one.

    Example:
        >>> order = derangement(5, torch.Generator().manual_seed(0))
        >>> bool((order == torch.arange(5)).any()), sorted(order.tolist())
        (False, [0, 1, 2, 3, 4])
    """
    if count < 2:
        raise DynaconvError(f"{count} image in a batch has no other to take attention from; expected at least two")
    cycle = torch.randperm(count, generator=generator)
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(1)
    return order


PERTURBATIONS: dict[str, Change] = {
    "average": _average,
    "maximum": _maximum,
    "shuffled within images": _within,
    "shuffled across images": _across,
}
"""What attention is replaced by: its average over the data set; all on the cell (or kernel) with the largest weight,
which is for weights of kernels alone; its own weights in another order, drawn for every mixture of every image, among
the cells that are the mixture's to use; that of another image of the batch, never its own."""
OF_KERNELS = ("maximum",)
"""Those that other attention than weights of kernels (ODConv's channels, filters, positions) is left out of."""


def perturbations_for(maps: AttentionMaps, layers: Collection[str] | None = None) -> list[str]:
    """Those of :data:`PERTURBATIONS` that change something: ODConv with one kernel has no largest of several.

    Args:
        maps: attention of a network.
        layers: names of those to change; all if not given.
    """
    mixes = any(one.kind in MIXING for one in maps.maps if layers is None or one.layer in layers)
    return [way for way in PERTURBATIONS if mixes or way not in OF_KERNELS]


@contextmanager
def perturbed(
    model: nn.Module, maps: AttentionMaps, how: str, layers: Collection[str] | None = None, seed: int = 0
) -> Iterator[None]:
    """Within it, layers attend otherwise, with all kinds of attention that they have.

    Args:
        model: the network whose attention was collected.
        maps: its attention, for the averages.
        how: one of :data:`PERTURBATIONS`.
        layers: names of those to change; all that attend if not given.
        seed: of the order of shuffled weights and images.

    Raises:
        DynaconvError: if the way or a layer is unknown, or the way changes nothing in these layers; within, if
            attention is to be that of another image and a batch has none.
    """
    if how not in PERTURBATIONS:
        raise DynaconvError(f"how={how!r}; expected one of {', '.join(PERTURBATIONS)}")
    known = attending_layers(model)
    means: dict[str, dict[str, Tensor]] = {}
    for one in maps.maps:
        means.setdefault(one.layer, {})[one.kind] = one.mean
    chosen = set(means) if layers is None else {layers} if isinstance(layers, str) else set(layers)
    if unknown := chosen - (set(means) & set(known)):
        there = ", ".join(sorted(set(means) & set(known))) or "none"
        raise DynaconvError(
            f"no attention of {', '.join(sorted(unknown))} was collected of this network; layers: {there}"
        )
    if not chosen:
        raise DynaconvError(f"layers={layers!r} names none; expected some of {', '.join(means)}")
    if how not in (possible := perturbations_for(maps, chosen)):
        raise DynaconvError(
            f"how={how!r} puts all weight on one kernel, and these layers weigh none against another (ODConv with "
            f"K = 1); expected one of {', '.join(possible)}"
        )
    change, generator, batch = PERTURBATIONS[how], torch.Generator().manual_seed(seed), _Batch()

    def watcher(name: str) -> Callable[[Attentions], Attentions]:
        columns = _own_columns(known[name])
        return lambda attentions: change(attentions, _Setting(name, means[name], columns, batch.images, generator))

    with batch.counted(model), watching({known[name]: watcher(name) for name in chosen}):
        yield


def _own_columns(layer: DynamicLayer) -> Tensor | None:
    return layer.attention.columns if isinstance(layer, WarehouseLayer) else None


class _Batch:
    """How many images a network is looking at; None while it is not called."""

    images: int | None = None

    @contextmanager
    def counted(self, model: nn.Module) -> Iterator[None]:
        """Within it, the network's calls are followed."""
        before = model.register_forward_pre_hook(self._begin, with_kwargs=True)
        after = model.register_forward_hook(self._end, always_call=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.images = next((len(x) for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.dim()), None)

    def _end(self, *_: Any) -> None:
        self.images = None
