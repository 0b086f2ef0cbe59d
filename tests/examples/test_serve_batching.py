"""Images that arrive one by one ride together, and whatever happens to one does not happen to the others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from tests.examples.serving import serve

Batcher, QueueFull = serve.batching.Batcher, serve.batching.QueueFull
Closing, BatchFailed = serve.batching.Closing, serve.batching.BatchFailed
LONG = 60_000


class Gate:
    """A network that doubles its images, and does so only while it is open; it knows what it was given."""

    def __init__(self, *, closed: bool = False) -> None:
        self.event, self.seen, self.at_once = threading.Event(), [], 0
        if not closed:
            self.event.set()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.at_once += 1
        assert self.at_once == 1, "two batches run at once"
        self.seen.append(images[:, 0].tolist())
        assert self.event.wait(20)
        self.at_once -= 1
        return 2 * images


def image(number: float) -> np.ndarray:
    return np.array([number], np.float32)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def play(scene: Callable[..., Awaitable[None]], run: Callable[[np.ndarray], np.ndarray], **limits: float) -> None:
    """A scene with a batcher, which is closed at the end."""

    async def whole() -> None:
        batcher = Batcher(run, **{"max_batch": 4, "max_wait_ms": 1, "max_queue": 100} | limits)
        batcher.start()
        try:
            await scene(batcher)
        finally:
            await batcher.close()

    asyncio.run(asyncio.wait_for(whole(), 40))


def test_a_full_batch_leaves_at_once_and_answers_find_their_askers():
    run = Gate()

    async def scene(batcher):
        answers = await asyncio.gather(*(batcher.submit(image(n)) for n in range(8)))
        assert [answer.output.tolist() for answer in answers] == [[2 * n] for n in range(8)]
        assert [answer.batch for answer in answers] == [4] * 8
        assert (batcher.images, batcher.batches, len(batcher)) == (8, 2, 0)

    play(scene, run, max_wait_ms=LONG)
    assert run.seen == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_a_lone_image_waits_for_others_and_then_goes():
    async def scene(batcher):
        answer = await batcher.submit(image(1))
        assert answer.batch == 1
        assert 0.04 <= answer.waiting < 10

    play(scene, Gate(), max_wait_ms=50)


def test_the_wait_is_the_first_image_s_and_those_who_come_later_do_not_make_it_longer():
    async def scene(batcher):
        first = asyncio.create_task(batcher.submit(image(1)))
        begun, later = time.perf_counter(), []
        while not first.done() and time.perf_counter() < begun + 5:
            later.append(asyncio.create_task(batcher.submit(image(2))))
            await asyncio.sleep(0.02)
        assert (await first).waiting < 4
        assert 1 < (await first).batch <= 1 + len(later)
        assert (await later[0]).waiting < (await first).waiting

    play(scene, Gate(), max_wait_ms=300, max_batch=1000, max_queue=1000)


def test_a_batch_gathers_while_another_one_runs():
    run = Gate(closed=True)

    async def scene(batcher):
        tasks = [asyncio.create_task(batcher.submit(image(0)))]
        await until(lambda: run.seen)
        tasks += [asyncio.create_task(batcher.submit(image(n))) for n in range(1, 7)]
        await until(lambda: len(batcher) == 6)
        run.event.set()
        await asyncio.gather(*tasks)

    play(scene, run, max_wait_ms=0)
    assert run.seen == [[0], [1, 2, 3, 4], [5, 6]]


def test_without_batching_every_image_goes_alone():
    run = Gate()

    async def scene(batcher):
        started = time.perf_counter()
        await asyncio.gather(*(batcher.submit(image(n)) for n in range(3)))
        assert time.perf_counter() - started < 20

    play(scene, run, max_batch=1, max_wait_ms=LONG)
    assert run.seen == [[0], [1], [2]]


def test_who_is_cancelled_leaves_the_queue():
    run = Gate(closed=True)

    async def scene(batcher):
        running = asyncio.create_task(batcher.submit(image(0)))
        await until(lambda: run.seen)
        waiting = [asyncio.create_task(batcher.submit(image(n))) for n in (1, 2, 3)]
        await until(lambda: len(batcher) == 3)
        waiting[1].cancel()
        running.cancel()  # too late to stop, and nobody waits for it
        await until(lambda: len(batcher) == 2)
        run.event.set()
        answers = await asyncio.gather(waiting[0], waiting[2])
        assert [answer.output.tolist() for answer in answers] == [[2], [6]]
        assert all(task.cancelled() for task in (waiting[1], running))

    play(scene, run, max_wait_ms=0)
    assert run.seen == [[0], [1, 3]]


def test_all_cancelled_and_then_a_new_one():
    run = Gate()

    async def scene(batcher):
        task = asyncio.create_task(batcher.submit(image(1)))
        await until(lambda: len(batcher))
        task.cancel()
        await until(lambda: not len(batcher))
        assert (await batcher.submit(image(2))).output.tolist() == [4]

    play(scene, run, max_wait_ms=30)
    assert run.seen == [[2]]


def test_a_full_queue_refuses_and_recovers():
    run = Gate(closed=True)

    async def scene(batcher):
        running = asyncio.create_task(batcher.submit(image(0)))
        await until(lambda: run.seen)
        waiting = [asyncio.create_task(batcher.submit(image(n))) for n in (1, 2)]
        await until(lambda: len(batcher) == 2)
        with pytest.raises(QueueFull):
            await batcher.submit(image(3))
        run.event.set()
        await asyncio.gather(running, *waiting)
        assert (await batcher.submit(image(4))).output.tolist() == [8]

    play(scene, run, max_wait_ms=0, max_queue=2)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda images: 1 / 0, "ZeroDivisionError"),
        (lambda images: images[:1], "2 images gave 1 outputs"),
        (lambda images: images * np.nan, "finite"),
    ],
)
def test_a_batch_that_fails_takes_only_its_own_with_it(bad, says, caplog):
    run = bad

    async def scene(batcher):
        nonlocal run
        both = await asyncio.gather(*(batcher.submit(image(n)) for n in (1, 2)), return_exceptions=True)
        assert [type(error) for error in both] == [BatchFailed] * 2
        assert says in str(both[0])
        run = Gate()
        assert (await batcher.submit(image(3))).output.tolist() == [6]

    play(scene, lambda images: run(images), max_batch=2, max_wait_ms=100)
    assert "the network failed on a batch of 2" in caplog.text


def test_closing_answers_who_waits_and_refuses_who_comes():
    run = Gate(closed=True)

    async def scene(batcher):
        tasks = [asyncio.create_task(batcher.submit(image(n))) for n in range(6)]
        await until(lambda: run.seen)
        end = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(Closing):
            await batcher.submit(image(9))
        run.event.set()
        assert [answer.output.tolist() for answer in await asyncio.gather(*tasks)] == [[2 * n] for n in range(6)]
        await end

    play(scene, run, max_wait_ms=LONG)
    assert run.seen == [[0, 1, 2, 3], [4, 5]]
