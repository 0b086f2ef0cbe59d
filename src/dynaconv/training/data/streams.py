"""Shards that are read from their beginnings, in an order that is a function of (seed, epoch) alone.

An epoch is the concatenation of all shards, in an order drawn anew. Every process takes an equal part of it, cut
between samples, not shards; its part is cut again into lanes, one a worker, which give its batches in turn. Within a
lane a buffer shuffles: which sample it gives out when depends on numbers only, so its order is known before anything is
read. A resumed run opens its shards where the first missing sample lies, and decodes nothing that was given.

timm's readers for streams (1.0.31) are not used, as they can not promise this. WebDataset's samples are shuffled by a
generator that a worker seeds once and never again, so an epoch depends on all before it. Both readers cut an epoch into
whole shards: some samples are seen twice and others not at all. Hugging Face's buffer is not part of its state. Images
that can not be read are passed over unseen (WebDataset) or end the epoch (Hugging Face).
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from dynaconv.errors import DynaconvError, ImageError
from dynaconv.training.data.images import load_image
from dynaconv.training.data.reading import ATTEMPTS, check_label, first_readable, on_image
from dynaconv.training.data.sampling import EpochBatches, derive_seed
from dynaconv.training.data.unreadable import Sample

Key = tuple[int, int, int]
"""Epoch, lane, place in the lane."""


@dataclass(frozen=True)
class RawImage:
    """A sample as it stands in a shard.

    Args:
        name: shard and key.
        data: the image's file, not decoded.
        label: class number.
        cause: why there is no image.
    """

    name: str
    data: bytes = b""
    label: int = -1
    cause: str | None = None


class Stream:
    """Labelled images in shards, without a transform.

    Args:
        shards: paths or URLs.
        lengths: samples in each.
        read: from a shard's path and a number of samples to pass over to those after them; picklable.
        cut: the shards hold more than ``lengths`` says, on purpose.
    """

    def __init__(
        self,
        shards: Sequence[str],
        lengths: Sequence[int],
        read: Callable[[str, int], Iterator[RawImage]],
        cut: bool = False,
    ) -> None:
        self.shards, self.lengths, self.read, self.cut = tuple(shards), tuple(lengths), read, cut

    def __len__(self) -> int:
        return sum(self.lengths)

    def first(self, count: int) -> Stream:
        """The first ``count`` samples, in the order of the shards."""
        ends = list(itertools.accumulate(self.lengths, initial=0))
        kept = [max(0, min(length, count - begin)) for begin, length in zip(ends, self.lengths, strict=False)]
        return Stream(self.shards, kept, self.read, cut=True)

    def samples(self, shard: int, start: int) -> Iterator[RawImage]:
        """Exactly the samples from ``start`` to the shard's length; what can not be had says why.

        Raises:
            DynaconvError: if the shard holds more samples than its length says.
        """
        name, length, given = self.shards[shard], self.lengths[shard], start
        try:
            reader = self.read(name, start)
            for raw in itertools.islice(reader, length - start):
                given += 1
                yield raw
            if not self.cut and given == length and next(reader, None) is not None:
                raise DynaconvError(f"{name} holds more than the {length} samples it is said to; mend its _info.json")
            cause = f"the shard ends after {given} of {length} samples"
        except DynaconvError:
            raise
        except Exception as error:  # damaged shards lead readers to any exception there is
            cause = f"the shard breaks off after {given} of {length} samples: {error}"
        for number in range(given, length):
            yield RawImage(f"{name}[{number}]", cause=cause)


class StreamBatches(EpochBatches):
    """Batches of an epoch of a stream: for every image epoch, lane, and place in the lane.

    Args:
        lanes: parts of a process's share that are read at the same time; batches come from each in turn.
        options: those of :class:`EpochBatches`.
    """

    def __init__(self, *args: Any, lanes: int = 1, **options: Any) -> None:
        super().__init__(*args, **options)
        self.lanes = lanes

    def __iter__(self) -> Iterator[list[Key]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        first, self.start = self.start, 0
        sizes = self._sizes()
        for batch in range(first, self.count):
            place = sum(sizes[batch % self.lanes : batch : self.lanes])
            yield [(self.epoch, batch % self.lanes, place + i) for i in range(sizes[batch])]

    def cut(self) -> dict[str, int]:
        """The order of a lane depends on all of these."""
        return {"batch_size": self.batch_size, "workers": self.lanes, "processes": self.world_size}

    def span(self, lane: int) -> range:
        """The lane's positions in the epoch's concatenation; beyond its end they go on at its beginning."""
        sizes = self._sizes()
        begin = self.rank * self.share
        if self.uneven:
            begin -= max(0, self.rank - self.length % self.world_size)
        begin += sum(sum(sizes[k :: self.lanes]) for k in range(lane))
        return range(begin, begin + sum(sizes[lane :: self.lanes]))

    def _sizes(self) -> list[int]:
        """Images in each batch of this process."""
        if self.uneven:
            own = len(range(self.rank, self.length, self.world_size))
            return [own // self.count + (batch < own % self.count) for batch in range(self.count)]
        return [min(self.batch_size, self.share - batch * self.batch_size) for batch in range(self.count)]


def buffered_order(length: int, buffer: int, draw: np.random.Generator) -> np.ndarray:
    """In which order a shuffling buffer gives out the numbers below ``length``.

    It is filled with the first ``buffer`` of them, gives one out at random, and takes in the next. The number at place
    ``i`` is thus below ``i + buffer``.
    """
    slots = list(range(min(buffer, length)))
    order = np.empty(length, dtype=np.int64)
    for place, share in enumerate(draw.random(length).tolist()):
        slot = int(share * len(slots))
        order[place] = slots[slot]
        if place + buffer < length:
            slots[slot] = place + buffer
        else:
            slots[slot] = slots[-1]
            slots.pop()
    return order


class StreamDataset(Dataset[Any]):
    """What a worker makes of :class:`StreamBatches`' keys: any key at any time, one after the other without searching.

    Args:
        stream: the shards.
        batches: how an epoch is shared out.
        transform: from PIL image to tensor.
        num_classes: labels are below it.
        buffer: images to shuffle among.
        replace: take the lane's next readable image where one can not be read; otherwise the sample has none.
    """

    def __init__(
        self,
        stream: Stream,
        batches: StreamBatches,
        transform: Callable[[Any], Any],
        num_classes: int,
        buffer: int,
        replace: bool = True,
    ) -> None:
        self.stream, self.batches, self.transform, self.num_classes = stream, batches, transform, num_classes
        self.buffer, self.replace = buffer, replace
        self._lanes: dict[int, _Lane] = {}

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, key: Key) -> Sample:
        epoch, number, place = key
        lane = self._lanes.get(number)
        if lane is None or (lane.epoch, lane.place) != (epoch, place):
            lane = self._lanes[number] = _Lane(self.stream, self.batches, epoch, number, place, self.buffer)
        attempts = min(ATTEMPTS, len(self.stream)) if self.replace else 1

        def read(turn: int) -> tuple[Any, int]:
            raw = lane.peek(turn)
            if raw.cause is not None:
                raise ImageError(raw.name, raw.cause)
            check_label(raw.label, self.num_classes, raw.name)
            return load_image(raw.data, raw.name), raw.label

        seed = derive_seed(self.batches.seed, epoch, lane.identity())
        sample = first_readable(read, range(place, place + attempts), on_image(self.transform), seed, self.replace)
        lane.move_on()
        return sample


class _Lane:
    """Reads a lane from a place on; keeps what was read and is still to be given out, which the buffer limits."""

    def __init__(
        self, stream: Stream, batches: StreamBatches, epoch: int, number: int, place: int, buffer: int
    ) -> None:
        self.epoch, self.place = epoch, place
        shards = np.arange(len(stream.shards))
        span = batches.span(number)
        order = np.arange(len(span))
        if batches.shuffle:
            shards = np.random.default_rng([batches.seed, epoch]).permutation(len(shards))
            draw = np.random.default_rng([batches.seed, epoch, batches.rank, number])
            order = buffered_order(len(span), buffer, draw)
        # Behind a lane's end lie the samples that take the place of unreadable ones there.
        self._order = np.concatenate([order, np.arange(len(span), len(span) + ATTEMPTS)])
        self._when = np.argsort(self._order)
        self._stream, self._shards, self._begin = stream, shards.tolist(), span.start
        self._starts = list(itertools.accumulate((stream.lengths[shard] for shard in self._shards), initial=0))
        self._firsts = list(itertools.accumulate(stream.lengths, initial=0))
        self._read = int(self._order[place:].min())
        self._source = self._from(self._begin + self._read)
        self._held: dict[int, RawImage] = {}

    def identity(self) -> int:
        """The number of the sample at this place, over all shards, the same in every epoch."""
        turn, index = self._locate(self._begin + int(self._order[self.place]))
        return self._firsts[self._shards[turn]] + index

    def peek(self, place: int) -> RawImage:
        """The sample of this place or one of the next."""
        wanted = int(self._order[place])
        while self._read <= wanted:
            raw = next(self._source)
            if self._when[self._read] >= self.place:
                self._held[self._read] = raw
            self._read += 1
        return self._held[wanted]

    def move_on(self) -> None:
        """Go to the next place."""
        self._held.pop(int(self._order[self.place]), None)
        self.place += 1

    def _locate(self, position: int) -> tuple[int, int]:
        """The shard in this epoch's order, and the sample in it."""
        position %= self._starts[-1]
        turn = bisect.bisect_right(self._starts, position) - 1
        return turn, position - self._starts[turn]

    def _from(self, position: int) -> Iterator[RawImage]:
        turn, index = self._locate(position)
        while True:
            yield from self._stream.samples(self._shards[turn], index)
            turn, index = (turn + 1) % len(self._shards), 0
