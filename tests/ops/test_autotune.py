"""Measuring backends: the fastest wins, and a shape is measured once."""

import time

from dynaconv.ops import autotune


def test_the_fastest_wins_and_is_remembered(monkeypatch):
    monkeypatch.setattr(autotune, "_fastest", {})
    calls = []

    def slow():
        calls.append("slow")
        time.sleep(0.02)

    def quick():
        calls.append("quick")

    candidates = {"slow": slow, "quick": quick}
    assert autotune.fastest("a shape", candidates, lambda: None) == "quick"
    assert calls.count("slow") == calls.count("quick") == 1 + autotune.ROUNDS
    assert autotune.fastest("a shape", candidates, lambda: None) == "quick"
    assert len(calls) == 2 * (1 + autotune.ROUNDS)  # nothing ran again
    assert autotune.fastest("another shape", {"slow": slow}, lambda: None) == "slow"
