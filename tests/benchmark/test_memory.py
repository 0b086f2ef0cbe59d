"""Peak memory of a pass holds what the pass needs, and is the process's own."""

from __future__ import annotations

import pytest

from dynaconv.benchmark.memory import excess, peak_of_pass

REQUEST = {
    "contender": "ours",
    "network": "se_mobilenetv2_050",
    "training": False,
    "image_size": 64,
    "device": "cpu",
    "max_extra_mb": 0,
}


def test_memory_grows_with_the_batch():
    small, large = (peak_of_pass({**REQUEST, "batch": batch}) for batch in (8, 64))
    assert large - small > 56 * 3 * 64 * 64 * 4  # the images alone


@pytest.mark.parametrize("missing", ["static_channels_last", "ours", "textbook"])
def test_no_share_without_all_three(missing):
    peaks = {"static_channels_last": 10, "ours": 13, "textbook": 20}
    assert excess(peaks)["share_of_textbook"] == 0.3
    del peaks[missing]
    assert excess(peaks)["share_of_textbook"] is None


def test_no_share_of_less_than_nothing():
    assert excess({"static_channels_last": 10, "ours": 8, "textbook": 9}) == {
        "bytes": {"ours": -2, "textbook": -1},
        "share_of_textbook": None,
    }
