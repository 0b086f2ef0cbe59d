"""Dynamic batching: images that arrive one by one go through the network together.

A batch leaves as soon as it is full, or when its first image has waited for `max_wait_ms`. While one batch runs, the
next one gathers; so under load batches fill by themselves, and the wait only counts when the network is idle.

    batcher = Batcher(run, max_batch=16, max_wait_ms=2, max_queue=128)   # run: (B, C, H, W) -> (B, classes)
    batcher.start()
    answer = await batcher.submit(image)                                 # image: (C, H, W)
    await batcher.close()                                                # whoever waits is answered first
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

import numpy as np

log = logging.getLogger(__name__)


class QueueFull(Exception):
    """So many images wait that another one would wait for too long."""


class Closing(Exception):
    """The service is shutting down."""


class BatchFailed(Exception):
    """The network failed on the batch in which the image was."""


@dataclass(frozen=True)
class Answer:
    """What the network says of one image: its row of the output, the batch it rode in, and the seconds of both."""

    output: np.ndarray
    batch: int
    waiting: float
    running: float


@dataclass(frozen=True)
class Waiting:
    image: np.ndarray
    since: float


class Batcher:
    """A bounded queue, and one task that empties it, batch by batch. All methods belong to one event loop."""

    def __init__(
        self, run: Callable[[np.ndarray], np.ndarray], *, max_batch: int, max_wait_ms: float, max_queue: int
    ) -> None:
        self.run, self.max_batch, self.max_wait, self.max_queue = run, max_batch, max_wait_ms / 1000, max_queue
        self.images = self.batches = 0
        self.running_seconds = 0.0
        # In the order of arrival. A request is its future: who is cancelled is taken out, wherever it stands.
        self._queue: dict[asyncio.Future[Answer], Waiting] = {}
        self._changed = asyncio.Event()
        self._closing = False
        # The network computes in a thread, so that the event loop goes on; onnxruntime does not hold Python's lock. One
        # batch at a time: two would share the same cores.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="network")

    def __len__(self) -> int:
        return len(self._queue)

    def start(self) -> None:
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Answer who waits, then end."""
        self._closing = True
        self._changed.set()
        await self._task
        self._thread.shutdown()

    def check(self) -> None:
        """Raise QueueFull or Closing if there is no place: before an upload is read, and before an image is queued."""
        if self._closing:
            raise Closing
        if len(self._queue) >= self.max_queue:
            raise QueueFull

    async def submit(self, image: np.ndarray) -> Answer:
        """Wait for the answer to one image. Cancel the caller, and the image leaves the queue."""
        self.check()
        request: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue[request] = Waiting(image, time.perf_counter())
        self._changed.set()
        try:
            return await request
        finally:
            self._queue.pop(request, None)

    async def _work(self) -> None:
        while batch := await self._gather():
            started = time.perf_counter()
            try:
                outputs = await asyncio.get_running_loop().run_in_executor(self._thread, self._compute, batch)
            except Exception as error:
                # These requests fail, and the next batch has its own chance.
                log.exception("the network failed on a batch of %d", len(batch))
                for request in batch:
                    if not request.done():
                        request.set_exception(BatchFailed(f"{type(error).__name__}: {error}"))
                continue
            seconds = time.perf_counter() - started
            self.images, self.batches = self.images + len(batch), self.batches + 1
            self.running_seconds += seconds
            for (request, waiting), output in zip(batch.items(), outputs, strict=True):
                if not request.done():  # else it was cancelled while the batch ran
                    request.set_result(Answer(output, len(batch), started - waiting.since, seconds))

    async def _gather(self) -> dict[asyncio.Future[Answer], Waiting]:
        """The next batch, taken from the queue; an empty one means that the end has come."""
        while True:
            self._changed.clear()
            left = None
            if self._queue:
                left = next(iter(self._queue.values())).since + self.max_wait - time.perf_counter()
            if self._closing or len(self._queue) >= self.max_batch or (left is not None and left <= 0):
                return {request: self._queue.pop(request) for request in list(islice(self._queue, self.max_batch))}
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()

    def _compute(self, batch: dict[asyncio.Future[Answer], Waiting]) -> np.ndarray:
        outputs = self.run(np.stack([waiting.image for waiting in batch.values()]))
        if len(outputs) != len(batch) or not np.isfinite(outputs).all():
            raise ValueError(f"{len(batch)} images gave {len(outputs)} outputs; expected as many, and finite ones")
        return outputs
