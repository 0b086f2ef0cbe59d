"""What may end a run early: a signal to stop, or numbers that are none. All processes of a run decide together."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from typing import Any

import torch
from torch import Tensor

import dynaconv
from dynaconv.errors import DynaconvError
from dynaconv.training._lightning import Callback, LightningModule, Trainer

STOPPED_CODE = 143
"""Exit code of a run that saved and stopped because it was told to: 128 + SIGTERM, as shells count."""
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
SAME_SECONDS = 1.0
"""Signals within so long are one: a process group and a job manager may both pass it on."""
SKIPS_IN_A_ROW = 30
"""With a loss scale, which starts at 2^16 and is halved with every overflow, more than this leave nothing of it."""


class RunStopped(SystemExit):
    """A run was told to stop, saved where it was, and stopped; resuming continues exactly there.

    Not handled, it ends the process with exit code 143, in the processes that Lightning itself started with 0.

    Args:
        code: exit code of this process.
        step: optimiser steps done.
    """

    def __init__(self, code: int = STOPPED_CODE, step: int = 0) -> None:
        super().__init__(code)
        self.step = step


class RunGuard(Callback):
    """Notes SIGTERM and SIGUSR1, and losses that are not finite; :meth:`check` acts on them after an optimiser step.

    Lightning's own handler of SIGTERM is replaced: it ends a run without saving, and talks to other processes from
    within the handler. A second signal ends the process at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._since = 0.0
        self._handlers: dict[int, Any] = {}
        self._bad: str | None = None
        self._skipped = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over from Lightning, which gives them back when it is done."""
        self.received, self._bad, self._skipped = None, None, 0
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._give_back()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            return
        value = float(loss)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if math.isfinite(value):
            self._skipped = 0
        elif scaler is None or self._skipped >= SKIPS_IN_A_ROW:
            self._bad = f"the loss is {value}"
        else:
            self._skipped += 1

    def check(self, trainer: Trainer, pl_module: LightningModule, saving: bool) -> bool:
        """Whether to save and stop; to be called by all processes after the same optimiser step.

        Args:
            trainer: of the run.
            pl_module: of the run.
            saving: whether this step is to be saved anyway, which only finite weights may.

        Raises:
            DynaconvError: if the loss, or weights that are to be saved, are not finite.
        """
        stop, bad = _any_process(trainer, self.received is not None, self._bad is not None)
        if not bad and (saving or stop):
            finite = _finite(pl_module)
            self._bad = None if finite else "weights are not finite"
            (bad,) = _any_process(trainer, not finite)
        if bad:
            raise DynaconvError(self._explain(trainer, pl_module))
        return stop

    def _explain(self, trainer: Trainer, pl_module: LightningModule) -> str:
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        tau = dynaconv.get_temperature(pl_module)
        heat = "" if tau is None else f", temperature {tau:.4g}"
        clip = "" if trainer.gradient_clip_val else ", optimizer.clip_norm=1"
        half = "" if trainer.precision == "32-true" else ", run.precision=32-true"
        what = self._bad or "the loss of another process is not finite"
        iteration = f"{trainer.fit_loop.batch_idx + 1} of {trainer.num_training_batches}"
        return (
            f"{what} in epoch {trainer.current_epoch + 1}, iteration {iteration} (optimiser step {trainer.global_step},"
            f" learning rate {rate:.4g}{heat}); nothing of it was saved, and the checkpoints of before stay. Try a "
            f"lower optimizer.lr, a longer schedule.warmup_epochs{clip}{half}"
        )

    def _note(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self.received is None:
            self.received, self._since = number, now
        elif now - self._since > SAME_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._handlers = {}


def stopped(trainer: Trainer) -> RunStopped:
    """The exception for this process: where Lightning watches processes it started, only the first has a code."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    watched = environment is not None and not environment.creates_processes_externally
    return RunStopped(0 if watched and trainer.local_rank else STOPPED_CODE, trainer.global_step)


def _any_process(trainer: Trainer, *values: bool) -> list[bool]:
    """Whether a value is true in any process, for each; one exchange between them."""
    if trainer.world_size == 1:
        return list(values)
    shared = torch.tensor(values, dtype=torch.int32, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
    return [bool(value) for value in shared.tolist()]


@torch.no_grad()
def _finite(pl_module: LightningModule) -> bool:
    """Whether all weights and statistics of this process are finite."""
    values = [getattr(v, "_local_tensor", v) for v in (*pl_module.parameters(), *pl_module.buffers())]
    found = [v.isfinite().all() for v in values if v.is_floating_point()]
    return not found or bool(torch.stack([v.to(found[0].device) for v in found]).all())
