"""Measuring instead of guessing: the fastest of several ways to compute a layer, remembered by its shapes."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch

ROUNDS = 3

_fastest: dict[Hashable, str] = {}


def fastest(key: Hashable, candidates: Mapping[str, Callable[[], Any]], synchronize: Callable[[], None]) -> str:
    """Name of the candidate that takes least time, measured when a key is new, without gradients.

    Args:
        key: what the answer depends on: shapes, type, device.
        candidates: what to measure, by name.
        synchronize: called before the clock is read.
    """
    if key not in _fastest:
        best: dict[str, float] = {}
        with torch.no_grad():
            for turn in range(1 + ROUNDS):
                for name, run in candidates.items():
                    synchronize()
                    began = time.perf_counter()
                    run()
                    synchronize()
                    if turn:
                        best[name] = min(best.get(name, float("inf")), time.perf_counter() - began)
        _fastest[key] = min(best, key=best.__getitem__)
    return _fastest[key]
