"""The picture of a benchmark of runtimes: a panel a network, a group of bars a runtime and batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynaconv.benchmark.picture import Group
from dynaconv.benchmark.runtimes.settings import TITLES
from dynaconv.benchmark.runtimes.ways import SIDES, STATIC

COLOURS = {SIDES[side]: f"C{index}" for index, side in enumerate(side for side in SIDES if side != STATIC)}


def groups(network: Mapping[str, Any]) -> list[Group]:
    """What a network's panel shows.

    Args:
        network: an entry of ``networks`` in the benchmark's JSON file.
    """
    found = []
    for timing in network["timings"]:
        ratios = {
            SIDES[side]: (entry["seconds_per_image"]["ratio"], *entry["ratio_quartiles"])
            for side, entry in timing["sides"].items()
            if side != STATIC and entry["ratio_quartiles"] is not None
        }
        found.append(Group(f"{TITLES[timing['runtime']]}\n{timing['batch']}", ratios, None))
    return found
