"""How the commands that train begin, and what they say when they end early."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynaconv.cli.options import SHORT, command_name, epoch_line, on_terminal, quiet_logs
from dynaconv.errors import DynaconvError

RUNS, AUTO_ID = "runs", "auto"
NAMES = {**SHORT, "--run-id": "--run_id", "--auto-resume": "--auto_resume"}
"""Short and other names of the flags of commands that train."""


@dataclass(frozen=True)
class RunFlow:
    """How a command that trains speaks.

    Args:
        command: that resumes a run, without the program's name.
        end: says what a run came to; called in the first of several processes alone.
        before: says what a trained network is that a run begins with; likewise.
    """

    command: str
    end: Callable[[Any], None]
    before: Callable[[Mapping[str, Any]], None] = lambda summary: None


def add_folder_flags(flags: Any) -> None:
    """Add where to put the run, and whether to go on with it."""
    flags.add_argument("--out", type=str | None, default=None, help=f"folder of all runs, {RUNS} if not given")
    flags.add_argument("--name", type=str | None, default=None, help="name of the run; what is trained if not given")
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


def start_run(recipe: Any, folder: Path, auto: bool, task: Any, beginning: str, flow: RunFlow) -> None:
    """Train, and say where everything goes and how to go on.

    Args:
        recipe: of the run.
        folder: of the run.
        auto: go on with the run if its folder holds it.
        task: the kind of run.
        beginning: said when the run can begin.
        flow: how the command speaks.
    """
    from dynaconv.training.runs.fitting import fit, fit_or_resume

    say = _once(print)
    quiet_logs()
    with resumable(folder, say, flow.command):
        result = (fit_or_resume if auto else fit)(
            recipe,
            folder,
            task=task,
            report=epoch_line(recipe.schedule.epochs),
            progress_bar=on_terminal(),
            before=_once(flow.before),
            ready=lambda: say(beginning, flush=True),
        )
        _once(flow.end)(result)


def resume_run(folder: Path, task: Any, flow: RunFlow) -> None:
    """Go on with a run, or say that it had finished.

    Args:
        folder: of the run.
        task: the kind of run.
        flow: how the command speaks.
    """
    from dynaconv.training.runs.fitting import CONFIG_FILE, load_recipe, resume

    quiet_logs()
    config, say = folder / CONFIG_FILE, _once(print)
    if not config.is_file():
        raise DynaconvError(f"--resume {folder}: there is no {CONFIG_FILE}; expected a run's folder, runs/NAME/TIME")
    epochs, trained = load_recipe(config, task).schedule.epochs, []
    show = epoch_line(epochs)

    def report(row: Any) -> None:
        trained.append(row)
        show(row)

    with resumable(folder, say, flow.command):
        result = resume(folder, task=task, report=report, progress_bar=on_terminal())
    if not trained:
        say(
            f"{folder} had finished already, with {len(result.rows)} of {epochs} epochs; nothing was trained. To go "
            f"on, raise schedule.epochs in {config}"
        )
    _once(flow.end)(result)


@contextmanager
def resumable(folder: Path, say: Callable[..., None], command: str = "train") -> Iterator[None]:
    """Say how to go on with a run that was interrupted, or told to stop.

    Args:
        folder: of the run.
        say: prints, in the first of several processes alone.
        command: that resumes.
    """
    from dynaconv.training.runs.guarding import RunStopped
    from dynaconv.training.runs.saving import holds_run

    command = f"{command_name()} {command} --resume {folder}"
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


def classifier_end(result: Any) -> None:
    """What a run of image classification came to, and what to do with it."""
    command = command_name()
    print(f"best validation accuracy {result.best_score:.2%} with {result.parameters:,} parameters")
    print(f"saved: {result.best}.safetensors and .json; curves: {result.run_dir / 'curves.png'}")
    print(f"next:  {command} eval {result.best}    {command} predict IMAGE... --checkpoint {result.best}")


def _once(act: Callable[..., None]) -> Callable[..., None]:
    """Act in the first process alone of a run on several devices."""
    from dynaconv.training._lightning import rank_zero_only

    return rank_zero_only(act)
