"""What is drawn where."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dynaconv.detection.drawing import MASK_OPACITY, PALETTE, class_color, contact_sheet, draw_detections
from dynaconv.errors import DynaconvError

BOX = torch.tensor([[40.0, 50.0, 120.0, 90.0]])


def plain(mode="RGB", size=(200, 150), value=128):
    return Image.new("RGB", size, (value,) * 3).convert(mode)


def changed(picture, value=128):
    return (np.asarray(picture) != value).any(axis=2)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_box_is_outlined_in_its_class_color_and_shows_on_any_ground(value):
    picture = np.asarray(draw_detections(plain(value=value), BOX, [2]))
    assert tuple(picture[70, 40]) == class_color(2)
    assert tuple(picture[90, 100]) == class_color(2)
    assert not changed(picture[60:80, 50:110], value).any()
    assert not changed(picture[100:, :], value).any()
    assert not changed(picture[:, 130:], value).any()
    for label in range(1, 22):  # whatever the colour, something of the line differs much from the ground
        line = np.asarray(draw_detections(plain(value=value), BOX, [label])).astype(int)[70, 36:46]
        assert abs(line - value).max() > 80


def test_masks_are_tinted_within_and_traced_at_the_rim():
    masks = torch.zeros(1, 1, 150, 200, dtype=torch.bool)
    masks[0, 0, 60:80, 60:100] = True
    picture = np.asarray(draw_detections(plain(), BOX, [1], masks=masks))
    tinted = [128 + MASK_OPACITY * (value - 128) for value in class_color(1)]
    assert np.abs(picture[70, 80] - np.array(tinted)).max() <= 1
    assert tuple(picture[60, 80]) == tuple(picture[79, 80]) == tuple(picture[70, 60]) == class_color(1)
    assert not changed(picture[55:59, 50:110]).any()


def test_small_objects_lie_on_top():
    boxes = torch.tensor([[50.0, 60.0, 60.0, 70.0], [20.0, 30.0, 180.0, 140.0]])
    masks = torch.zeros(2, 150, 200, dtype=torch.bool)
    masks[0, 60:70, 50:60] = masks[1, 30:140, 20:180] = True
    once = [128 + MASK_OPACITY * (value - 128) for value in class_color(2)]
    twice = [value + MASK_OPACITY * (own - value) for value, own in zip(once, class_color(1), strict=True)]
    for order in ([0, 1], [1, 0]):
        labels = [[1, 2][i] for i in order]
        picture = np.asarray(draw_detections(plain(), boxes[order], labels, masks=masks[order]))
        assert np.abs(picture[65, 55] - np.array(twice)).max() <= 1


def test_names_and_scores_are_written_beside_their_box():
    bare = np.asarray(draw_detections(plain(), BOX, [1], classes=["cat"]))
    named = np.asarray(draw_detections(plain(), BOX, [1], [0.87], classes=["cat"]))
    rows, columns = np.nonzero((bare != named).any(axis=2))
    assert len(rows)
    assert 30 < rows.min() <= rows.max() < 51
    assert 40 < columns.min() <= columns.max() < 120
    other = np.asarray(draw_detections(plain(), BOX, [1], [0.86], classes=["cat"]))
    assert (other != named).any()


def test_names_do_not_cover_each_other():
    boxes = torch.tensor([[40.0, 50.0, 120.0, 90.0]] * 4)
    counts = []
    for count in (1, 4):
        labels = list(range(1, count + 1))
        picture = np.asarray(draw_detections(plain(), boxes[:count], labels, [0.9] * count))
        counts.append((picture == class_color(1)).all(axis=2).sum())
    assert counts[1] > 0.3 * counts[0]


@pytest.mark.parametrize("box", [[-30, -30, 20, 10], [180, 130, 260, 260], [0, 0, 200, 150], [50, 50, 50, 50]])
def test_boxes_at_and_beyond_the_edge(box):
    picture = draw_detections(plain(), [box], [1], [0.5], classes=["a name that is much longer than its box"])
    assert picture.size == (200, 150)
    assert changed(picture).any()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_nothing_found_is_the_plain_image(mode):
    image = plain(mode)
    empty = torch.zeros(0, 1, 150, 200)
    for masks in (None, empty):
        picture = draw_detections(image, torch.zeros(0, 4), [], [], masks)
        assert picture.mode == "RGB"
        assert (np.asarray(picture) == np.asarray(image.convert("RGB"))).all()


def test_the_given_image_stays_as_it_is():
    image = plain()
    draw_detections(image, BOX, [1], [0.5], torch.ones(1, 150, 200, dtype=torch.bool))
    assert not changed(image).any()


def test_enlarged_for_small_images():
    masks = torch.zeros(1, 150, 200, dtype=torch.bool)
    masks[0, 60:80, 60:100] = True
    picture = np.asarray(draw_detections(plain(), BOX, [1], masks=masks, scale=3))
    assert picture.shape == (450, 600, 3)
    assert tuple(picture[210, 120]) == class_color(1)
    assert changed(picture[200:220, 190:290]).all()


def test_text_grows_with_the_image():
    heights = []
    for factor in (2, 10):
        image = plain(size=(200 * factor, 150 * factor))
        bare, named = (
            np.asarray(draw_detections(image, BOX * factor, [1], scores)).astype(int) for scores in (None, [0.8])
        )
        rows, _ = np.nonzero((bare != named).any(axis=2))
        heights.append(np.ptp(rows))
    assert heights[1] > 3 * heights[0]


def test_colors_are_distinct():
    colors = [class_color(label) for label in range(1, 22)]
    assert len(set(colors)) == 21
    assert colors[:7] == list(PALETTE)
    assert class_color(22) == class_color(1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"labels": [1, 2]}, "1 boxes came with 2 labels"),
        ({"labels": [1], "scores": []}, "1 labels, 0 scores"),
        ({"labels": [1], "masks": torch.ones(2, 150, 200)}, "2 masks"),
        ({"labels": [1], "masks": torch.ones(1, 20, 30)}, "30x20 pixels and the image 200x150"),
    ],
)
def test_errors(arguments, words):
    with pytest.raises(DynaconvError, match=words):
        draw_detections(plain(), BOX, **arguments)


def test_contact_sheet():
    images = [plain(value=10), plain(size=(1000, 500), value=60), plain(size=(50, 90), value=110)]
    sheet = np.asarray(contact_sheet(images, 2, ["one", "two", "three"], cell=100))
    values, counts = np.unique(sheet.reshape(-1, 3), axis=0, return_counts=True)
    areas = {tuple(value): count for value, count in zip(values.tolist(), counts.tolist(), strict=True)}
    assert areas[10, 10, 10] >= 100 * 75
    assert areas[60, 60, 60] >= 100 * 50
    assert areas[110, 110, 110] >= 50 * 90
    rows, columns = (np.nonzero((sheet == 110).all(axis=2))[axis].mean() for axis in (0, 1))
    assert rows > sheet.shape[0] / 2
    assert columns < sheet.shape[1] / 2
    assert contact_sheet(images[:1], 3).width < 220
    assert (np.asarray(contact_sheet(images, 3, ["x"] * 3)) == 0).any()


@pytest.mark.parametrize(("count", "columns", "titles"), [(0, 1, []), (2, 0, []), (2, 1, ["one"])])
def test_contact_sheet_errors(count, columns, titles):
    with pytest.raises(DynaconvError, match="expected at least one image"):
        contact_sheet([plain()] * count, columns, titles)
