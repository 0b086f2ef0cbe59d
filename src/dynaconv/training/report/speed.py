"""How long a forward pass takes, of a network and of its static backbone, in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from dynaconv.analysis.timing import quartiles, ratio_quartiles, summarise, synchronizer, time_interleaved
from dynaconv.models.layout import use_channels_last

SECONDS = 5.0
"""That the rounds of one batch size are to take, as long as there are at least :data:`FEWEST` and at most
:data:`MOST` of them."""
FEWEST, MOST = 5, 100
OURS, STATIC = "this network", "static backbone"


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of one batch size.

    Args:
        batch: images.
        rounds: in each of which every network ran once.
        seconds: of a pass, by network.
        ratio: of this network's time to the static backbone's, within rounds; None where there is but one.
    """

    batch: int
    rounds: int
    seconds: Mapping[str, Spread]
    ratio: Spread | None


def measure_speed(
    networks: Mapping[str, nn.Module],
    input_size: Sequence[int],
    batch: int,
    device: str = "cpu",
    clock: Callable[..., dict[str, list[float]]] = time_interleaved,
) -> Timing:
    """Time forward passes over noise in inference mode, laid out channels_last.

    Args:
        networks: :data:`OURS`, and :data:`STATIC` if there is one; parameters of four dimensions are laid out anew.
        input_size: channels and sides of an image.
        batch: images.
        device: where the networks are.
        clock: takes functions, rounds and what to wait for, and gives seconds.
    """
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(batch, *input_size, generator=draw).to(device).contiguous(memory_format=torch.channels_last)

    def forward(model: nn.Module) -> Callable[[], None]:
        use_channels_last(model.eval())

        def run() -> None:
            with torch.inference_mode():
                model(images)

        return run

    passes = {name: forward(model) for name, model in networks.items()}
    ready = synchronizer(device)
    tried = clock(passes, 1, ready)  # after a warm-up, in which kernels may be compiled
    rounds = max(FEWEST, min(MOST, int(SECONDS / max(sum(map(sum, tried.values())), 1e-9))))
    found = clock(passes, rounds, ready)
    ratio = None
    if STATIC in found:
        pair = found[OURS], found[STATIC]
        ratio = Spread(summarise(*pair)["ratio"], *ratio_quartiles(*pair))
    spreads = {name: Spread(median(values), *quartiles(values)) for name, values in found.items()}
    return Timing(batch=batch, rounds=rounds, seconds=spreads, ratio=ratio)
