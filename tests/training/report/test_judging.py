"""Sums over batches against figures that are counted by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dynaconv import DynaconvError
from dynaconv.training.report.judging import Judge, as_pixels
from tests.training.report.made import CLASSES, judge


def test_figures_of_eight_images():
    found = judge().result()
    assert (found.images, found.top1, found.top5) == (8, 5 / 8, None)
    assert found.matrix == ((3, 1, 0), (1, 2, 1), (0, 0, 0))
    assert [(one.name, one.images, one.right) for one in found.by_class] == [(CLASSES[0], 4, 3), (CLASSES[1], 4, 2)]
    assert [one.name for one in found.worst] == [CLASSES[1], CLASSES[0]]
    assert {(one.true, one.predicted, one.count) for one in found.confusions} == {
        (CLASSES[0], CLASSES[1], 1),
        (CLASSES[1], CLASSES[0], 1),
        (CLASSES[1], CLASSES[2], 1),
    }
    assert [one.number for one in found.sure_right] == [5, 1, 4, 2, 0]
    assert [(one.number, one.true, one.predicted) for one in found.sure_wrong] == [(6, 1, 0), (3, 0, 1), (7, 1, 2)]
    surest = math.exp(6) / (math.exp(6) + 2)
    assert found.sure_right[0].probability == pytest.approx(surest)
    right = [math.log(1 + 2 * math.exp(-s)) for s in (1, 5, 3, 4, 6)]
    wrong = [math.log(math.exp(s) + 2) for s in (2, 3, 1)]
    assert found.loss == pytest.approx((sum(right) + sum(wrong)) / 8)


def test_batches_make_no_difference_and_few_images_are_kept():
    generator = torch.Generator().manual_seed(3)
    images, labels = torch.randn(50, 3, 4, 4, generator=generator), torch.randint(30, (50,), generator=generator)
    logits = torch.randn(50, 30, generator=generator)
    logits[::2, :] += 3 * torch.nn.functional.one_hot(labels[::2], 30)
    whole, parts = Judge([f"c{i}" for i in range(30)], shown=4), Judge([f"c{i}" for i in range(30)], shown=4)
    whole.add(images, labels, logits)
    for part in zip(images.split(7), labels.split(7), logits.split(7), strict=True):
        parts.add(*part)
    one, other = whole.result(), parts.result()
    assert one.loss == pytest.approx(other.loss)
    assert (one.top1, one.top5, one.by_class) == (other.top1, other.top5, other.by_class)
    assert one.top5 == float((logits.argsort(1, descending=True)[:, :5] == labels.unsqueeze(1)).any(1).double().mean())
    assert one.matrix is None
    for left, right in ((one.sure_right, other.sure_right), (one.sure_wrong, other.sure_wrong)):
        assert [example.number for example in left] == [example.number for example in right]
        assert len(left) == 4
        assert all(torch.equal(example.image, images[example.number]) for example in right)


def test_without_images_there_is_nothing_to_say():
    with pytest.raises(DynaconvError, match="no validation image"):
        Judge(["a"]).result()


def test_pixels_are_those_before_normalising():
    pixels = torch.tensor([0, 7, 128, 255], dtype=torch.uint8).view(1, 2, 2).expand(3, 2, 2)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normal = (pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert torch.equal(as_pixels(normal, mean, std), pixels)
