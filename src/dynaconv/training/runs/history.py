"""The run's figures, one row an epoch: kept in the checkpoint, written as CSV, and shown to whoever asks."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torchmetrics import Metric

import dynaconv
from dynaconv.files import replacing
from dynaconv.training._lightning import Callback, LightningModule, Trainer
from dynaconv.training.engine.trained_module import trained_module

Row = dict[str, Any]
COLUMNS: tuple[str, ...] = (
    "epoch", "step", "lr", "tau", "train_loss", "train_top1", "val_loss", "val_top1", "val_top5", "unreadable",
    "val_unreadable", "seconds",
)  # fmt: skip
"""Epochs count from 1; steps are the optimiser's, accuracies shares of 1, seconds without validation. Unreadable are
images of files and streams: in training others took their place, in validation they were left out."""


UNFINISHED = "unfinished_epoch"
"""Entry of the checkpoint: sums of the figures of an epoch that is not over."""


class History(Callback):
    """Collects a row an epoch. A run resumed within an epoch continues the sums that its figures are made of.

    Args:
        path: the CSV file, rewritten with every row; None for none.
        report: called with each new row.
        columns: of a row.
    """

    def __init__(
        self,
        path: Path | None = None,
        report: Callable[[Row], None] | None = None,
        columns: tuple[str, ...] = COLUMNS,
    ) -> None:
        self.path, self.report, self.columns = path, report, columns
        self.rows: list[Row] = []
        self._clock = 0.0
        self._within = True
        self._restored: Mapping[str, Mapping[str, torch.Tensor]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock: a run resumed within an epoch gets no other start. Take up restored sums."""
        self._clock = time.perf_counter()
        self._within = True
        if trainer.is_global_zero:  # the sums are of all processes
            metrics = trained_module(pl_module).train_metrics
            for name, state in self._restored.items():
                for key, value in state.items():
                    setattr(metrics[name], key, value.to(pl_module.device))
                metrics[name]._update_count = 1
        self._restored = {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._clock = time.perf_counter()
        self._within = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._clock -= time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the clock run on."""
        self._clock += time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch's row."""
        self._within = False
        row: Row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": float(trainer.optimizers[0].param_groups[0]["lr"]),
            "tau": dynaconv.get_temperature(pl_module),
            "seconds": round(time.perf_counter() - self._clock, 3),
        }
        row |= {k: float(v) for k, v in trainer.callback_metrics.items() if k in self.columns and k not in row}
        self.rows.append({name: row.get(name) for name in self.columns})
        if trainer.is_global_zero:
            if self.path is not None:
                write_csv(self.path, self.rows, self.columns)
            if self.report is not None:
                self.report(self.rows[-1])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the sums of an epoch that is not over."""
        if self._within:
            checkpoint[UNFINISHED] = {
                name: _sums(metric, trainer.world_size)
                for name, metric in trained_module(pl_module).train_metrics.items()
            }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the sums until training starts."""
        self._restored = checkpoint.get(UNFINISHED, {})

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the rows of the run that is resumed."""
        self.rows = list(state_dict["rows"])


def read_csv(path: Path) -> list[Row]:
    """Rows that :func:`write_csv` wrote; none if there is no file."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{k: float(v) if v else None for k, v in row.items()} for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> None:
    """Write rows; the file is replaced in one move."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(columns))
        writer.writeheader()
        writer.writerows(rows)


def _sums(metric: Metric, processes: int) -> dict[str, torch.Tensor]:
    """A copy of a metric's state, summed over all processes, on the CPU."""
    if processes > 1:
        metric.sync()
    state = {
        name: value.detach().cpu().clone() for name, value in metric.metric_state.items() if torch.is_tensor(value)
    }
    if processes > 1:
        metric.unsync()
    return state
