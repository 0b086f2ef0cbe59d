"""Runs in processes of their own that are killed: at any moment from outside, or by themselves on a file's way."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.forked import redirect


def train(recipe: dict[str, Any], folder: Path, fault: str | None = None) -> None:
    """Start or continue a run; the process kills itself where the fault says, `PLACE:COUNT`."""
    from dynaconv.training import Recipe
    from dynaconv.training.runs.fitting import fit_or_resume

    redirect()
    if fault is not None:
        place, _, count = fault.partition(":")
        PLACES[place](int(count))
    fit_or_resume(Recipe.from_dict(recipe), folder)


def insist(recipe: dict[str, Any], folder: Path) -> None:
    """Train, get SIGTERM twice at once, and once more when the first are known to be one."""
    import time

    from dynaconv.training import Recipe, fit
    from dynaconv.training._lightning import Callback
    from dynaconv.training.runs.guarding import SAME_SECONDS

    class Impatient(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            for pause in (0.0, SAME_SECONDS * 1.1, 0.0):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(pause)
            os._exit(3)

    redirect()
    fit(Recipe.from_dict(recipe), folder, callbacks=(Impatient(),))


def call(command: list[str], folder: Path, said: Path) -> None:
    """The command line, in a folder; what it says goes to a file."""
    from dynaconv.cli.main import main

    redirect(said)
    os.chdir(folder)
    raise SystemExit(main(command))


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
