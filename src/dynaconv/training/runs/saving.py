"""What a run leaves in its folder: `best` and `last` for use, `last.ckpt` to resume from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynaconv.checkpoints.native import save_checkpoint
from dynaconv.training._lightning import Checkpoint, LightningModule, Trainer
from dynaconv.training.engine.sharding import full_state
from dynaconv.training.engine.trained_module import trained_module
from dynaconv.training.runs.guarding import RunGuard, stopped
from dynaconv.training.runs.sealed import NOTE, PREVIOUS_FILE, RESUME_FILE

__all__ = ["PREVIOUS_FILE", "RESUME_FILE", "RunCheckpoint", "holds_run"]


def holds_run(folder: Path) -> bool:
    """Whether a folder has something to resume from."""
    return any((folder / name).is_file() for name in (RESUME_FILE, PREVIOUS_FILE))


class RunCheckpoint(Checkpoint):
    """Saves after every epoch, and when the run is told to stop; Lightning runs it after all other callbacks.

    ``best`` and ``last`` hold the network that validation judged (the moving average, where there is one). They are
    written before ``last.ckpt``: a run that is killed in between makes the same ones again.

    Args:
        folder: of the run.
        description: the ``recipe`` of :func:`dynaconv.checkpoints.native.save_checkpoint`.
        criterion: figure of validation whose highest value makes an epoch the best.
        every_steps: also write the file to resume from every so many optimiser steps.
        guard: says when to stop.
        note: plain values that the file to resume from is to carry, such as the run's recipe.
    """

    def __init__(
        self,
        folder: Path,
        description: Mapping[str, Any],
        criterion: str = "val_top1",
        every_steps: int | None = None,
        guard: RunGuard | None = None,
        note: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.description = folder, description
        self.criterion, self.every_steps = criterion, every_steps
        self.guard, self.note = guard or RunGuard(), dict(note or {})
        self.best_score = -1.0
        self._step = 0
        self._stop = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count optimiser steps from here."""
        self._step, self._stop = trainer.global_step, False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between epochs, if that was decided when the last one was saved."""
        if self._stop:
            raise stopped(trainer)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write where the first process does: a folder named by the time is named differently by each."""
        self.folder = trainer.strategy.broadcast(self.folder)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save within an epoch, right after an optimiser step, when gradients are not half accumulated.

        After the last step of an epoch, its end saves: Lightning would resume behind the validation.
        """
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        due = bool(self.every_steps) and self._step % (self.every_steps or 1) == 0 and not trainer.is_last_batch
        stop = self.guard.check(trainer, pl_module, saving=due)
        if trainer.is_last_batch:
            return
        if due or stop:
            trainer.save_checkpoint(self.folder / RESUME_FILE, weights_only=False)
        if stop:
            raise stopped(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the epoch's network, and keep it as the best if no earlier one is as good."""
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(("train_", "val_"))}
        score = metrics.get(self.criterion, 0.0)
        better = score > self.best_score
        self.best_score = max(score, self.best_score)
        self._stop = self.guard.check(trainer, pl_module, saving=True)
        model = trained_module(pl_module).evaluated
        state = full_state(model)  # every process has to give its part
        if trainer.is_global_zero:
            extra = {"epoch": trainer.current_epoch + 1, "metrics": metrics}
            for name in ("last", "best") if better else ("last",):
                save_checkpoint(self.folder / name, model, self.description, extra, state=state)
        trainer.save_checkpoint(self.folder / RESUME_FILE, weights_only=False)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note what run this is of."""
        checkpoint[NOTE] = {**self.note, "processes": trainer.world_size}

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do not let a resumed run replace a better network of before."""
        self.best_score = state_dict["best_score"]
