"""A resumed run equals an uninterrupted one: the same batches, temperatures, weights, bit by bit."""

from __future__ import annotations

import signal

import pytest

import dynaconv
from dynaconv.errors import DynaconvError
from dynaconv.training import AugmentConfig, EmaConfig, RunConfig, ScheduleConfig, fit, resume
from dynaconv.training._lightning import Callback
from tests.training.likeness import differences, run_differences, scalars
from tests.training.tiny import BACKBONE, tiny_recipe

EPOCHS, PER_EPOCH = 3, 3


class Interrupted(Exception):
    pass


class Trace(Callback):
    """Notes everything an iteration depends on; interrupts the run before a given one."""

    def __init__(self, stop: tuple[int, int] | None = None):
        self.seen, self.stop = [], stop

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.stop:
            raise Interrupted

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        images = batch[0].double().sum().item()
        tau = dynaconv.get_temperature(pl_module)
        self.seen.append((trainer.current_epoch, batch_idx, tau, images, outputs["loss"].item()))


def recipe(accumulate: int, every: int | None):
    return tiny_recipe(
        backbone={**BACKBONE, "drop_path_rate": 0.2},
        augment=AugmentConfig(mixup=0.8, cutmix=1.0, erasing=0.3),
        schedule=ScheduleConfig(epochs=EPOCHS, warmup_epochs=1, temperature_epochs=2.5),
        ema=EmaConfig(decay=0.9),
        run=RunConfig(accelerator="cpu", accumulate=accumulate, checkpoint_every=every),
    )


@pytest.mark.parametrize(
    ("accumulate", "every", "stop", "first"),
    [
        pytest.param(1, None, (1, 0), (1, 0), id="between epochs"),
        pytest.param(1, None, (1, 2), (1, 0), id="back to the last epoch"),
        pytest.param(1, 1, (1, 2), (1, 2), id="within an epoch"),
        pytest.param(2, 1, (2, 2), (2, 2), id="within an epoch, accumulating"),
    ],
)
def test_resumed_equals_uninterrupted(tmp_path, accumulate, every, stop, first):
    whole, before, after = Trace(), Trace(stop), Trace()
    expected = fit(recipe(accumulate, every), tmp_path / "whole", callbacks=(whole,))
    with pytest.raises(Interrupted):
        fit(recipe(accumulate, every), tmp_path / "broken", callbacks=(before,))
    result = resume(tmp_path / "broken", callbacks=(after,))

    assert len(whole.seen) == EPOCHS * PER_EPOCH
    assert after.seen[0][:2] == first
    assert before.seen == whole.seen[: len(before.seen)]
    assert after.seen == whole.seen[-len(after.seen) :]
    assert run_differences(tmp_path / "whole", tmp_path / "broken") == []
    assert [differences(a, b) for a, b in zip(result.rows, expected.rows, strict=True)] == [[]] * EPOCHS
    assert result.best_score == expected.best_score
    assert differences(*(scalars(tmp_path / name) for name in ("whole", "broken"))) == []


def test_ctrl_c_is_an_interrupt_that_can_be_resumed(tmp_path):
    class Key(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == 1:
                raise KeyboardInterrupt

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_recipe(), tmp_path, callbacks=(Key(),))
    assert signal.getsignal(signal.SIGINT) is handler
    assert [row["epoch"] for row in resume(tmp_path).rows] == [1, 2]


def test_a_finished_run_stays_as_it_is(tmp_path):
    first = fit(tiny_recipe(), tmp_path)
    before = (tmp_path / "last.ckpt").read_bytes()
    trace = Trace()
    again = resume(tmp_path, callbacks=(trace,))
    assert trace.seen == []
    assert again.rows == first.rows
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_nothing_to_resume(tmp_path):
    with pytest.raises(DynaconvError, match=r"no config.yaml and no last.ckpt, so there is nothing to resume"):
        resume(tmp_path)


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(DynaconvError, match="already holds a run"):
        fit(tiny_recipe(), tmp_path)
