"""What torchrun starts for test_runs.py: commands and a fine-tuning, one after the other, in every process."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import torch

from dynaconv.cli.main import main
from dynaconv.training import fit
from dynaconv.training._lightning import Callback
from dynaconv.training.runs.fitting import load_recipe
from dynaconv.training.runs.guarding import RunStopped


class KeepStart(Callback):
    """Saves what a process starts with, before DistributedDataParallel gives all the first one's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def setup(self, trainer, pl_module, stage):
        teacher = pl_module._teacher[0].state_dict()
        start = {"network": pl_module.model.state_dict(), "teacher": teacher}
        torch.save(start, self.folder / f"start-{trainer.global_rank}.pt")


class StopSecond(Callback):
    """Tells the second process alone to stop."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx, trainer.global_rank) == (0, 1, 1):
            os.kill(os.getpid(), signal.SIGTERM)


def run(folder: Path) -> None:
    for command in (
        ["train", "--config", str(folder / "fresh.yaml"), "--out", str(folder), "--name", "fresh"],
        ["train", "--resume", str(folder / "interrupted")],
        ["detect", "train", "--config", str(folder / "shapes.yaml"), "--out", str(folder), "--name", "shapes"],
    ):
        assert main(command) == 0
    fit(load_recipe(folder / "tuned.yaml"), folder / "tuned", callbacks=(KeepStart(folder),))
    with suppress(RunStopped):
        fit(load_recipe(folder / "fresh.yaml"), folder / "stopped", callbacks=(StopSecond(),))


if __name__ == "__main__":
    run(Path(sys.argv[1]))
