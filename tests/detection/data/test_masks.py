"""Masks against pycocotools, and run lengths that pycocotools must not see."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as coco
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dynaconv.detection.data.masks import _read_counts, check_segmentation, to_pixels, to_rle


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=70), elements=st.integers(0, 1)))
@settings(max_examples=60, deadline=None)
def test_run_lengths_are_read_as_they_were_written(mask):
    height, width = mask.shape
    text = coco.encode(np.asfortranarray(mask))["counts"].decode()
    changes = np.flatnonzero(np.diff(mask.flatten(order="F"), prepend=0))
    expected = np.diff(np.concatenate([[0], changes, [mask.size]]))
    assert _read_counts(text).tolist() == expected.tolist()
    for counts in (text, expected.tolist()):
        value = {"size": [height, width], "counts": counts}
        assert check_segmentation(value, height, width) == (value, [])
        np.testing.assert_array_equal(to_pixels([value], height, width)[0], mask)


@given(st.text(max_size=20) | st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=40))
@settings(max_examples=200, deadline=None)
def test_whatever_the_text_it_fills_the_image_or_is_refused(text):
    value, kinds = check_segmentation({"size": [4, 6], "counts": text}, 4, 6)
    assert (value is None) == (kinds == ["mask_counts"])
    if value is not None:
        assert coco.decode(value).shape == (4, 6)


def test_a_far_run_is_refused():
    far = coco.frPyObjects({"size": [1000, 1000], "counts": [500_000, 500_000]}, 1000, 1000)["counts"].decode()
    assert check_segmentation({"size": [1000, 1000], "counts": far}, 1000, 1000)[1] == []
    assert check_segmentation({"size": [10, 10], "counts": far}, 10, 10) == (None, ["mask_counts"])


def test_runs_below_zero_are_refused():
    assert _read_counts("n0J").tolist() == [30, -6]
    assert check_segmentation({"size": [4, 6], "counts": "n0J"}, 4, 6)[1] == ["mask_counts"]


def test_numbers_of_more_digits_than_any_run_are_refused():
    assert check_segmentation({"size": [4, 6], "counts": "hP0"}, 4, 6)[1] == []  # 24 and a zero before it
    assert check_segmentation({"size": [4, 6], "counts": "h" + "P" * 20 + "0"}, 4, 6)[1] == ["mask_counts"]


@pytest.mark.parametrize("shift", [-30, -5, 0, 5, 35])
def test_polygons_are_drawn_together_and_cut_at_the_edge(shift):
    parts = [[1.0 + shift, 1.0, 9.0 + shift, 1.0, 9.0 + shift, 9.0], [0, 0, 20, 0, 20, 5, 0, 5]]
    value, kinds = check_segmentation(parts, 30, 40)
    assert (value, kinds) == (parts, [])
    single = [to_pixels([[part]], 30, 40)[0] for part in parts]
    np.testing.assert_array_equal(to_pixels([parts], 30, 40)[0], np.maximum(*single))
    assert coco.area(to_rle(parts, 30, 40)) == np.maximum(*single).sum()


def test_no_masks():
    assert to_pixels([], 3, 4).shape == (0, 3, 4)
