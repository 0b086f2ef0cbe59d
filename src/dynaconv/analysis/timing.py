"""Seconds of several functions side by side.

Fair by construction: one process, and in every round each function runs once, in an order drawn anew, so that a machine
that grows slower, or a neighbour that wakes up, meets all of them. Ratios are taken within rounds.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median, quantiles
from typing import Any

import torch

WARM_UP_ROUNDS = 2


def synchronizer(device: str | torch.device) -> Callable[[], None]:
    """What waits until a device has done all that it was asked for, to be called before the clock is read.

    Args:
        device: as PyTorch names it, such as ``cuda`` or ``mps``; the CPU keeps nobody waiting.

    Example:
        >>> synchronizer("cpu")()
    """
    place = torch.device(device)
    if place.type == "cpu":
        return lambda: None
    return partial(torch.accelerator.synchronize, place)


def time_interleaved(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    synchronize: Callable[[], None] = lambda: None,
    warm_up: int = WARM_UP_ROUNDS,
    limits: Mapping[str, int] | None = None,
    rest: float = 0.0,
) -> dict[str, list[float]]:
    """Time functions in turn.

    Args:
        functions: what to time, by name.
        rounds: how often each runs.
        synchronize: called before the clock is read.
        warm_up: further rounds before, which do not count.
        limits: of functions so slow that they sit out the warm-up and all but the first so many rounds, by name.
        rest: seconds of sleep before each, in which another runtime's threads give up waiting for more work.

    Returns:
        Seconds of every round, by name; fewer where there is a limit.
    """
    limits = limits or {}
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    order, draw = list(functions), random.Random(0)
    for turn in range(-warm_up, rounds):
        draw.shuffle(order)
        for name in order:
            if name in limits and not 0 <= turn < limits[name]:
                continue
            if rest:
                time.sleep(rest)
            synchronize()
            began = time.perf_counter()
            functions[name]()
            synchronize()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def summarise(seconds: Sequence[float], reference: Sequence[float] | None, per: int = 1) -> dict[str, Any]:
    """Median, extremes and ratio of timings.

    Args:
        seconds: of every round.
        reference: seconds of the network to relate to, in the same rounds; None for no ratio.
        per: what to divide the seconds by, such as the images of a batch; not the ratio.

    Example:
        >>> summarise([2.0, 4.0, 3.0], [1.0, 1.0, 2.0])
        {'median': 3.0, 'lowest': 2.0, 'highest': 4.0, 'ratio': 2.0}
    """
    return {
        "median": median(seconds) / per,
        "lowest": min(seconds) / per,
        "highest": max(seconds) / per,
        "ratio": None if reference is None else median(_ratios(seconds, reference)),
    }


def ratio_quartiles(seconds: Sequence[float], reference: Sequence[float]) -> tuple[float, float]:
    """First and third quartile of the ratios within rounds; a single round is both.

    Args:
        seconds: of every round.
        reference: seconds of the network to relate to.

    Example:
        >>> ratio_quartiles([2.0, 4.0, 3.0], [1.0, 1.0, 1.0])
        (2.5, 3.5)
    """
    return quartiles(_ratios(seconds, reference))


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile; a single value is both.

    Example:
        >>> quartiles([1.0, 2.0, 3.0])
        (1.5, 2.5)
    """
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = quantiles(values, n=4, method="inclusive")
    return first, third


def _ratios(seconds: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Ratios of the rounds that both have run, which are the first ones of both."""
    return [a / b for a, b in zip(seconds, reference, strict=False)]
