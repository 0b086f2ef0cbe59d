"""Functions are timed in turn, and related to each other within rounds."""

from __future__ import annotations

import torch

from dynaconv.analysis.timing import ratio_quartiles, summarise, synchronizer, time_interleaved


def test_time_is_taken_in_turn():
    calls = []
    seconds = time_interleaved({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=4, warm_up=1)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 4, "b": 4, "c": 4}
    assert all(set(calls[i : i + 3]) == set("abc") for i in range(0, 15, 3))
    assert len({tuple(calls[i : i + 3]) for i in range(0, 15, 3)}) > 1  # in changing order


def test_ratio_is_within_rounds():
    """A machine that halves its speed midway changes medians, and not the ratio."""
    assert summarise([2, 2, 4, 4, 4], [1, 1, 2, 2, 2])["ratio"] == 2
    assert summarise([2.0], None, per=4) == {"median": 0.5, "lowest": 0.5, "highest": 0.5, "ratio": None}


def test_slow_functions_run_in_the_first_rounds_alone():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = time_interleaved(functions, rounds=5, warm_up=2, limits={"b": 2})
    assert {name: len(values) for name, values in seconds.items()} == {"a": 5, "b": 2}
    assert calls[:2] == ["a", "a"]  # no warm-up for the slow one
    assert calls.count("b") == 2
    assert summarise([3.0, 3.0], [1.0, 1.0, 9.0])["ratio"] == 3.0


def test_quartiles_of_ratios():
    assert ratio_quartiles([1, 2, 3, 4, 5], [1, 1, 1, 1, 1]) == (2, 4)
    assert ratio_quartiles([3.0], [2.0]) == (1.5, 1.5)


def test_the_clock_waits_for_any_accelerator(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    for device in ("mps", "cuda:1", "cpu"):
        synchronizer(device)()
    assert waited == [torch.device("mps"), torch.device("cuda:1")]
