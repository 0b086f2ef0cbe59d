"""Windows of images: pixels, boxes and masks stay together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dynaconv.detection import DetectionAugmentConfig
from dynaconv.detection.data.vary import BEFORE, WINDOW, vary
from dynaconv.errors import DynaconvError

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]


def scene(height=90, width=140, masks=True):
    """Three rectangles, each in a colour of its own on black."""
    pixels = np.zeros((height, width, 3), np.uint8)
    drawn = torch.zeros(3, height, width, dtype=torch.uint8)
    boxes = []
    for number, (x, y, w, h) in enumerate([(2, 3, 30, 40), (60, 20, 50, 60), (118, 66, 20, 22)]):
        pixels[y : y + h, x : x + w] = COLOURS[number]
        drawn[number, y : y + h, x : x + w] = 1
        boxes.append([x, y, x + w, y + h])
    target = {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor([1, 2, 3])}
    target |= {"image_id": 5, "size": (height, width)} | ({"masks": drawn} if masks else {})
    return Image.fromarray(pixels), target


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("masks", [True, False])
def test_what_is_in_a_window_is_where_it_is_said_to_be(seed, masks):
    torch.manual_seed(seed)
    pixels, target = vary(*scene(masks=masks), DetectionAugmentConfig(flip=0.5, crop=1.0))
    height, width = pixels.shape[1:]
    assert WINDOW[0] <= height <= WINDOW[1]
    assert WINDOW[0] <= width <= WINDOW[1]
    assert len(target["labels"]) == len(target["boxes"]) == (len(target["masks"]) if masks else len(target["labels"]))
    for place, label in enumerate(target["labels"].tolist()):
        x1, y1, x2, y2 = target["boxes"][place].tolist()
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        seen = pixels[label - 1] > 0.6  # the colour of this object alone
        rows, columns = (torch.nonzero(seen.any(axis)).flatten() for axis in (1, 0))
        found = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        assert (found - target["boxes"][place]).abs().max() <= 4  # resizing blurs edges by some of the new pixels
        if masks:
            assert target["masks"].shape[1:] == (height, width)
            assert (seen ^ target["masks"][place].bool()).float().mean() < 0.02
    missing = {1, 2, 3} - set(target["labels"].tolist())
    assert all((pixels[label - 1] > 0.6).float().mean() < 0.02 for label in missing)
    assert (target["image_id"], target["size"]) == (5, (90, 140))


def test_a_window_is_drawn_as_often_as_asked():
    drawn = []
    for seed in range(60):
        torch.manual_seed(seed)
        drawn.append(vary(*scene(), DetectionAugmentConfig(flip=0.0, crop=0.5))[0].shape[1:] != (90, 140))
    assert 15 < sum(drawn) < 45
    torch.manual_seed(3)
    first = vary(*scene(), DetectionAugmentConfig(crop=1.0))
    torch.manual_seed(3)
    again = vary(*scene(), DetectionAugmentConfig(crop=1.0))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1]["boxes"], again[1]["boxes"])


def test_small_sides_stay_whole():
    torch.manual_seed(0)
    pixels, _ = vary(*scene(height=88, width=440), DetectionAugmentConfig(flip=0.0, crop=1.0))
    assert pixels.shape[1] <= max(BEFORE)
    assert pixels.shape[2] <= WINDOW[1]


def test_no_variation_is_the_image():
    image, target = scene()
    pixels, same = vary(image, target)
    assert torch.equal(pixels, torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255)
    assert same is target


def test_probabilities_are_checked():
    with pytest.raises(DynaconvError, match=r"augment\.crop=1.5; expected a probability"):
        DetectionAugmentConfig(crop=1.5)
