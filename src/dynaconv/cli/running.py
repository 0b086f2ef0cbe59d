"""How the commands that train begin, and what they say when they end early."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dynaconv.cli.options import SHORT, command_name

RUNS, AUTO_ID = "runs", "auto"
NAMES = {**SHORT, "--run-id": "--run_id", "--auto-resume": "--auto_resume"}
"""Short and other names of the flags of commands that train."""


def add_folder_flags(flags: Any) -> None:
    """Add where to put the run, and whether to go on with it."""
    flags.add_argument("--out", type=str | None, default=None, help=f"folder of all runs, {RUNS} if not given")
    flags.add_argument("--name", type=str | None, default=None, help="name of the run, the model's if not given")
    flags.add_argument(
        "--run_id", type=str | None, default=None, help="name of the run's own folder, the time if not given"
    )
    flags.add_argument(
        "--auto_resume",
        action="store_true",
        help="go on with the run if its folder (--run_id, or else 'auto') holds it, and start it otherwise: a job that "
        "is queued again repeats its command",
    )


def run_folder(out: str | None, name: str, run_id: str | None, auto_resume: bool) -> Path:
    """The folder of a run."""
    return Path(out or RUNS) / name / (run_id or (AUTO_ID if auto_resume else time.strftime("%Y%m%d-%H%M%S")))


@contextmanager
def resumable(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Say how to go on with a run that was interrupted, or told to stop.

    Args:
        folder: of the run.
        say: prints, in the first of several processes alone.
    """
    from dynaconv.training.runs.guarding import RunStopped
    from dynaconv.training.runs.saving import holds_run

    command = f"{command_name()} train --resume {folder}"
    try:
        yield
    except RunStopped as stop:
        if holds_run(folder):
            say(f"stopped by a signal, saved after optimiser step {stop.step}; to continue: {command}")
        raise
    except KeyboardInterrupt:
        if holds_run(folder):
            say(f"\nto continue: {command}")
        else:
            say("\nnothing to resume yet: the first checkpoint comes after an epoch, or --run.checkpoint_every steps")
        raise
