"""Pictures of figures hold these figures, and can be written however many there are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dynaconv import DynaconvError
from dynaconv.analysis.attention import AttentionMaps
from dynaconv.analysis.attention import summaries as summaries_of
from dynaconv.analysis.attention.pictures import TALLEST_INCHES
from dynaconv.analysis.figures import save_figure
from tests.analysis.attention.test_pictures import drawn, make


@pytest.fixture
def maps():
    return AttentionMaps((make("a", "w", 4, 6), make("b", "w", 3, 6), make("c", "c", 1, 2, "kernel")))


def test_similarity_is_the_cosine_of_cells(maps):
    cells = {"w": torch.randn(6, 4, 2, 3, 3)}
    similar = drawn(summaries_of.draw_similarity(maps, cells))
    np.testing.assert_allclose(similar[0].diagonal(), 1)
    flat = cells["w"].double().flatten(1)
    np.testing.assert_allclose(similar[0][0, 1], torch.cosine_similarity(flat[0], flat[1], dim=0))


def test_bars_of_perturbations_leave_out_what_was_not_judged():
    found = {"as it is": {"": 0.9}, "all": {"average": 0.5, "maximum": 0.1}, "layer1": {"average": 0.4}}
    bars = summaries_of.draw_perturbations(found).axes[0].patches
    assert [round(bar.get_height()) for bar in bars] == [50, 40, 10]
    centres = [bar.get_x() + bar.get_width() / 2 for bar in bars]
    np.testing.assert_allclose(centres, [-0.2, 0.8, 0.2])


def test_usage_and_weights_are_written(maps, tmp_path):
    for name, figure in (("u", summaries_of.draw_usage(maps)), ("w", summaries_of.draw_weights(maps))):
        assert save_figure(figure, tmp_path / f"{name}.png").read_bytes()[1:4] == b"PNG"
        assert save_figure(figure, tmp_path / f"{name}.svg").read_text().startswith("<?xml")
    with pytest.raises(DynaconvError, match="no warehouse"):
        summaries_of.draw_usage(AttentionMaps(maps.maps[2:]))


def test_weights_of_every_kind_have_a_row(maps):
    both = tuple(make("a", "a", 1, size, kind) for kind, size in (("channel", 8), ("spatial", 9)))
    left, right, _ = summaries_of.draw_weights(AttentionMaps(both)).axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["a channel", "a spatial"]
    negative = [-bar.get_width() for bar in right.patches[:2]]
    np.testing.assert_allclose(negative, [one.negative_share for one in both])
    many = tuple(replace(both[0], layer=f"layer{i}") for i in range(250))
    axes = summaries_of.draw_weights(AttentionMaps(many)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["layer0", "layer3"]


def test_any_number_of_warehouses_is_below_the_largest_picture():
    layers = tuple(make(f"l{i}", f"w{i}", 1, 2) for i in range(160))
    maps = AttentionMaps(layers)
    figure = summaries_of.draw_similarity(maps, {one.group: torch.eye(2) for one in layers})
    assert figure.get_figheight() == TALLEST_INCHES
    assert TALLEST_INCHES * 120 < 2**16
