"""Attention is summed where there is float64, which not every device has."""

from __future__ import annotations

import torch

from dynaconv.analysis.attention.collect import _Sum


def test_sums_are_kept_on_the_cpu():
    kept = _Sum.over(torch.empty(2, 3, device="meta"), 4)  # a device other than the CPU that every machine has
    sums = (kept.total, kept.square, kept.size, kept.by_class, kept.seen, kept.histogram)
    assert {(one.device.type, one.dtype) for one in sums} == {("cpu", torch.float64)}
