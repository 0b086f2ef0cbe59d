"""The folder of a comparison: which runs it is to hold, which it holds, and what became of each.

``OUT/compare.yaml`` says who is compared on which recipe; ``OUT/CONTENDER/seedK`` is a run's folder as `fit` writes it,
with ``run.json`` once it has finished, ``error.json`` if it has failed, and ``lock`` while a process trains it.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from dynaconv.analysis.environment import command_line, environment, utc_now
from dynaconv.errors import DynaconvError
from dynaconv.files import write_text
from dynaconv.training.comparison.contenders import Contender, check_contenders
from dynaconv.training.config import Recipe
from dynaconv.training.runs.fitting import CONFIG_FILE, fit, load_recipe, resume
from dynaconv.training.runs.history import Row, read_csv
from dynaconv.training.runs.lock import owner, wait_lock
from dynaconv.training.runs.resuming import differences, flat
from dynaconv.training.runs.saving import holds_run
from dynaconv.training.yaml_files import read_yaml

COMPARE_FILE, FINISHED_FILE, ERROR_FILE, LOCK_FILE = "compare.yaml", "run.json", "error.json", "lock"
OWN_FIELDS = ("model", "method", "where", "backbone")
"""Fields of a recipe in which contenders may differ; and in the seed."""


@dataclass(frozen=True)
class Run:
    """One contender with one seed.

    Args:
        contender: who.
        seed: of the run.
        recipe: of the run.
        folder: of the run.
    """

    contender: Contender
    seed: int
    recipe: Recipe
    folder: Path

    @property
    def label(self) -> str:
        """Of its contender."""
        return self.contender.label

    @property
    def finished(self) -> bool:
        """Whether it was trained to its end."""
        return (self.folder / FINISHED_FILE).is_file()

    @property
    def started(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return holds_run(self.folder)

    @property
    def owner(self) -> str | None:
        """Who trains it now, as text for people."""
        return owner(self.folder / LOCK_FILE)

    def rows(self) -> list[Row]:
        """Figures of every epoch so far."""
        return read_csv(self.folder / "metrics.csv")

    def closing(self) -> dict[str, Any]:
        """What was noted when it finished: command, environment, seconds; empty before."""
        return _read_json(self.folder / FINISHED_FILE)

    def error(self, since: float = 0.0) -> str | None:
        """How it failed, if that was after a time (seconds since 1970)."""
        noted = _read_json(self.folder / ERROR_FILE)
        return str(noted["error"]) if noted and noted["time"] >= since else None

    def train(self, report: Callable[[Row], None] | None, progress_bar: bool) -> None:
        """Train it, from its last checkpoint if there is one.

        Raises:
            DynaconvError: if the folder holds a run of another recipe.
            Exception: what training raises; the folder notes it.
        """
        began = time.perf_counter()
        earlier = len(self.rows()) if self.started else 0
        try:
            if (self.folder / CONFIG_FILE).is_file():
                check_same(load_recipe(self.folder / CONFIG_FILE).to_dict(), self.recipe.to_dict(), self.folder)
            if self.started:
                result = resume(self.folder, report=report, progress_bar=progress_bar)
            else:
                result = fit(self.recipe, self.folder, report=report, progress_bar=progress_bar)
        except Exception as error:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            noted = {"error": text, "time": time.time(), "traceback": traceback.format_exc()}
            write_text(self.folder / ERROR_FILE, json.dumps(noted, indent=2))
            raise
        closing = {
            "date": utc_now().isoformat(timespec="seconds"),
            "command": command_line(),
            "seconds": round(time.perf_counter() - began, 3),
            "epochs": self.recipe.schedule.epochs - earlier,
            "parameters": result.parameters,
            "environment": environment(),
        }
        (self.folder / ERROR_FILE).unlink(missing_ok=True)
        write_text(self.folder / FINISHED_FILE, json.dumps(closing, indent=2))


@dataclass(frozen=True)
class Comparison:
    """Who is compared on what.

    Args:
        out: the folder.
        contenders: the first is what the others are related to.
        seeds: every contender is trained with each.
        recipe: what all share; its model, method, where, backbone and seed are not used.
    """

    out: Path
    contenders: tuple[Contender, ...]
    seeds: tuple[int, ...]
    recipe: Recipe

    def __post_init__(self) -> None:
        check_contenders(self.contenders, self.seeds)

    def runs(self) -> list[Run]:
        """All runs, a seed at a time, so that an early end leaves whole comparisons."""
        return [self.run(contender, seed) for seed in self.seeds for contender in self.contenders]

    def run(self, contender: Contender, seed: int) -> Run:
        """One run."""
        return Run(contender, seed, contender.recipe(self.recipe, seed), self.out / contender.folder / f"seed{seed}")

    def shared(self) -> dict[str, Any]:
        """The recipe's fields that all share."""
        return _shared(self.recipe)

    def register(self) -> None:
        """Enter contenders and seeds in the folder's file, beside those of earlier calls.

        Raises:
            DynaconvError: if the folder holds a comparison on another recipe, or a label means another network there.
        """
        path = self.out / COMPARE_FILE
        with wait_lock(self.out / f"{COMPARE_FILE}.lock", poll_seconds=0.05):
            known = _read_yaml(path) if path.is_file() else {"recipe": self.shared(), "contenders": [], "seeds": []}
            # Read and written again, so that fields which are newer than the folder have their defaults there.
            check_same(_shared(Recipe.from_dict(known["recipe"])), self.shared(), self.out)
            folders = {Contender(**entry).folder: entry for entry in known["contenders"]}
            for contender in self.contenders:
                entry = folders.setdefault(contender.folder, contender.to_dict())
                check_same(Contender(**entry).to_dict(), contender.to_dict(), self.out / contender.folder)
            seeds = list(dict.fromkeys([*known["seeds"], *self.seeds]))
            values = {"recipe": known["recipe"], "contenders": list(folders.values()), "seeds": seeds}
            write_text(path, yaml.safe_dump(values, sort_keys=False))


def open_comparison(out: str | Path) -> Comparison:
    """The comparison that a folder holds, with all contenders and seeds of all calls.

    Raises:
        DynaconvError: if it holds none.
    """
    path = Path(out) / COMPARE_FILE
    if not path.is_file():
        raise DynaconvError(f"{out} has no {COMPARE_FILE}; expected the folder of a comparison, an earlier --out")
    values = _read_yaml(path)
    contenders = tuple(Contender(**entry) for entry in values["contenders"])
    return Comparison(Path(out), contenders, tuple(values["seeds"]), Recipe.from_dict(values["recipe"]))


def one_device(recipe: Recipe) -> Recipe:
    """The recipe on one device, as every run of a comparison is.

    Raises:
        DynaconvError: if it asks for several.
    """
    for name, value in (("devices", recipe.run.devices), ("num_nodes", recipe.run.num_nodes)):
        if value not in ("auto", 1, "1"):
            raise DynaconvError(
                f"run.{name}={value!r}; a comparison trains on one device. To use several, start the same "
                "command once for each (CUDA_VISIBLE_DEVICES=0, 1, ...): they share the runs of one folder"
            )
    return replace(recipe, run=replace(recipe.run, devices=1))


def check_same(there: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse a folder that was made with other values.

    Raises:
        DynaconvError: which names the fields that differ, what they are there, and what they are now.
    """
    if different := differences(flat(there), flat(now)):
        raise DynaconvError(
            f"{folder} holds runs of another recipe: {different}. Use the same values to go on there, or another --out "
            "(or label)"
        )


def _shared(recipe: Recipe) -> dict[str, Any]:
    values = recipe.to_dict()
    values["run"] = {key: value for key, value in values["run"].items() if key != "seed"}
    return {key: value for key, value in values.items() if key not in OWN_FIELDS}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DynaconvError(f"{path} is damaged: {error}; delete it, and the run is looked at again") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    values = read_yaml(path)
    if not isinstance(values, dict) or not {"recipe", "contenders", "seeds"} <= values.keys():
        raise DynaconvError(f"{path} is not of a comparison; expected recipe, contenders and seeds")
    return values
