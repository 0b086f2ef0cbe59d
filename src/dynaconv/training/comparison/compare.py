"""`run_compare`: the same data and recipe for any list of contenders and seeds, then speed and memory side by side.

Can be stopped and called again: finished runs stay, interrupted ones go on. Several processes may work on one folder;
each takes runs that nobody else trains, and waits for the others before anything is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dynaconv.errors import DynaconvError
from dynaconv.training.comparison.contenders import Contender
from dynaconv.training.comparison.measures import measure
from dynaconv.training.comparison.results import CompareResult, gather, latest_measures, newest_since, write_results
from dynaconv.training.comparison.runs import Comparison, one_device, open_comparison
from dynaconv.training.comparison.timing import Workload, make_fabric
from dynaconv.training.comparison.work import POLL_SECONDS, RunStart, Watcher, train_runs
from dynaconv.training.config import Recipe
from dynaconv.training.runs.history import Row
from dynaconv.training.runs.lock import wait_lock

ROUNDS = 20


def run_compare(
    contenders: Sequence[Contender],
    seeds: Sequence[int],
    recipe: Recipe,
    out: str | Path,
    *,
    rounds: int = ROUNDS,
    start: Callable[[RunStart], None] = lambda run: None,
    report: Callable[[Row], None] | None = None,
    note: Callable[[str], None] = lambda text: None,
    progress_bar: bool = False,
) -> CompareResult:
    """Train every contender with every seed, measure, and write results under a new name.

    A run that fails is noted, and the others go on.

    Args:
        contenders: the first is what the others are related to.
        seeds: of the runs.
        recipe: what all share; its model, method, where, backbone and seed are not used.
        out: folder of the runs, by label and seed, and of the results.
        rounds: how often each contender is timed; 0 measures neither time nor memory.
        start: called before each run.
        report: called with the figures of every epoch.
        note: called with a line about everything else that takes time or fails.
        progress_bar: show Lightning's progress bar.

    Raises:
        DynaconvError: if a list is empty or repeats itself, or the folder holds runs of another recipe.
    """
    began = time.time()
    _check_rounds(rounds)
    comparison = begin(contenders, seeds, recipe, out)
    train_runs(comparison.runs(), began, Watcher(start=start, report=report, note=note, progress_bar=progress_bar))
    with wait_lock(comparison.out / "finish.lock", POLL_SECONDS):
        written = newest_since(comparison, began, measured=bool(rounds))
        if written is not None:  # by the process that worked on the same comparison beside this one
            return written
        return write_results(comparison, gather(comparison, measure(comparison, rounds, note), since=began))


def begin(contenders: Sequence[Contender], seeds: Sequence[int], recipe: Recipe, out: str | Path) -> Comparison:
    """Check a comparison, and enter it in its folder.

    Raises:
        DynaconvError: if a list is empty or repeats itself, or the folder holds runs of another recipe; if there is
            no such data or device, which is an error of the comparison and not of every run.
    """
    comparison = Comparison(Path(out), tuple(contenders), tuple(seeds), one_device(recipe))
    Workload.of(comparison.recipe)
    make_fabric(comparison.recipe)
    comparison.register()
    return comparison


def results_of(out: str | Path, *, rounds: int = 0, note: Callable[[str], None] = lambda text: None) -> CompareResult:
    """Results of a folder's finished runs again, without training.

    Args:
        out: an earlier comparison's folder.
        rounds: measure time and memory anew; 0 takes them from the newest results that have them.
        note: called with a line about what takes time.

    Raises:
        DynaconvError: if the folder holds no comparison.
    """
    _check_rounds(rounds)
    comparison = open_comparison(out)
    with wait_lock(comparison.out / "finish.lock", POLL_SECONDS):
        measures = measure(comparison, rounds, note)
        if not rounds:
            measures = latest_measures(comparison, measures)
        return write_results(comparison, gather(comparison, measures))


def _check_rounds(rounds: int) -> None:
    if rounds < 0:
        raise DynaconvError(f"rounds={rounds}; expected at least 1, or 0 to measure nothing")
