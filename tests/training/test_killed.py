"""SIGKILL at any moment: the same command again and again ends bit by bit where an uninterrupted run ends."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from contextlib import nullcontext, suppress

import pytest
import torch

from dynaconv.checkpoints.native import load_checkpoint
from dynaconv.errors import RunWarning
from dynaconv.training import AugmentConfig, EmaConfig, Recipe, RunConfig, ScheduleConfig
from dynaconv.training.runs.fitting import save_recipe
from tests.forked import finish, start
from tests.training.crashes import FAULTS, call, train
from tests.training.likeness import run_differences
from tests.training.tiny import BACKBONE, tiny_recipe

pytestmark = pytest.mark.xdist_group("processes")

KILLS = 10
ATTEMPTS = 5
RECIPE = tiny_recipe(
    backbone={**BACKBONE, "drop_path_rate": 0.2},
    augment=AugmentConfig(mixup=0.8, erasing=0.3),
    schedule=ScheduleConfig(epochs=4, warmup_epochs=1.0, temperature_epochs=2.5),
    ema=EmaConfig(decay=0.9),
    run=RunConfig(accelerator="cpu", checkpoint_every=1),
).to_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happens to, and how long it takes."""
    folder = tmp_path_factory.mktemp("whole")
    finish(start(train, RECIPE, folder))
    began = time.monotonic()
    assert finish(start(train, RECIPE, folder)) == 0
    beginning = time.monotonic() - began  # of a process that finds nothing to do
    return folder, beginning


def test_ten_kills_at_random_moments(whole, tmp_path):
    folder, beginning = whole
    seed = int(os.environ.get("DYNACONV_SEED", random.SystemRandom().randrange(10**6)))
    draw, died, steps, ends = random.Random(seed), 0, [], 0
    run = tmp_path / "run"
    while died < KILLS:
        process = start(train, RECIPE, run)
        process.join(draw.uniform(0.2, 1.6) * beginning)
        process.kill()
        died += finish(process) == -signal.SIGKILL
        steps.append(step(run))
        if process.exitcode == 0:  # it came to its end before: kill one from the start again
            assert run_differences(folder, run) == []
            ends += 1
            run.rename(tmp_path / f"end{ends}")
    print(f"DYNACONV_SEED={seed}: killed with these optimiser steps saved: {steps}")
    assert finish(start(train, RECIPE, run)) == 0
    assert run_differences(folder, run) == []
    assert not list(run.glob(".*.tmp"))


def step(folder) -> int:
    path = folder / "last.ckpt"
    return int(torch.load(path, weights_only=True)["global_step"]) if path.exists() else 0


def test_kills_at_every_point_of_a_files_way(whole, tmp_path):
    """Each process dies at one of them, the next goes on from there; best and last are whole at every moment."""
    for fault, count in FAULTS.items():
        assert finish(start(train, RECIPE, tmp_path, f"{fault}:{count}")) == -signal.SIGKILL, fault
        for name in ("best", "last"):
            if (tmp_path / f"{name}.safetensors").exists():
                torn = fault == f"between the files of {name}" and (tmp_path / f"{name}.json").exists()
                with pytest.warns(RunWarning, match="of another save") if torn else nullcontext():
                    load_checkpoint(tmp_path / name)
    assert finish(start(train, RECIPE, tmp_path)) == 0
    assert run_differences(whole[0], tmp_path) == []


def test_the_command_killed_and_told_to_stop(whole, tmp_path):
    """The command itself: SIGKILL, then SIGTERM, then to its end, always by the same line."""
    save_recipe(Recipe.from_dict(RECIPE), tmp_path / "recipe.yaml")
    command = ["train", "--config", "recipe.yaml", "--out", ".", "--name", "runs", "--run-id", "one", "--auto-resume"]
    run = tmp_path / "runs" / "one"
    ends = []
    for _ in range(ATTEMPTS):  # on a busy machine the run may be at its last step before a signal comes
        shutil.rmtree(run, ignore_errors=True)
        ends = []
        for number in (signal.SIGKILL, signal.SIGTERM):
            before = step(run)
            process = start(call, command, tmp_path, tmp_path / "said.txt")
            while process.is_alive() and step(run) == before:
                time.sleep(0.02)
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)
            ends.append((finish(process), (tmp_path / "said.txt").read_text()))
        if step(run) < step(whole[0]):
            break
    assert ends[0][0] == -signal.SIGKILL
    assert ends[1][0] == 143
    said = ends[1][1].splitlines()[-1]
    assert said.startswith(f"stopped by a signal, saved after optimiser step {step(run)}; to continue: dynaconv train")
    assert 0 < step(run) < step(whole[0])
    assert finish(start(train, RECIPE, run)) == 0
    assert run_differences(whole[0], run) == []
