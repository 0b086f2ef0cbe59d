"""Batches as a pure function of (seed, epoch, position), so that a resumed run sees what an uninterrupted one sees.

Lightning saves and restores the state of a loader that has ``state_dict`` and ``load_state_dict``;
:class:`ResumableLoader` gives ours that. Every place in the order comes with a seed for its augmentation, whichever
worker decodes it.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from dynaconv.errors import DynaconvError
from dynaconv.training.data.unreadable import Ledger


def derive_seed(*parts: int) -> int:
    """Mix whole numbers into one 32-bit seed; neighbouring numbers give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def seed_everywhere(seed: int) -> None:
    """Seed Python, numpy and torch: timm and torchvision draw from all three."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (timm draws from the legacy generator)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed inside the block, and leave the generators outside as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


@contextmanager
def any_number_of_workers() -> Iterator[None]:
    """Leave out torch's advice: how many is the user's choice, and a stream's order; with fewer cores it is slower."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create .* worker processes")
        yield


class EpochBatches:
    """Batches of (image number, seed), shuffled anew each epoch.

    Args:
        length: number of images, over all processes.
        batch_size: images a batch, of this process.
        shuffle: shuffle by (seed, epoch); otherwise in order.
        drop_last: drop an incomplete last batch, unless it is the only one.
        seed: of the run.
        rank: this process, of ``world_size``. All get the same number of batches; shuffled, they get the same number
            of images too, the first ones twice if needed; in order, every image comes once (twice only where there
            are fewer images than processes).
        world_size: number of processes.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        shuffle: bool,
        drop_last: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if length < 1:
            raise DynaconvError("there are no images to make batches of; expected at least one")
        self.length, self.batch_size, self.shuffle, self.seed = length, batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.share = -(-length // world_size)
        full, rest = divmod(self.share, batch_size)
        self.count = full if rest == 0 or (drop_last and full) else full + 1
        self.uneven = not shuffle and length % world_size > 0 and length > world_size
        if self.uneven:  # the processes with one image fewer need one for each batch
            self.count = min(self.count, length // world_size)
        self.epoch = 0
        self.start = 0

    @property
    def sampler(self) -> EpochBatches:
        """Where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; a change of epoch starts at its first batch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def cut(self) -> dict[str, int]:
        """What the images of a batch depend on, beyond the order and the images of an iteration over all processes."""
        return {}

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first, self.start = self.start, 0
        epoch = self.epoch
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
        for chosen in self._parts(order)[first:]:
            yield [(int(i), derive_seed(self.seed, epoch, int(i))) for i in chosen]

    def _parts(self, order: np.ndarray) -> list[np.ndarray]:
        """This process's batches."""
        if self.uneven:
            return np.array_split(order[self.rank :: self.world_size], self.count)
        own = np.resize(order, self.share * self.world_size)[self.rank :: self.world_size]
        return [own[batch * self.batch_size :][: self.batch_size] for batch in range(self.count)]


class ResumableLoader:
    """A loader that knows where it is: counts the batches it gave and can start from any of them.

    Args:
        loader: iterable that follows ``batches``.
        batches: the order, whose ``start`` and ``epoch`` this sets.
        ledger: takes faults out of the batches of files, and counts them; None if there are none.
    """

    def __init__(self, loader: Iterable[Any], batches: EpochBatches, ledger: Ledger | None = None) -> None:
        self.loader, self.batch_sampler, self.ledger = loader, batches, ledger
        self._given = 0
        self._faults: list[Any] = []

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Any]:
        self._given = self.batch_sampler.start
        if self.ledger is not None:
            self.ledger.begin(self._faults if self._given else ())
        # Made now, not at the first batch: workers start decoding while the network is still being set up.
        with any_number_of_workers():
            return self._count(iter(self.loader))

    def _count(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self._given += 1
            if self.ledger is not None:
                batch = self.ledger.take(batch)
                if batch is None and (self.batch_sampler.world_size == 1 or not self.batch_sampler.shuffle):
                    continue
                if batch is None:  # processes must keep step in training
                    raise DynaconvError(f"no image of a batch could be read; {self.ledger}: mend them, or remove them")
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Epoch, batches of it that were given, how they are cut, and what could not be read in them."""
        faults = [] if self.ledger is None else [list(fault) for fault in self.ledger.faults]
        cut = self.batch_sampler.cut()
        return {"epoch": self.batch_sampler.epoch, "given": self._given, "cut": cut, "faults": faults}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the batches that were given; the first process, whose state it is, goes on with its faults.

        Raises:
            DynaconvError: if the rest of the epoch would be other images than before.
        """
        finished = state["given"] >= len(self)
        then, now = state.get("cut", {}), self.batch_sampler.cut()
        if then != now and not finished and state["given"]:
            raise DynaconvError(
                f"the run stopped within an epoch that was cut by {then}, now by {now}; resume it with the "
                "same loader.batch_size, loader.workers and run.devices"
            )
        self.batch_sampler.epoch = state["epoch"] + finished
        self.batch_sampler.start = self._given = 0 if finished else state["given"]
        self._faults = state.get("faults", []) if self.batch_sampler.rank == 0 else []
