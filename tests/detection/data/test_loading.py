"""Flips of images with their objects, and batches of images of one shape."""

from __future__ import annotations

from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dynaconv.detection import DetectionAugmentConfig
from dynaconv.detection.data.loading import CocoDataset, ShapeBatches
from dynaconv.detection.data.vary import vary
from dynaconv.training.data.sampling import EpochBatches, ResumableLoader
from tests.detection.data.coco_sets import make_content, write_set
from tests.detection.data.test_images import opened


@pytest.mark.parametrize("masks", [True, False])
def test_a_flip_turns_everything(tmp_path, masks):
    images = opened(write_set(tmp_path, make_content(8)), masks)
    for index in range(8):
        image, target = images[index]
        plain, same = vary(image, dict(target))
        pixels, flipped = vary(image, dict(target), DetectionAugmentConfig(flip=1.0))
        width = target["size"][1]
        assert (plain.dtype, type(pixels), plain.shape[0]) == (torch.float32, torch.Tensor, 3)
        torch.testing.assert_close(plain[0], torch.arange(width).expand(target["size"]) / 255)
        assert torch.equal(pixels, plain.flip(-1))
        assert {type(value) for value in flipped.values()} <= {torch.Tensor, int, tuple}
        assert flipped.keys() == target.keys() == same.keys()
        assert torch.equal(flipped["labels"], target["labels"])
        left, top, right, bottom = target["boxes"].unbind(1)
        assert torch.equal(flipped["boxes"], torch.stack([width - right, top, width - left, bottom], 1))
        if masks:
            assert torch.equal(flipped["masks"], target["masks"].flip(-1))
            for box, mask in zip(flipped["boxes"].tolist(), flipped["masks"], strict=True):
                rows, columns = mask.nonzero().unbind(1)
                edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert [int(edge) for edge in edges] == box


def test_windows_take_objects_along(tmp_path):
    images = opened(write_set(tmp_path, make_content(8)))
    kept = 0
    for index in range(8):
        target = images[index][1]
        whole = target["masks"].any(0).to(torch.uint8) * 255
        painted = Image.merge("RGB", [Image.fromarray(whole.numpy())] * 3)
        pixels, cut = vary(painted, dict(target), DetectionAugmentConfig(flip=0.5, crop=1.0))
        height, width = pixels.shape[1:]
        assert all(384 <= side <= 600 for side in (height, width))
        assert cut["size"] == target["size"]
        assert cut["masks"].shape == (len(cut["labels"]), height, width)
        assert cut["boxes"].shape == (len(cut["labels"]), 4)
        assert set(cut["labels"].tolist()) <= set(target["labels"].tolist())
        drawn, seen = cut["masks"].any(0), pixels[0] > 0.5
        assert (drawn != seen).float().mean() < 0.03  # but for edges, which are resized in two ways
        for box, mask in zip(cut["boxes"], cut["masks"], strict=True):
            rows, columns = mask.nonzero().unbind(1)
            near = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (box[:2] <= near[:2] + 16).all()
            assert (box[2:] >= near[2:] - 16).all()
            kept += 1
    assert kept


def test_flips_are_the_seeds(tmp_path):
    data = CocoDataset(opened(write_set(tmp_path)), DetectionAugmentConfig(flip=0.5), replace=True)
    plain = data.images[3][0]
    flips = [torch.equal(data[(3, seed)].image, vary(plain, {})[0]) for seed in range(40)]
    assert 8 < sum(flips) < 32
    assert flips == [torch.equal(data[(3, seed)].image, vary(plain, {})[0]) for seed in range(40)]


def made(shapes, batch_size, world_size=1, seed=0, epoch=0) -> list[ShapeBatches]:
    options = {"shuffle": True, "drop_last": False, "seed": seed, "world_size": world_size}
    parts = [ShapeBatches(np.array(shapes), batch_size, rank=rank, **options) for rank in range(world_size)]
    for part in parts:
        part.set_epoch(epoch)
    return parts


SHAPES = st.lists(st.booleans(), min_size=1, max_size=40)


@given(SHAPES, st.integers(1, 7), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_batches_of_an_epoch(shapes, batch_size, world_size, seed, epoch):
    parts = made(shapes, batch_size, world_size, seed, epoch)
    batches = [[[index for index, _ in batch] for batch in part] for part in parts]
    assert {len(part) for part in batches} == {len(parts[0])}
    # as many of each size as without shapes, in every process
    even = EpochBatches(len(shapes), batch_size, shuffle=True, drop_last=False, seed=0, world_size=world_size)
    for part in batches:
        assert [len(batch) for batch in part] == [len(batch) for batch in even]
    counts = np.bincount(list(chain(*chain(*batches))), minlength=len(shapes))
    assert counts.min() >= 1
    assert counts.sum() == -(-len(shapes) // world_size) * world_size
    if world_size == 1:
        assert counts.max() == 1
    assert sum(len({shapes[i] for i in batch}) > 1 for batch in chain(*batches)) <= 1
    seeds = {pair for part in parts for batch in part for pair in batch}
    assert len(seeds) == len(shapes)  # an image that comes twice is varied alike


@given(SHAPES, st.integers(1, 5), st.integers(1, 3), st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_an_epoch_is_resumed_where_it_was_left(shapes, batch_size, world_size, given_before):
    for part in made(shapes, batch_size, world_size, epoch=2):
        whole, loader = list(part), ResumableLoader(part, part)
        iterator = iter(loader)
        for _ in range(min(given_before, len(whole) - 1)):
            next(iterator)
        again = made(shapes, batch_size, world_size)[part.rank]
        resumed = ResumableLoader(again, again)
        resumed.load_state_dict(loader.state_dict())
        again.set_epoch(2)
        assert list(resumed) == whole[min(given_before, len(whole) - 1) :]
        assert list(resumed) == whole


def test_epochs_and_seeds_differ():
    shapes = [index % 3 == 0 for index in range(40)]
    orders = [list(made(shapes, 4, seed=seed, epoch=epoch)[0]) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    firsts = [next(iter(made(shapes, 4, epoch=epoch)[0]))[0][0] for epoch in range(20)]
    assert {shapes[index] for index in firsts} == {True, False}
    # wide and tall batches come in turn, not one after the other
    turns = [[shapes[batch[0][0]] for batch in made(shapes, 4, epoch=epoch)[0]] for epoch in range(20)]
    assert sum(sum(a != b for a, b in pairwise(turn)) for turn in turns) > 40
