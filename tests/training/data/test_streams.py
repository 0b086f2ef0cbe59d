"""Streams: every sample once an epoch, in an order of (seed, epoch), resumed exactly, shared out evenly."""

from __future__ import annotations

import io
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from dynaconv.errors import DynaconvError
from dynaconv.training.data.sampling import ResumableLoader
from dynaconv.training.data.streams import RawImage, Stream, StreamBatches, StreamDataset, buffered_order
from dynaconv.training.data.unreadable import collate

LENGTHS = (5, 0, 11, 1, 8)


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (1, 1), value).save(file, "PNG")
    return file.getvalue()


class Numbers:
    """Shards of numbered pixels; notes what is read, and can lack some."""

    def __init__(self, lengths=LENGTHS, bad=(), short=0):
        self.lengths, self.bad, self.short, self.opened, self.given = lengths, set(bad), short, [], 0

    def __call__(self, shard: str, start: int):
        self.opened.append((shard, start))
        index = int(shard)
        first = sum(self.lengths[:index])
        for number in range(first + start, first + self.lengths[index] - self.short):
            self.given += 1
            yield RawImage(f"n{number}", png(number), number % 10, "broken" if number in self.bad else None)


def stream(reader: Numbers | None = None) -> Stream:
    return Stream([str(i) for i in range(len(LENGTHS))], LENGTHS, reader or Numbers())


def pixel(image) -> int:
    return image.getpixel((0, 0))[0]


def make(reader=None, batch_size=3, lanes=2, shuffle=True, replace=True, buffer=4, epoch=0, start=0, **options):
    images = stream(reader)
    batches = StreamBatches(len(images), batch_size, shuffle=shuffle, drop_last=False, seed=3, lanes=lanes, **options)
    batches.epoch, batches.start = epoch, start
    return batches, StreamDataset(images, batches, pixel, 10, buffer, replace)


def epoch_of(*parts) -> list[list[int]]:
    batches, dataset = parts
    return [[dataset[key].image for key in keys] for keys in batches]


@pytest.mark.parametrize("lanes", [1, 2, 3, 20])
@pytest.mark.parametrize("batch_size", [1, 3, 30])
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_holds_every_sample_once(lanes, batch_size, shuffle):
    seen = epoch_of(*make(lanes=lanes, batch_size=batch_size, shuffle=shuffle))
    assert sorted(chain(*seen)) == list(range(25))
    assert [len(batch) for batch in seen[:-1]] == [batch_size] * (len(seen) - 1)
    if not shuffle and lanes == 1:
        assert list(chain(*seen)) == list(range(25))


def test_every_epoch_and_seed_has_an_order_of_its_own():
    first, second = epoch_of(*make(epoch=0)), epoch_of(*make(epoch=1))
    assert first != second
    assert epoch_of(*make(epoch=0)) == first


@pytest.mark.parametrize("world", [2, 3, 7])
def test_processes_share_an_epoch_evenly_and_without_overlap(world):
    shares = [epoch_of(*make(rank=rank, world_size=world)) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    seen = [number for share in shares for number in chain(*share)]
    assert set(seen) == set(range(25))
    assert len(seen) == -(-25 // world) * world  # at most one twice a process, to even out


@pytest.mark.parametrize("world", [2, 3, 7])
@pytest.mark.parametrize("lanes", [1, 2])
def test_processes_judge_every_sample_once(world, lanes):
    shares = [epoch_of(*make(rank=rank, world_size=world, lanes=lanes, shuffle=False)) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    assert all(batch for share in shares for batch in share)
    assert sorted(number for share in shares for number in chain(*share)) == list(range(25))


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("start", range(9))
def test_any_place_is_reached_without_what_was_before(lanes, start):
    whole = epoch_of(*make(lanes=lanes, epoch=2))
    assert len(whole) == 9
    reader = Numbers()
    assert epoch_of(*make(reader, lanes=lanes, epoch=2, start=start)) == whole[start:]
    # Of what was given out, at most the shards in hand and the buffers' holes are read again.
    assert reader.given <= 25


def test_a_stream_goes_on_only_as_it_was_cut():
    batches, _ = make(lanes=2)
    state = ResumableLoader(batches, batches).state_dict() | {"given": 4}
    other, _ = make(lanes=3)
    with pytest.raises(DynaconvError, match=r"cut by .*'workers': 2.* now by .*'workers': 3.*; resume it"):
        ResumableLoader(other, other).load_state_dict(state)
    ResumableLoader(other, other).load_state_dict(state | {"given": len(other)})  # a new epoch may be cut anew
    assert (other.epoch, other.start) == (1, 0)


def test_finished_shards_stay_closed_on_resuming():
    reader = Numbers()
    batches, dataset = make(reader, lanes=1, start=8, buffer=1)
    assert len(epoch_of(batches, dataset)) == 1
    assert len(reader.opened) == 1
    assert reader.given == 1


def test_one_key_after_the_other_reads_on():
    reader = Numbers()
    epoch_of(*make(reader, lanes=1))
    assert sorted(reader.opened) == [(str(i), 0) for i in range(5)]  # every shard once


@pytest.mark.parametrize(("length", "buffer"), [(0, 4), (1, 4), (10, 1), (10, 4), (10, 100)])
def test_a_buffer_gives_out_everything_and_holds_no_more_than_it_may(length, buffer):
    order = buffered_order(length, buffer, np.random.default_rng(0))
    assert sorted(order) == list(range(length))
    assert all(number < place + buffer for place, number in enumerate(order))
    if buffer == 1:
        assert list(order) == list(range(length))


@pytest.mark.parametrize("lanes", [1, 2])
def test_what_can_not_be_read_is_replaced_alike_on_resuming(lanes):
    bad = {0, 7, 8, 9, 24}
    batches, dataset = make(Numbers(bad=bad), lanes=lanes)
    whole = [[dataset[key] for key in keys] for keys in batches]
    assert all(sample.image is not None and sample.image not in bad for sample in chain(*whole))
    faults = [fault for sample in chain(*whole) for fault in sample.faults]
    assert sorted(fault.name for fault in faults) == sorted(f"n{number}" for number in bad)
    for start in range(len(whole)):
        batches, dataset = make(Numbers(bad=bad), lanes=lanes, start=start)
        assert [[dataset[key] for key in keys] for keys in batches] == whole[start:]


def test_validation_leaves_out_what_can_not_be_read():
    batches, dataset = make(Numbers(bad={4, 5, 6}), lanes=1, shuffle=False, replace=False, batch_size=3)
    found = [collate([dataset[key] for key in keys]) for keys in batches]
    labels = torch.cat([labels for _, labels, _ in found if labels is not None])
    assert labels.tolist() == [number % 10 for number in range(25) if number not in (4, 5, 6)]
    assert [fault.name for _, _, faults in found for fault in faults] == ["n4", "n5", "n6"]


def test_a_shard_that_ends_early_is_faults_not_fewer_samples():
    batches, dataset = make(Numbers(short=1), lanes=1)
    samples = [dataset[key] for keys in batches for key in keys]
    faults = [fault for sample in samples for fault in sample.faults]
    assert len(samples) == 25
    assert sorted(fault.name for fault in faults) == ["0[4]", "2[10]", "3[0]", "4[7]"]
    assert {fault.cause for fault in faults} >= {"the shard ends after 10 of 11 samples"}


def test_a_shard_that_breaks_off_says_why():
    def read(shard, start):
        yield RawImage("a", png(1), 1)
        raise OSError("disk on fire")

    raws = list(Stream(["s"], [3], read).samples(0, 0))
    assert [raw.cause for raw in raws] == [None, *["the shard breaks off after 1 of 3 samples: disk on fire"] * 2]


def test_a_shard_that_holds_more_than_it_should():
    longer = Stream(["0"], [3], Numbers(lengths=(5,)))
    with pytest.raises(DynaconvError, match="0 holds more than the 3 samples it is said to"):
        list(longer.samples(0, 0))
    assert len(list(Stream(["0"], [5], Numbers(lengths=(5,))).first(3).samples(0, 0))) == 3


def test_labels_outside_the_classes_stop_training():
    images = stream()
    batches = StreamBatches(25, 5, shuffle=False, drop_last=False, seed=0)
    dataset = StreamDataset(images, batches, pixel, 9, 4)
    faults = [fault for keys in batches for key in keys for fault in dataset[key].faults]
    assert faults[0].fatal
    assert faults[0].cause == "n9 has the label 9; expected 0 to 8, as there are 9 classes"


def test_a_few_samples_of_a_stream():
    few = stream().first(7)
    assert few.lengths == (5, 0, 2, 0, 0)
    assert len(few) == 7
