"""`fit` and `resume` as plain functions: Lightning's Trainer with this package's callbacks."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from torch import nn

import dynaconv
from dynaconv.errors import DynaconvError
from dynaconv.files import clean_temporaries, write_text
from dynaconv.training._lightning import (
    Callback,
    RichProgressBar,
    SIGTERMException,
    Trainer,
    quiet_lightning,
    rank_zero_only,
)
from dynaconv.training.config import Recipe
from dynaconv.training.data.datamodule import ImageDataModule
from dynaconv.training.data.embedded import EMBEDDED
from dynaconv.training.data.sampling import seeded
from dynaconv.training.data.unchanged import check_unchanged, note_data
from dynaconv.training.data.unreadable import UnreadableReport
from dynaconv.training.engine.callbacks import IterationSeed, TemperatureCallback
from dynaconv.training.engine.ema import EmaCallback
from dynaconv.training.engine.module import ClassificationModule, make_optimizer
from dynaconv.training.engine.trainer import make_trainer
from dynaconv.training.engine.tuning import open_source_network, prepare_as, settle, start_from
from dynaconv.training.engine.tuning_module import TuningModule
from dynaconv.training.runs.curves import save_curves
from dynaconv.training.runs.guarding import RunGuard, stopped
from dynaconv.training.runs.history import History, Row
from dynaconv.training.runs.resuming import (
    Checkpointed,
    check_iteration,
    check_recipe,
    find_checkpoint,
    recipe_differences,
)
from dynaconv.training.runs.saving import RESUME_FILE, RunCheckpoint, holds_run
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
        best_top1: validation accuracy of the best epoch, a share of 1.
        parameters: of the network.
        rows: figures of every epoch, columns as in :data:`dynaconv.training.runs.history.COLUMNS`.
        start: figures of the trained network and of what it was converted to, for a run that began with one.
    """

    run_dir: Path
    best: Path
    best_top1: float
    parameters: int
    rows: list[Row]
    start: dict[str, Any] | None = None

    @property
    def seconds_per_epoch(self) -> float:
        """Median training time of an epoch, without validation."""
        times = sorted(row["seconds"] for row in self.rows)
        return times[len(times) // 2] if times else 0.0


def fit(
    recipe: Recipe,
    run_dir: str | Path,
    *,
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
        report: called with the figures of every epoch.
        progress_bar: show Lightning's progress bar with loss, accuracy and tau.
        callbacks: further Lightning callbacks.
        before: called with the figures of a trained start, before the first epoch.
        ready: called when data, network, optimiser and devices are there, and the folder is made.

    Raises:
        DynaconvError: if the folder holds a run, the recipe can not be carried out, a loss is not finite, or a file
            can not be written.
        RunStopped: after SIGTERM or SIGUSR1; the run is saved, and `resume` continues it.
    """
    folder = Path(run_dir)
    if holds_run(folder):
        raise DynaconvError(f"{folder} already holds a run; resume it, or choose another folder")
    rank_zero_only(clean_temporaries)(folder)
    return _run(recipe, folder, None, report, progress_bar, callbacks, before, ready)


def resume(
    run_dir: str | Path,
    *,
    report: Callable[[Row], None] | None = None,
    progress_bar: bool = False,
    callbacks: tuple[Callback, ...] = (),
) -> FitResult:
    """Continue a run exactly where its last checkpoint was written; a finished run is returned as it is.

    Where the last checkpoint is damaged, the one before it is taken, and a warning says so.

    Raises:
        DynaconvError: if the folder holds no run that can be resumed, or its config.yaml is another than the run's.
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
    recipe = load_recipe(folder / CONFIG_FILE)
    found = find_checkpoint(folder)
    check_recipe(found, recipe, folder)
    return _run(recipe, folder, found, report, progress_bar, callbacks)


def fit_or_resume(
    recipe: Recipe,
    run_dir: str | Path,
    *,
    before: Callable[[dict[str, Any]], None] = lambda summary: None,
    ready: Callable[[], None] = lambda: None,
    **watching: Any,
) -> FitResult:
    """Start a run, or go on with it if its folder holds it: the same call again and again, until it is done.

    Arguments and errors are those of :func:`fit`.

    Args:
        recipe: of the run.
        run_dir: its folder.
        before: see :func:`fit`.
        ready: see :func:`fit`.
        watching: ``report``, ``progress_bar`` and ``callbacks`` of :func:`fit`.

    Raises:
        DynaconvError: if the folder holds a run of another recipe; it names the fields that differ.
    """
    folder = Path(run_dir)
    if not holds_run(folder):
        return fit(recipe, folder, before=before, ready=ready, **watching)
    there = load_recipe(folder / CONFIG_FILE)
    asked = recipe if recipe.tune is None else settle(recipe, open_source_network(recipe))
    if different := recipe_differences(there, replace(asked, data=findable(asked.data))):
        raise DynaconvError(
            f"{folder} holds a run of another recipe: {different}. Use the same values to go on there, or another "
            "folder"
        )
    ready()
    return resume(folder, **watching)


def findable(data: str) -> str:
    """A data source's name that still means the same from another folder."""
    kind, mark, path = data.partition(":")
    if not mark and data not in EMBEDDED:
        return f"folder:{Path(data).expanduser().resolve()}"
    return f"{kind}:{Path(path).expanduser().resolve()}" if kind in ("folder", "wds") and "://" not in path else data


def build_model(recipe: Recipe, num_classes: int, in_chans: int) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a recipe at its random start, and the arguments that make it, as plain types.

    Args:
        recipe: ``model``, ``method``, ``where``, ``backbone`` and the seed of the start.
        num_classes: length of the logits.
        in_chans: channels of the images.
    """
    for name, value in (("num_classes", num_classes), ("in_chans", in_chans)):
        if recipe.backbone.get(name, value) != value:
            raise DynaconvError(
                f"backbone.{name}={recipe.backbone[name]}, but the data have {value}; leave it out (the data decide)"
            )
    backbone = {name: value for name, value in recipe.backbone.items() if name not in ("num_classes", "in_chans")}
    config = None if recipe.method is None else dynaconv.config_from_dict(recipe.method)
    description = {
        "name": recipe.model,
        "config": None if config is None else config.to_dict(),
        "where": recipe.where,
        "num_classes": num_classes,
        "in_chans": in_chans,
        "backbone_kwargs": backbone,
    }
    with seeded(recipe.run.seed):
        model = dynaconv.create_model(
            recipe.model,
            config=config,
            where=recipe.where,
            num_classes=num_classes,
            in_chans=in_chans,
            **backbone,
        )
    return model, description


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from YAML.

    Raises:
        DynaconvError: if it is no YAML, or no recipe.
    """
    values = read_yaml(path)
    return Recipe.from_dict({} if values is None else values)


@rank_zero_only
def prepare_folder(recipe: Recipe, folder: Path) -> None:
    """Make a run's folder and write its recipe, in the first of several processes alone."""
    root = recipe.loader.root
    loader = recipe.loader if root is None or "://" in root else replace(recipe.loader, root=str(Path(root).resolve()))
    save_recipe(replace(recipe, data=findable(recipe.data), loader=loader), folder / CONFIG_FILE)


def save_recipe(recipe: Recipe, path: str | Path) -> None:
    """Write a recipe as YAML, in one move."""
    write_text(Path(path), yaml.safe_dump(recipe.to_dict(), sort_keys=False))


def _run(
    recipe: Recipe,
    folder: Path,
    found: Checkpointed | None,
    report: Callable[[Row], None] | None,
    progress_bar: bool,
    callbacks: tuple[Callback, ...],
    before: Callable[[dict[str, Any]], None] = lambda summary: None,
    ready: Callable[[], None] = lambda: None,
) -> FitResult:
    recipe, images, module, arguments, summary = _begin(recipe, None if found is None else folder)
    model = dynaconv.synchronise_norms(module.model) if recipe.run.sync_batchnorm else module.model
    description = {"model": arguments, "data": findable(recipe.data), **images.preprocessing()}
    make_optimizer(model, recipe.optimizer)  # before anything is written: it may refuse
    history = History(folder / "metrics.csv", report)
    guard, note = RunGuard(), {"recipe": replace(recipe, data=findable(recipe.data)).to_dict()}
    saving = RunCheckpoint(folder, description, recipe.run.checkpoint_every, guard, note)
    every = [
        IterationSeed(recipe.run.seed),
        TemperatureCallback(recipe.schedule.temperature_length),
        UnreadableReport(images.ledgers),
        history,
        guard,
        saving,
    ]
    if recipe.ema.decay is not None:
        every.append(EmaCallback(recipe.ema))
    if progress_bar:
        every.append(RichProgressBar())
    with quiet_lightning(), seeded(recipe.run.seed):
        first_step = 0 if found is None else found.step
        trainer = make_trainer(recipe, folder, [*every, *callbacks], progress_bar, first_step)
        if found is not None:
            check_iteration(found, recipe, trainer.world_size)
        prepare_folder(recipe, folder)
        if found is None:
            note_data(images, folder)
        ready()
        if found is None and summary is not None:
            rank_zero_only(write_text)(folder / START_FILE, json.dumps(summary, indent=1) + "\n")
            before(summary)
        with _ending(trainer):
            trainer.fit(module, datamodule=images, ckpt_path=None if found is None else found.path, weights_only=True)
    if trainer.is_global_zero:
        save_curves({recipe.model: history.rows}, folder / "curves.png")
    parameters = sum(p.numel() for p in model.parameters())
    return FitResult(saving.folder, saving.folder / "best", saving.best_top1, parameters, history.rows, summary)


def _begin(
    recipe: Recipe, resumed: Path | None
) -> tuple[Recipe, ImageDataModule, ClassificationModule, dict[str, Any], dict[str, Any] | None]:
    """Data and network of a run at its start, the arguments that make the network, and figures of a trained start.

    A run that is resumed gives its folder, which says what its data were.
    """
    source = None if recipe.tune is None else open_source_network(recipe)
    if source is not None:
        recipe = settle(recipe, source)
    images = ImageDataModule.from_recipe(recipe)
    images.setup()
    if resumed is not None:
        check_unchanged(images, resumed)
    count = len(images.classes)
    if source is None:
        model, arguments = build_model(recipe, count, images.in_chans)
        return recipe, images, ClassificationModule(model, recipe, count), arguments, None
    prepare_as(images, source)
    start = start_from(recipe, source, images, judged=resumed is None)
    return recipe, images, TuningModule(start, recipe, count), start.arguments, start.summary


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
