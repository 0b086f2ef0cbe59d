"""What a run leaves in its folder: `best` and `last` for use, `last.ckpt` to resume from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynaconv.checkpoints.native import save_checkpoint
from dynaconv.training._lightning import Checkpoint, LightningModule, Trainer
from dynaconv.training.module import classification_module
from dynaconv.training.sharding import full_state

RESUME_FILE = "last.ckpt"
"""Lightning's checkpoint: network, average, optimiser, loops, loader, history. Plain types, read with weights_only."""


class RunCheckpoint(Checkpoint):
    """Saves after every epoch; Lightning runs it after all other callbacks.

    ``best`` and ``last`` hold the network that validation judged (the moving average, where there is one).

    Args:
        folder: of the run.
        description: the ``recipe`` of :func:`dynaconv.checkpoints.native.save_checkpoint`.
        every_steps: also write the file to resume from every so many optimiser steps.
    """

    def __init__(self, folder: Path, description: Mapping[str, Any], every_steps: int | None = None) -> None:
        self.folder, self.description, self.every_steps = folder, description, every_steps
        self.best_top1 = -1.0
        self._saved_step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write where the first process does: a folder named by the time is named differently by each."""
        self.folder = trainer.strategy.broadcast(self.folder)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save within an epoch, right after an optimiser step, when gradients are not half accumulated."""
        step = trainer.global_step
        if self.every_steps and step % self.every_steps == 0 and step != self._saved_step:
            self._saved_step = step
            trainer.save_checkpoint(self.folder / RESUME_FILE, weights_only=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the epoch's network, and keep it as the best if no earlier one is as good."""
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(("train_", "val_"))}
        top1 = metrics.get("val_top1", 0.0)
        better = top1 > self.best_top1
        self.best_top1 = max(top1, self.best_top1)
        model = classification_module(pl_module).evaluated
        state = full_state(model)  # every process has to give its part
        if trainer.is_global_zero:
            extra = {"epoch": trainer.current_epoch + 1, "metrics": metrics}
            for name in ("last", "best") if better else ("last",):
                save_checkpoint(self.folder / name, model, self.description, extra, state=state)
        trainer.save_checkpoint(self.folder / RESUME_FILE, weights_only=False)

    def state_dict(self) -> dict[str, Any]:
        """The best accuracy so far."""
        return {"best_top1": self.best_top1}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do not let a resumed run replace a better network of before."""
        self.best_top1 = state_dict["best_top1"]
