"""Pictures hold the numbers that they are of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dynaconv import DynaconvError
from dynaconv.analysis.attention import AttentionMap, AttentionMaps
from dynaconv.analysis.attention import pictures as pictures_of


def make(layer, group, m, n, kind="cells", assigned=()):
    generator = torch.Generator().manual_seed(m * n)
    mean = torch.randn(m, n, generator=generator, dtype=torch.float64) / n
    return AttentionMap(
        layer=layer,
        kind=kind,
        group=group,
        images=20,
        mean=mean,
        size=mean.abs() * 1.5,
        spread=mean.abs() / 2,
        histogram=torch.histc(mean.float(), 201, -1, 1).double(),
        negative=int((mean < 0).sum()),
        positive=int((mean > 0).sum()),
        by_class=torch.stack([mean + 0.1, mean - 0.1]),
        assigned=assigned,
    )


@pytest.fixture
def maps():
    diagonal = tuple((i, i) for i in range(4))
    shared = [make("a", "w", 4, 6, assigned=diagonal), make("b", "w", 3, 6, assigned=((0, 4),))]
    return AttentionMaps(
        (*shared, make("c", "c", 1, 2, "kernel"), make("d", "d", 1, 2, "kernel")), ("cat", "dog"), temperature=0.5
    )


def drawn(figure):
    return [np.asarray(image.get_array()) for axes in figure.axes for image in axes.images]


def test_a_sheet_has_every_mixture_the_layers_and_the_assignment(maps):
    figure = pictures_of.draw_sheet(maps, "w")
    (values,) = drawn(figure)
    np.testing.assert_array_equal(values, torch.cat([one.mean for one in maps.maps[:2]]).numpy())
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [line.get_ydata()[0] for line in axes.lines] == [3.5]  # between the layers
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), [(i, i) for i in range(4)] + [(4, 4)])
    assert "7 mixtures of 2 layers over 6 cells, 20 images, temperature 0.5" in figure.get_suptitle()


def test_the_scale_ends_where_the_assignment_is_left_out(maps):
    maps.maps[0].mean[1, 1] = 5.0
    (image,) = pictures_of.draw_sheet(maps, "w").axes[0].images
    assert image.get_clim()[1] == -image.get_clim()[0] < 5


def test_layers_with_as_many_kernels_share_a_sheet(maps):
    assert list(pictures_of.sheets(maps)) == ["w", "2 kernels"]
    (values,) = drawn(pictures_of.draw_sheet(maps, "2 kernels"))
    assert values.shape == (2, 2)


def test_classes_are_shown_as_differences(maps):
    values = drawn(pictures_of.draw_classes(maps, "w"))
    assert [np.unique(v.round(6)).tolist() for v in values] == [[0.1], [-0.1]]


def test_two_images_and_their_difference(maps):
    attention = {("a", "cells"): torch.randn(2, 4, 6), ("b", "cells"): torch.randn(2, 3, 6)}
    images = [("x", torch.rand(1, 5, 5)), ("x", torch.rand(3, 5, 5))]
    *_, first, second, apart = drawn(pictures_of.draw_images(images, attention, maps, "w"))
    np.testing.assert_allclose(apart, first - second)
    with pytest.raises(DynaconvError, match="1 images; expected two"):
        pictures_of.draw_images(images[:1], attention, maps, "w")


def test_what_is_not_there_is_told(maps):
    with pytest.raises(DynaconvError, match="no sheet 'x'; expected one of w, 2 kernels"):
        pictures_of.draw_sheet(maps, "x")
    bare = AttentionMaps(maps.maps[2:], ())
    with pytest.raises(DynaconvError, match="no averages by class"):
        pictures_of.draw_classes(bare, "2 kernels")


@pytest.fixture
def scales():
    """Two layers of ODConv with one kernel; classes of which the second has no image."""
    kinds = [("a", "channel", 4), ("a", "spatial", 9), ("b", "channel", 8), ("b", "spatial", 9)]
    layers = [make(layer, layer, 1, size, kind) for layer, kind, size in kinds]
    for one in layers:
        one.by_class[1] = float("nan")
    return AttentionMaps(tuple(layers), ("cat", "dog"), class_images=(20, 0))


def test_other_kinds_have_a_sheet_each_and_rows_of_one_width(scales):
    assert pictures_of.sheets(scales) == {}
    assert list(pictures_of.scale_sheets(scales)) == ["channel", "spatial"]
    figure = pictures_of.draw_sheet(scales, "channel")
    (values,) = drawn(figure)
    narrow, wide = scales.maps[0].mean[0], scales.maps[2].mean[0]
    np.testing.assert_array_equal(values, torch.stack([narrow.repeat_interleave(2), wide]).numpy())
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]
    assert figure.axes[0].get_xlabel() == "input channels, first to last"
    assert figure.axes[0].images[0].get_clim() == (values.min(), values.max())
    (values,) = drawn(pictures_of.draw_sheet(scales, "spatial"))
    assert values.shape == (2, 9)


def test_two_images_of_other_kinds(scales):
    attention = {("a", "channel"): torch.rand(2, 1, 4), ("b", "channel"): torch.rand(2, 1, 8)}
    images = [("x", torch.rand(1, 5, 5)), ("y", torch.rand(1, 5, 5))]
    *_, first, second, apart = drawn(pictures_of.draw_images(images, attention, scales, "channel"))
    np.testing.assert_allclose(apart, first - second)
    np.testing.assert_array_equal(first[1], attention["b", "channel"][0, 0].double().numpy())


def test_classes_without_images_are_named_and_not_drawn(scales):
    figure = pictures_of.draw_classes(scales, "channel")
    (values,) = drawn(figure)
    np.testing.assert_allclose(values, 0.1)
    assert figure.get_supxlabel() == "no image of dog"
    with pytest.raises(DynaconvError, match="no image of the classes dog"):
        pictures_of.draw_classes(scales, "channel", ["dog"])


def test_classes_can_be_drawn_page_by_page(maps):
    (values,) = drawn(pictures_of.draw_classes(maps, "w", ["dog"]))
    np.testing.assert_allclose(values, -0.1)
