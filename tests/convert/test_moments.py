"""What layers see: mean squares of inputs, and statistics of normalisations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dynaconv
from dynaconv.convert.moments import input_moments
from dynaconv.errors import DynaconvError


def test_moments_are_mean_squares():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.Conv1d(4, 5, 1), nn.Linear(9, 2)).eval()
    x, y = torch.randn(2, 3, 5, 5), torch.randn(7, 3, 5, 5)
    moments = input_moments(model, ["0", "2", "3"], [x, y])
    both = torch.cat([x, y])
    torch.testing.assert_close(moments["0"].float(), both.square().mean((0, 2, 3)))
    torch.testing.assert_close(moments["2"].float(), model[:2](both).square().mean((0, 2)))
    torch.testing.assert_close(moments["3"].float(), model[:3](both).square().mean((0, 1)))
    single = input_moments(model[:1], ["0"], [x[0]])
    torch.testing.assert_close(single["0"].float(), x[0].square().mean((1, 2)))


def test_statistics_are_means_over_the_batches():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=0.3))
    model.train()
    model[0].eval()
    batches = [torch.randn(4, 3, 5, 5) * 2 + 1, (torch.randn(4, 3, 5, 5), "label")]
    weights = [p.detach().clone() for p in model.parameters()]
    assert dynaconv.recalibrate_norms(model, batches) is model
    means = torch.stack([batches[0].mean((0, 2, 3)), batches[1][0].mean((0, 2, 3))]).mean(0)
    torch.testing.assert_close(model[0].running_mean, means)
    assert [m.training for m in model] == [False, True, True, True]
    assert model[3].momentum == 0.3
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_no_batch_changes_nothing():
    model = nn.Sequential(nn.BatchNorm1d(3))
    model(torch.randn(5, 3))
    before = model[0].running_mean.clone()
    with pytest.raises(DynaconvError, match="no batch"):
        dynaconv.recalibrate_norms(model, [])
    assert torch.equal(model[0].running_mean, before)
