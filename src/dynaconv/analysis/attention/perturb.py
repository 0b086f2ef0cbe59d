"""Attention otherwise than it was computed: does a network need it, and where?

The four ways are those of the DY-Conv paper's study of its attention (arXiv 1912.03458, "Is dynamic convolution
dynamic?"), carried over to attention that is signed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dynaconv.analysis.attention.maps import AttentionMaps
from dynaconv.errors import DynaconvError
from dynaconv.nn import attending_layers, watching
from dynaconv.nn.base import Attentions

Change = Callable[[Tensor, Tensor, torch.Generator], Tensor]


def _average(attention: Tensor, mean: Tensor, generator: torch.Generator) -> Tensor:
    return mean.expand_as(attention)


def _maximum(attention: Tensor, mean: Tensor, generator: torch.Generator) -> Tensor:
    """All weight of a mixture on the cell with the largest; its sign and the sum of absolute weights stay."""
    size = attention.abs()
    chosen = size.argmax(-1, keepdim=True)
    whole = size.sum(-1, keepdim=True) * attention.gather(-1, chosen).sign()
    return torch.zeros_like(attention).scatter(-1, chosen, whole)


def _within(attention: Tensor, mean: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.rand(attention.shape, generator=generator).argsort(-1).to(attention.device)
    return attention.gather(-1, order)


def _across(attention: Tensor, mean: Tensor, generator: torch.Generator) -> Tensor:
    return attention[torch.randperm(attention.shape[0], generator=generator).to(attention.device)]


PERTURBATIONS: dict[str, Change] = {
    "average": _average,
    "maximum": _maximum,
    "shuffled within images": _within,
    "shuffled across images": _across,
}
"""What attention is replaced by: its average over the data set; all on the cell with the largest weight; its own
weights in another order, drawn for every mixture of every image; that of another image of the batch."""


@contextmanager
def perturbed(
    model: nn.Module, maps: AttentionMaps, how: str, layers: Mapping[str, object] | None = None, seed: int = 0
) -> Iterator[None]:
    """Within it, layers attend otherwise; weights of kernels alone (cells, experts), no other kinds of attention.

    Args:
        model: the network whose attention was collected.
        maps: its attention, for the averages.
        how: one of :data:`PERTURBATIONS`.
        layers: names of those to change; all that mix kernels if not given.
        seed: of the order of shuffled weights.

    Raises:
        DynaconvError: if the way or a layer is unknown.
    """
    if how not in PERTURBATIONS:
        raise DynaconvError(f"how={how!r}; expected one of {', '.join(PERTURBATIONS)}")
    change, known = PERTURBATIONS[how], attending_layers(model)
    means = {(one.layer, one.kind): one.mean for one in maps.maps if one.kind in ("cells", "kernel")}
    chosen = {name for name, _ in means} if layers is None else set(layers)
    if unknown := chosen - {name for name, _ in means if name in known}:
        raise DynaconvError(f"no attention of {', '.join(sorted(unknown))} over kernels was collected of this network")
    generator = torch.Generator().manual_seed(seed)

    def watcher(name: str) -> Callable[[Attentions], Attentions]:
        def replace(attentions: Attentions) -> Attentions:
            changed = dict(attentions)
            for kind in ("cells", "kernel"):
                if kind in attentions:
                    attention = attentions[kind]
                    mean = means[name, kind].to(attention).reshape(attention.shape[1:])
                    changed[kind] = change(attention, mean, generator)
            return changed

        return replace

    with watching({known[name]: watcher(name) for name in chosen}):
        yield
