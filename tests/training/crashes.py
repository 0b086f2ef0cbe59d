"""Runs in processes of their own that are killed: at any moment from outside, or by themselves on a file's way.

A server process imports everything once and forks the processes that train, so that a kill and a resume cost a second.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRELOADED = ["lightning.pytorch", "timm", "torchvision.transforms.v2", "sklearn.datasets", "tests.training.crashes"]
PRELOADED += ["torch.utils.tensorboard", "matplotlib.backends.backend_agg", "dynaconv.training", "torch._dynamo"]
SECONDS = 120
"""No run of a test takes longer, however busy the machine is."""


def start(target: Callable[..., None], *arguments: Any) -> multiprocessing.process.BaseProcess:
    """Start a function of this module in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=target, args=arguments)  # pyright: ignore[reportAttributeAccessIssue]
    process.start()
    return process


def finish(process: multiprocessing.process.BaseProcess) -> int:
    """Exit code of a process; of a killed one the signal, negative."""
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"no end after {SECONDS} s")
    return process.exitcode


def train(recipe: dict[str, Any], folder: Path, fault: str | None = None) -> None:
    """Start or continue a run; the process kills itself where the fault says, `PLACE:COUNT`."""
    import warnings

    import torch

    from dynaconv.training import Recipe
    from dynaconv.training.runs.fitting import fit_or_resume

    quiet()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if fault is not None:
        place, _, count = fault.partition(":")
        PLACES[place](int(count))
    fit_or_resume(Recipe.from_dict(recipe), folder)


def insist(recipe: dict[str, Any], folder: Path) -> None:
    """Train, get SIGTERM twice at once, and once more when the first are known to be one."""
    import time
    import warnings

    from dynaconv.training import Recipe, fit
    from dynaconv.training._lightning import Callback
    from dynaconv.training.runs.guarding import SAME_SECONDS

    class Impatient(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            for pause in (0.0, SAME_SECONDS * 1.1, 0.0):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(pause)
            os._exit(3)

    quiet()
    warnings.simplefilter("ignore")
    fit(Recipe.from_dict(recipe), folder, callbacks=(Impatient(),))


def quiet() -> None:
    """Write nothing to the terminal of the tests."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(null, stream.fileno())


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_at(owner: Any, name: str, count: int, matches: Callable[..., bool], after: bool = False) -> None:
    """Die at the count-th call of a function that matches, before it or right after."""
    original, seen = getattr(owner, name), [0]

    def call(*arguments: Any, **options: Any) -> Any:
        here = matches(*arguments)
        seen[0] += here
        if here and seen[0] == count and not after:
            die()
        result = original(*arguments, **options)
        if here and seen[0] == count and after:
            die()
        return result

    setattr(owner, name, call)


def _replace(target: str, after: bool = False) -> Callable[[int], None]:
    """Die when a file is moved into place, or right after."""
    return lambda count: _kill_at(os, "replace", count, lambda source, to: Path(to).name == target, after)


def _write(count: int) -> None:
    """Die when a part of last.ckpt is written, and the rest is not."""
    from dynaconv.training.runs.sealed import _Sealing

    _kill_at(_Sealing, "write", count, lambda *_: True)


def _link(count: int) -> None:
    _kill_at(os, "link", count, lambda *_: True)


def _validation(count: int) -> None:
    from dynaconv.training.engine.module import ClassificationModule

    _kill_at(ClassificationModule, "validation_step", count, lambda *_: True)


PLACES = {
    "config before its move": _replace("config.yaml"),
    "best weights before their move": _replace("best.safetensors"),
    "between the files of best": _replace("best.json"),
    "last.ckpt half written": _write,
    "last.ckpt before the previous is kept": _link,
    "last.ckpt before its move": _replace("last.ckpt"),
    "last.ckpt after its move": _replace("last.ckpt", after=True),
    "previous.ckpt before its move": _replace("previous.ckpt"),
    "in validation": _validation,
    "between the files of last": _replace("last.json"),
    "metrics before their move": _replace("metrics.csv"),
}
FAULTS = dict.fromkeys(PLACES, 1) | {"last.ckpt half written": 20, "in validation": 5, "metrics before their move": 2}
"""Where a process can die, and by which time."""
