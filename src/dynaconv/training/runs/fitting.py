"""`fit` and `resume` as plain functions: Lightning's Trainer with this package's callbacks."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import dynaconv
from dynaconv.errors import DynaconvError
from dynaconv.files import write_text
from dynaconv.training._lightning import (
    Callback,
    RichProgressBar,
    SIGTERMException,
    Trainer,
    quiet_lightning,
    rank_zero_only,
)
from dynaconv.training.config import RunRecipe
from dynaconv.training.data.sampling import seeded
from dynaconv.training.data.unchanged import note_data
from dynaconv.training.data.unreadable import UnreadableReport
from dynaconv.training.engine.attention_watch import AttentionWatch
from dynaconv.training.engine.callbacks import IterationSeed, TemperatureCallback
from dynaconv.training.engine.ema import EmaCallback
from dynaconv.training.engine.optimizer import make_optimizer
from dynaconv.training.engine.trainer import make_trainer
from dynaconv.training.runs.claiming import claimed
from dynaconv.training.runs.classification import CLASSIFICATION
from dynaconv.training.runs.curves import save_curves
from dynaconv.training.runs.guarding import RunGuard, stopped
from dynaconv.training.runs.history import History, Row
from dynaconv.training.runs.resuming import (
    Checkpointed,
    check_iteration,
    check_recipe,
    find_checkpoint,
    recipe_differences,
    tidy,
)
from dynaconv.training.runs.saving import RESUME_FILE, RunCheckpoint, holds_run
from dynaconv.training.runs.task import AnyRecipe, Task
from dynaconv.training.yaml_files import read_yaml

CONFIG_FILE = "config.yaml"
START_FILE = "start.json"
"""Figures of a trained start: accuracy before and after conversion, parameters, errors."""


@dataclass(frozen=True)
class FitResult:
    """What a run came to.

    Args:
        run_dir: folder with config.yaml, metrics.csv, curves.png, tensorboard/, best, last and last.ckpt.
        best: common name of the best checkpoint's two files, for `load_checkpoint`.
        best_score: of the best epoch, a share of 1: validation accuracy, or what else the task's criterion is.
        parameters: of the network.
        rows: figures of every epoch, columns as the task has them.
        start: figures of the trained network and of what it was converted to, for a run that began with one.
    """

    run_dir: Path
    best: Path
    best_score: float
    parameters: int
    rows: list[Row]
    start: dict[str, Any] | None = None

    @property
    def seconds_per_epoch(self) -> float:
        """Median training time of an epoch, without validation."""
        times = sorted(row["seconds"] for row in self.rows)
        return times[len(times) // 2] if times else 0.0


def fit(
    recipe: AnyRecipe,
    run_dir: str | Path,
    *,
    task: Task[AnyRecipe] = CLASSIFICATION,
    report: Callable[[Row], None] | None = None,
    progress_bar: bool = False,
    callbacks: tuple[Callback, ...] = (),
    before: Callable[[dict[str, Any]], None] = lambda summary: None,
    ready: Callable[[], None] = lambda: None,
) -> FitResult:
    """Train a network from its start, at random or from a trained one (``recipe.tune``).

    Args:
        recipe: what to train on what, and how.
        run_dir: where everything goes; must not hold a run yet.
        task: the kind of run, which the recipe is of.
        report: called with the figures of every epoch.
        progress_bar: show Lightning's progress bar with loss, accuracy and tau.
        callbacks: further Lightning callbacks.
        before: called with the figures of a trained start, before the first epoch.
        ready: called when data, network, optimiser and devices are there, and the folder is made.

    Raises:
        DynaconvError: if the folder holds a run or another process trains in it, the recipe can not be carried out, a
            loss is not finite, or a file can not be written.
        RunStopped: after SIGTERM or SIGUSR1; the run is saved, and `resume` continues it.
    """
    folder = Path(run_dir)
    if holds_run(folder):
        raise DynaconvError(f"{folder} already holds a run; resume it, or choose another folder")
    return _run(task, recipe, folder, None, report, progress_bar, callbacks, before, ready)


def resume(
    run_dir: str | Path,
    *,
    task: Task[Any] = CLASSIFICATION,
    report: Callable[[Row], None] | None = None,
    progress_bar: bool = False,
    callbacks: tuple[Callback, ...] = (),
) -> FitResult:
    """Continue a run exactly where its last checkpoint was written; a finished run is returned as it is.

    Where the last checkpoint is damaged, the one before it is taken, and a warning says so.

    Raises:
        DynaconvError: if the folder holds no run that can be resumed, another process trains in it, or its config.yaml
            is another than the run's.
        RunStopped: as :func:`fit`.
    """
    folder = Path(run_dir)
    if folder.is_file():
        raise DynaconvError(f"{folder} is a file; expected the folder of a run, such as {folder.parent}")
    missing = [] if (folder / CONFIG_FILE).is_file() else [CONFIG_FILE]
    missing += [] if holds_run(folder) else [RESUME_FILE]
    if missing:
        raise DynaconvError(
            f"{folder} has no {' and no '.join(missing)}, so there is nothing to resume; expected the folder of a run, "
            "such as runs/<name>/<time>"
        )
    recipe = load_recipe(folder / CONFIG_FILE, task)
    found = find_checkpoint(folder, task.recipe)
    check_recipe(found, recipe, folder)
    return _run(task, recipe, folder, found, report, progress_bar, callbacks)


def fit_or_resume(
    recipe: AnyRecipe,
    run_dir: str | Path,
    *,
    task: Task[AnyRecipe] = CLASSIFICATION,
    before: Callable[[dict[str, Any]], None] = lambda summary: None,
    ready: Callable[[], None] = lambda: None,
    **watching: Any,
) -> FitResult:
    """Start a run, or go on with it if its folder holds it: the same call again and again, until it is done.

    Arguments and errors are those of :func:`fit`.

    Args:
        recipe: of the run.
        run_dir: its folder.
        task: see :func:`fit`.
        before: see :func:`fit`.
        ready: see :func:`fit`.
        watching: ``report``, ``progress_bar`` and ``callbacks`` of :func:`fit`.

    Raises:
        DynaconvError: if the folder holds a run of another recipe; it names the fields that differ.
    """
    folder = Path(run_dir)
    if not holds_run(folder):
        return fit(recipe, folder, task=task, before=before, ready=ready, **watching)
    there = load_recipe(folder / CONFIG_FILE, task)
    if different := recipe_differences(there, task.located(task.settle(recipe))):
        raise DynaconvError(
            f"{folder} holds a run of another recipe: {different}. Use the same values to go on there, or another "
            "folder"
        )
    ready()
    return resume(folder, task=task, **watching)


def load_recipe(path: str | Path, task: Task[AnyRecipe] = CLASSIFICATION) -> AnyRecipe:
    """Read a recipe from YAML.

    Args:
        path: of the file.
        task: the kind of run that it is for.

    Raises:
        DynaconvError: if it is no YAML, or no recipe.
    """
    values = read_yaml(path)
    fields = values.keys() if isinstance(values, Mapping) else ()
    if "detector" in fields and task is CLASSIFICATION:
        raise DynaconvError(f"{path} is of a detector; `dynaconv detect train --resume` goes on with its run")
    if fields and "detector" not in fields and task is not CLASSIFICATION:
        raise DynaconvError(f"{path} is of a classifier; `dynaconv train --resume` goes on with its run")
    return task.recipe.from_dict({} if values is None else values)


def save_recipe(recipe: RunRecipe, path: str | Path) -> None:
    """Write a recipe as YAML, in one move."""
    write_text(Path(path), yaml.safe_dump(recipe.to_dict(), sort_keys=False))


def _run(
    task: Task[AnyRecipe],
    recipe: AnyRecipe,
    folder: Path,
    found: Checkpointed | None,
    report: Callable[[Row], None] | None,
    progress_bar: bool,
    callbacks: tuple[Callback, ...],
    before: Callable[[dict[str, Any]], None] = lambda summary: None,
    ready: Callable[[], None] = lambda: None,
) -> FitResult:
    start = task.begin(recipe, None if found is None else folder)
    recipe, module = start.recipe, start.module
    if recipe.run.sync_batchnorm:
        dynaconv.synchronise_norms(module.model)
    make_optimizer(module.model, recipe.optimizer)  # before anything is written: it may refuse
    history = History(folder / "metrics.csv", report, task.columns)
    guard, note = RunGuard(), {"recipe": task.located(recipe).to_dict()}
    saving = RunCheckpoint(folder, start.description, task.criterion, recipe.run.checkpoint_every, guard, note)
    every = [
        IterationSeed(recipe.run.seed),
        TemperatureCallback(recipe.schedule.temperature_length),
        UnreadableReport(start.data.ledgers),
        history,
        guard,
        saving,
    ]
    if recipe.ema.decay is not None:
        every.append(EmaCallback(recipe.ema))
    if recipe.run.attention_maps:
        every.append(AttentionWatch.of_run(module, start.data, folder))  # before anything is written: it may refuse
    if progress_bar:
        every.append(RichProgressBar())
    with quiet_lightning(), seeded(recipe.run.seed):
        first_step = 0 if found is None else found.step
        trainer = make_trainer(recipe, folder, [*every, *callbacks], progress_bar, first_step)
        if found is not None:
            check_iteration(found, recipe, trainer.world_size)
        # After the trainer, which knows what each process's rank is.
        with claimed(folder, new=found is None) if trainer.is_global_zero else nullcontext():
            rank_zero_only(tidy)(folder, found)
            rank_zero_only(save_recipe)(task.located(recipe), folder / CONFIG_FILE)
            if found is None:
                note_data(start.data, folder)
            ready()
            if found is None and start.summary is not None:
                rank_zero_only(write_text)(folder / START_FILE, json.dumps(start.summary, indent=1) + "\n")
                before(start.summary)
            path = None if found is None else found.path
            with _ending(trainer):
                trainer.fit(module, datamodule=start.data, ckpt_path=path, weights_only=True)
            if trainer.is_global_zero:
                save_curves({recipe.model: history.rows}, folder / "curves.png", task.panels)
    parameters = sum(p.numel() for p in module.model.parameters())
    return FitResult(saving.folder, saving.folder / "best", saving.best_score, parameters, history.rows, start.summary)


@contextmanager
def _ending(trainer: Trainer) -> Iterator[None]:
    """Let Ctrl-C be a KeyboardInterrupt: Lightning ends the process instead, and ignores Ctrl-C from then on.

    A SIGTERM that reached Lightning's own handler, before training began, is a :class:`RunStopped` too.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SIGTERMException as stop:
        raise stopped(trainer) from stop
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from stop
        raise
