"""`run_sweep`: contenders, each with its own values of a recipe's fields, and seeds.

Trained here, by processes, or on a cluster. The folder is a comparison's: it can be stopped and called again, and
several may work on it. A line of results.jsonl is written when a run has finished.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from dynaconv.training.comparison.compare import begin
from dynaconv.training.comparison.contenders import Contender
from dynaconv.training.comparison.launch import Launch, train_comparison
from dynaconv.training.comparison.lines import LINES_FILE, write_lines
from dynaconv.training.comparison.runs import Comparison, open_comparison
from dynaconv.training.comparison.work import Watcher
from dynaconv.training.config import Recipe
from dynaconv.training.data.datamodule import ImageDataModule

HEADER = ("network", "parameters", "top-1 % (range)", "seeds", "s per run")
NONE = "–"


@dataclass(frozen=True)
class SweepResult:
    """What came out.

    Args:
        comparison: the folder with its contenders and seeds.
        lines: where a line for every finished run is, results.jsonl.
        runs: those lines, of this call's contenders and seeds.
        failed: errors by label and seed, of runs that failed in this call.
    """

    comparison: Comparison
    lines: Path
    runs: list[dict[str, Any]]
    failed: dict[str, str]


def run_sweep(
    contenders: Sequence[Contender],
    seeds: Sequence[int],
    recipe: Recipe,
    out: str | Path,
    *,
    launch: Launch | None = None,
    watcher: Watcher | None = None,
) -> SweepResult:
    """Train every contender with every seed; a run that fails is noted, and the others go on.

    Args:
        contenders: see :func:`dynaconv.training.sweep.grid.cross`.
        seeds: of the runs.
        recipe: what they change; its model, method, where, backbone and seed are not used.
        out: folder of the runs, by label and seed, and of results.jsonl.
        launch: by which jobs; None for this process alone.
        watcher: is told what happens.

    Raises:
        DynaconvError: if a list is empty or repeats itself, the folder holds runs of another recipe, or jobs end
            before their runs do.
    """
    began = time.time()
    recipes = [contender.recipe(recipe, 0) for contender in contenders]
    for other in {made.data: made for made in recipes if made.data != recipe.data}.values():
        ImageDataModule.from_recipe(other).setup()  # or an error of the sweep, and not of every run
    comparison = begin(contenders, seeds, recipe, out)
    told = replace(watcher or Watcher(), finished=lambda run: write_lines(comparison.out))
    train_comparison(comparison, began, launch or Launch(), told)
    return _result(comparison, began)


def sweep_of(out: str | Path) -> SweepResult:
    """Results of a folder's finished runs again, of all its calls, without training.

    Raises:
        DynaconvError: if the folder holds no comparison or sweep.
    """
    return _result(open_comparison(out), time.time())


def _result(comparison: Comparison, since: float) -> SweepResult:
    asked = comparison.runs()
    folders = {str(run.folder.relative_to(comparison.out)) for run in asked}
    lines = [line for line in write_lines(comparison.out) if line["folder"] in folders]
    errors = {f"{run.label}, seed {run.seed}": run.error(since) for run in asked if not run.finished}
    failed = {name: error for name, error in errors.items() if error}
    return SweepResult(comparison, comparison.out / LINES_FILE, lines, failed)


def sweep_rows(result: SweepResult) -> list[tuple[str, ...]]:
    """A row a contender under :data:`HEADER`, the highest mean accuracy first, those without a finished run last."""
    by_label = {contender.label: [] for contender in result.comparison.contenders}
    for line in result.runs:
        by_label[line["label"]].append(line)
    ordered = sorted(by_label.items(), key=lambda item: -mean(_top1(item[1])) if item[1] else 1.0)
    return [_row(label, lines, len(result.comparison.seeds)) for label, lines in ordered]


def _top1(lines: list[dict[str, Any]]) -> list[float]:
    return [line["last_top1"] for line in lines]


def _row(label: str, lines: list[dict[str, Any]], seeds: int) -> tuple[str, ...]:
    if not lines:
        return (label, NONE, NONE, f"0 of {seeds}", NONE)
    top1 = [100 * value for value in _top1(lines)]
    spread = f" ({min(top1):.2f} – {max(top1):.2f})" if len(top1) > 1 else ""
    parameters = lines[0]["parameters"]
    return (
        label,
        NONE if parameters is None else f"{parameters:,}",
        f"{mean(top1):.2f}{spread}",
        f"{len(lines)} of {seeds}",
        f"{mean(line['seconds'] for line in lines):.0f}",
    )
