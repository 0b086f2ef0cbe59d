"""Two processes that would train in one folder: the second one says so, and touches nothing."""

from __future__ import annotations

import json
import shutil
import signal
import time

import pytest

from dynaconv.errors import DynaconvError
from dynaconv.training import Recipe, RunConfig, ScheduleConfig, fit, resume
from dynaconv.training.runs import fitting
from dynaconv.training.runs.claiming import CLAIM_FILE
from dynaconv.training.runs.fitting import fit_or_resume
from tests.forked import finish, start
from tests.training.tiny import static_recipe

pytestmark = pytest.mark.xdist_group("processes")

RECIPE = static_recipe(
    run=RunConfig(accelerator="cpu", checkpoint_every=1), schedule=ScheduleConfig(epochs=1, warmup_epochs=0.5)
)


def train_and_wait(recipe, folder) -> None:
    """Train until the second step, which begins when there is a file ``go on``."""
    from dynaconv.training._lightning import Callback
    from tests.forked import redirect

    class Waits(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            while trainer.global_step == 1 and not (folder / "go on").exists():
                time.sleep(0.01)

    redirect()
    fit_or_resume(Recipe.from_dict(recipe), folder, callbacks=(Waits(),))


@pytest.fixture
def busy(tmp_path):
    """A process that trains, has saved its first step, and waits; and the folder of its run."""
    run = tmp_path / "run"
    process = start(train_and_wait, RECIPE.to_dict(), run)
    try:
        while not (run / "last.ckpt").exists():
            assert process.is_alive()
            time.sleep(0.01)
        yield process, run
    finally:
        process.kill()
        process.join()


def test_the_second_one_is_refused(busy, tmp_path):
    process, run = busy
    half = run / ".half.tmp"  # what it writes just now
    half.touch()
    said = f"process {process.pid} on .* trains in {run}; wait for its end"
    with pytest.raises(DynaconvError, match=said):
        resume(run)
    (run / "last.ckpt").rename(tmp_path / "last.ckpt")  # as if it had saved nothing yet
    with pytest.raises(DynaconvError, match=said):
        fit(RECIPE, run)
    (tmp_path / "last.ckpt").rename(run / "last.ckpt")
    half.unlink()
    (run / "go on").touch()
    assert finish(process) == 0
    assert len(resume(run).rows) == 1
    assert not (run / CLAIM_FILE).exists()


def test_a_killed_one_keeps_nobody_out(busy):
    process, run = busy
    process.kill()
    assert finish(process) == -signal.SIGKILL
    assert (run / CLAIM_FILE).is_file()
    assert len(resume(run).rows) == 1
    assert not (run / CLAIM_FILE).exists()


def test_a_job_that_is_queued_again_on_another_machine_goes_on_at_once(tmp_path):
    (tmp_path / CLAIM_FILE).write_text(json.dumps({"pid": 1, "born": None, "host": "elsewhere", "token": "x"}))
    fit(RECIPE, tmp_path)
    assert not (tmp_path / CLAIM_FILE).exists()


def test_a_run_that_came_and_went_meanwhile_stays(tmp_path, monkeypatch):
    fit(RECIPE, tmp_path / "whole")
    make = fitting.make_trainer

    def late(*arguments):
        shutil.copytree(tmp_path / "whole", tmp_path / "run")
        return make(*arguments)

    monkeypatch.setattr(fitting, "make_trainer", late)
    with pytest.raises(DynaconvError, match="holds a run of another process by now"):
        fit(RECIPE, tmp_path / "run")
    before, after = ({path.name for path in (tmp_path / name).rglob("*")} for name in ("whole", "run"))
    assert after == before
