from __future__ import annotations

import random
from itertools import chain

import numpy as np
import pytest
import torch

from dynaconv.errors import DynaconvError
from dynaconv.training.data.reading import SeededDataset
from dynaconv.training.data.sampling import EpochBatches, ResumableLoader, seed_everywhere, seeded


def numbers(batches: EpochBatches) -> list[list[int]]:
    return [[index for index, _ in batch] for batch in batches]


def make(length: int = 10, batch_size: int = 4, **options) -> EpochBatches:
    return EpochBatches(length, batch_size, **{"shuffle": True, "drop_last": False, "seed": 3, **options})


@pytest.mark.parametrize(
    ("length", "batch_size", "drop_last", "sizes"),
    [
        (9, 4, False, [4, 4, 1]),
        (9, 4, True, [4, 4]),
        (8, 4, True, [4, 4]),
        (3, 4, True, [3]),
        (1, 4, True, [1]),
    ],
)
def test_batch_sizes(length, batch_size, drop_last, sizes):
    batches = make(length, batch_size, drop_last=drop_last)
    assert [len(batch) for batch in batches] == sizes
    assert len(batches) == len(sizes)


def test_an_epoch_holds_every_image_once_in_an_order_of_its_own():
    batches = make()
    first = numbers(batches)
    assert sorted(chain(*first)) == list(range(10))
    assert numbers(batches) == first
    batches.set_epoch(1)
    assert numbers(batches) != first
    assert numbers(make(seed=4)) != first


def test_processes_share_an_epoch_evenly():
    shares = [make(10, 2, rank=rank, world_size=3) for rank in range(3)]
    assert {len(share) for share in shares} == {2}
    seen = [number for share in shares for batch in numbers(share) for number in batch]
    assert len(seen) == 12
    assert set(seen) == set(range(10))


@pytest.mark.parametrize(
    ("length", "batch_size", "world_size"), [(10, 2, 3), (7, 3, 2), (5, 1, 2), (9, 4, 2), (8, 3, 2), (3, 2, 3)]
)
def test_processes_judge_every_image_once(length, batch_size, world_size):
    shares = [make(length, batch_size, rank=r, world_size=world_size, shuffle=False) for r in range(world_size)]
    assert len({len(numbers(share)) for share in shares}) == len({len(share) for share in shares}) == 1
    assert all(batch for share in shares for batch in numbers(share))
    assert sorted(n for share in shares for batch in numbers(share) for n in batch) == list(range(length))


def test_fewer_images_than_processes():
    shares = [make(1, 2, rank=rank, world_size=2, shuffle=False) for rank in range(2)]
    assert [numbers(share) for share in shares] == [[[0]], [[0]]]


def test_no_images():
    with pytest.raises(DynaconvError, match="no images"):
        make(0)


def test_resumes_within_an_epoch():
    batches = make()
    loader = ResumableLoader(batches, batches)
    batches.set_epoch(2)
    whole = list(loader)
    iterator = iter(loader)
    assert next(iterator) == whole[0]
    state = loader.state_dict()
    assert state == {"epoch": 2, "given": 1, "cut": {}, "faults": []}

    again = make()
    resumed = ResumableLoader(again, again)
    resumed.load_state_dict(state)
    again.set_epoch(2)
    assert list(resumed) == whole[1:]
    assert len(resumed) == 3
    assert list(resumed) == whole  # the next pass is a whole one


def test_resumes_at_the_end_of_an_epoch_with_the_next():
    batches = make()
    loader = ResumableLoader(batches, batches)
    list(loader)
    again = make()
    resumed = ResumableLoader(again, again)
    resumed.load_state_dict(loader.state_dict())
    batches.set_epoch(1)
    assert list(resumed) == list(loader)


def test_every_image_has_a_random_stream_of_its_own():
    data = SeededDataset([("a", 0), ("b", 1)], lambda _: (random.random(), np.random.rand(), torch.rand(1).item()), 2)  # noqa: NPY002
    seed_everywhere(0)
    outside = torch.get_rng_state()
    assert data[(0, 7)] == data[(0, 7)]
    assert data[(0, 7)].image != data[(0, 8)].image
    assert torch.equal(torch.get_rng_state(), outside)


def test_seeded_leaves_no_trace():
    seed_everywhere(5)
    expected = random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    seed_everywhere(5)
    with seeded(1):
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected  # noqa: NPY002
