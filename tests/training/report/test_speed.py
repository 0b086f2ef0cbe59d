"""Times are those of the clock, in turn, in inference mode."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynaconv.training.report.speed import OURS, STATIC, measure_speed


class Noted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(2, 2, 1, 1)), []

    def forward(self, x):
        self.seen.append((tuple(x.shape), torch.is_inference_mode_enabled(), self.training))
        return x


@pytest.mark.parametrize(("one", "rounds", "high"), [(0.1, 25, 3), (1e-4, 100, 3), (10.0, 5, 2)])
def test_median_and_quartiles(one, rounds, high):
    asked = []

    def clock(functions, rounds, ready):
        asked.append(rounds)
        for function in functions.values():
            function()
        seconds = [one] * rounds
        return {OURS: [s * (1 + i % 3) for i, s in enumerate(seconds)], STATIC: seconds}

    networks = {OURS: Noted(), STATIC: Noted()}
    found = measure_speed(networks, (2, 5, 5), 3, clock=clock)
    assert asked == [1, rounds]
    assert (found.batch, found.rounds) == (3, rounds)
    assert found.seconds[OURS].middle == pytest.approx(2 * one)
    assert (found.ratio.low, found.ratio.middle, found.ratio.high) == pytest.approx((1, 2, high))
    for network in networks.values():
        assert network.seen == [((3, 2, 5, 5), True, False)] * 2


def test_a_network_alone_has_no_ratio():
    found = measure_speed({OURS: Noted()}, (2, 5, 5), 1, clock=lambda functions, rounds, ready: {OURS: [1.0] * rounds})
    assert found.ratio is None
    assert list(found.seconds) == [OURS]
