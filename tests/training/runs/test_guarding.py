"""Runs that end early: told to stop, or with a loss that is none. What was saved before stays, and goes on."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from dynaconv.errors import DynaconvError
from dynaconv.training import ScheduleConfig, fit, resume
from dynaconv.training._lightning import Callback
from dynaconv.training.runs.fitting import fit_or_resume
from dynaconv.training.runs.guarding import SIGNALS, RunStopped
from dynaconv.training.runs.sealed import read_sealed
from tests.forked import finish, start
from tests.training.crashes import insist
from tests.training.likeness import run_differences
from tests.training.tiny import static_recipe

EPOCHS, PER_EPOCH = 3, 3


def recipe(**run):
    usual = static_recipe(schedule=ScheduleConfig(epochs=EPOCHS, warmup_epochs=1.0))
    return usual.from_dict(usual.to_dict() | {"run": {"accelerator": "cpu", **run}})


class At(Callback):
    """Does something in an iteration, or in the validation, of an epoch."""

    def __init__(self, place, act):
        self.place, self.act = place, act

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.place:
            self.act(pl_module)

    def on_validation_start(self, trainer, pl_module):
        if (trainer.current_epoch, "validation") == self.place:
            self.act(pl_module)


def send(number=signal.SIGTERM):
    return lambda module: os.kill(os.getpid(), number)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    fit(recipe(), folder)
    return folder


@pytest.mark.parametrize(
    ("number", "place", "options", "saved"),
    [
        pytest.param(signal.SIGTERM, (1, 1), {}, 5, id="after the optimiser step"),
        pytest.param(signal.SIGUSR1, (0, 0), {}, 1, id="SLURM's other signal, before any checkpoint"),
        pytest.param(signal.SIGTERM, (1, 0), {"accumulate": 2}, 3, id="not within an accumulation"),
        pytest.param(signal.SIGTERM, (1, 2), {}, 6, id="in an epoch's last iteration, after its validation"),
        pytest.param(signal.SIGTERM, (0, "validation"), {}, 3, id="in validation, after it"),
    ],
)
def test_a_signal_saves_and_stops(whole, tmp_path, number, place, options, saved):
    if options:
        fit(recipe(**options), tmp_path / "whole")
        whole = tmp_path / "whole"
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(RunStopped) as stop:
        fit(recipe(**options), tmp_path / "run", callbacks=(At(place, send(number)),))
    assert (stop.value.code, stop.value.step) == (143, saved)
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert read_sealed(tmp_path / "run" / "last.ckpt")["global_step"] == saved
    fit_or_resume(recipe(**options), tmp_path / "run")
    assert run_differences(whole, tmp_path / "run") == []


def test_a_run_at_its_end_just_ends(whole, tmp_path):
    fit(recipe(), tmp_path, callbacks=(At((EPOCHS - 1, "validation"), send()),))
    assert run_differences(whole, tmp_path) == []


@pytest.mark.xdist_group("processes")
def test_a_second_signal_ends_the_process(tmp_path):
    assert finish(start(insist, recipe().to_dict(), tmp_path)) == -signal.SIGTERM


def poison(module):
    with torch.no_grad():
        next(module.model.parameters()).fill_(float("nan"))


@pytest.mark.parametrize("every", [None, 1])
def test_a_loss_that_is_none(whole, tmp_path, every):
    """The run ends with an error that says where; the last good checkpoint is there, and goes on without the fault."""
    expected = (
        r"the loss is nan in epoch 2, iteration 2 of 3 \(optimiser step 5, learning rate [\d.e-]+\); nothing of it was "
        r"saved.* lower optimizer.lr, a longer schedule.warmup_epochs, optimizer.clip_norm=1"
    )
    with pytest.raises(DynaconvError, match=expected):
        fit(recipe(checkpoint_every=every), tmp_path, callbacks=(At((1, 1), poison),))
    assert read_sealed(tmp_path / "last.ckpt")["global_step"] == (3 if every is None else 4)
    resume(tmp_path)
    if every is None:
        assert run_differences(whole, tmp_path) == []


def test_weights_that_are_none_are_not_saved(tmp_path):
    """A finite loss can have a gradient that is not; the weights are looked at before they replace good ones."""

    class Overflow(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.global_step == 4:
                next(p for p in pl_module.parameters() if p.grad is not None).grad.fill_(float("inf"))

    with pytest.raises(DynaconvError, match=r"weights are not finite in epoch 2, iteration 2"):
        fit(recipe(checkpoint_every=1), tmp_path, callbacks=(Overflow(),))
    assert read_sealed(tmp_path / "last.ckpt")["global_step"] == 4


def test_overflows_are_normal_with_a_loss_scale(tmp_path):
    """The scale skips such a step and is halved; only when nothing is left of it the run ends."""
    from dynaconv.training.runs.guarding import SKIPS_IN_A_ROW, RunGuard

    class Plugin:
        scaler = object()

    class Trainer:
        precision_plugin = Plugin()

    guard, nan = RunGuard(), {"loss": torch.tensor(float("nan"))}
    for _ in range(2):
        for _ in range(SKIPS_IN_A_ROW):
            guard.on_train_batch_end(Trainer(), None, nan, None, 0)
        assert guard._bad is None
        guard.on_train_batch_end(Trainer(), None, {"loss": torch.tensor(1.0)}, None, 0)
    for _ in range(SKIPS_IN_A_ROW + 1):
        guard.on_train_batch_end(Trainer(), None, nan, None, 0)
    assert guard._bad == "the loss is nan"
