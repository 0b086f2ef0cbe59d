"""`run_compare`: the same data and recipe for any list of contenders and seeds, then speed and memory side by side.

Can be stopped and called again: finished runs stay, interrupted ones go on. Several processes may work on one folder;
each takes runs that nobody else trains, and waits for the others before anything is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from dynaconv.errors import DynaconvError
from dynaconv.training.comparison.contenders import Contender
from dynaconv.training.comparison.lock import owner, try_lock, wait_lock
from dynaconv.training.comparison.measures import measure
from dynaconv.training.comparison.results import CompareResult, gather, latest_measures, newest_since, write_results
from dynaconv.training.comparison.runs import LOCK_FILE, Comparison, Run, one_device, open_comparison
from dynaconv.training.comparison.timing import Workload, make_fabric
from dynaconv.training.config import Recipe
from dynaconv.training.history import Row

ROUNDS = 20
POLL_SECONDS = 2.0


@dataclass(frozen=True)
class RunStart:
    """What is known when a run starts.

    Args:
        label: of the contender.
        seed: of the run.
        number: of the run, from 1, in the order of the comparison.
        total: runs of the comparison.
        resumed: whether it goes on from a checkpoint.
        seconds_left: estimate for all runs, None before there is anything to go by.
    """

    label: str
    seed: int
    number: int
    total: int
    resumed: bool
    seconds_left: float | None


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
    comparison = Comparison(Path(out), tuple(contenders), tuple(seeds), one_device(recipe))
    # Data that can not be opened, and devices there are not, are an error of the comparison, not of every run.
    Workload.of(comparison.recipe)
    make_fabric(comparison.recipe)
    comparison.register()
    _train_all(comparison, began, start, report, note, progress_bar)
    with wait_lock(comparison.out / "finish.lock", POLL_SECONDS):
        written = newest_since(comparison, began, measured=bool(rounds))
        if written is not None:  # by the process that worked on the same comparison beside this one
            return written
        return write_results(comparison, gather(comparison, measure(comparison, rounds, note), since=began))


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


def seconds_left(
    epochs_left: Mapping[str, float], seconds_per_epoch: Mapping[str, float], workers: int = 1
) -> float | None:
    """Estimate how long the rest takes.

    Args:
        epochs_left: by contender, over all seeds.
        seconds_per_epoch: of contenders that were seen; the others count as their mean.
        workers: processes at work.

    Example:
        >>> seconds_left({"a": 4, "b": 2}, {"a": 10.0})
        60.0
    """
    if not seconds_per_epoch:
        return None
    usual = mean(seconds_per_epoch.values())
    return sum(count * seconds_per_epoch.get(label, usual) for label, count in epochs_left.items()) / workers


def _check_rounds(rounds: int) -> None:
    if rounds < 0:
        raise DynaconvError(f"rounds={rounds}; expected at least 1, or 0 to measure nothing")


def _train_all(
    comparison: Comparison,
    began: float,
    start: Callable[[RunStart], None],
    report: Callable[[Row], None] | None,
    note: Callable[[str], None],
    progress_bar: bool,
) -> None:
    """Train what nobody has trained, until every run has finished or failed."""
    runs = comparison.runs()
    open_runs = dict(enumerate(runs, 1))
    waiting = False
    while open_runs:
        busy = len(open_runs)
        for number, run in list(open_runs.items()):
            with try_lock(run.folder / LOCK_FILE) as got:
                if run.finished or run.error(since=began):
                    del open_runs[number]
                elif got:
                    start(_start(run, number, runs, began))
                    _train(run, report, note, progress_bar)
                    del open_runs[number]
        if len(open_runs) < busy:
            continue
        if not waiting:
            waiting = True
            owners = {owner(run.folder / LOCK_FILE) for run in open_runs.values()} - {None}
            note(f"waiting for {busy} run(s) of {', '.join(sorted(map(str, owners)))}")
        time.sleep(POLL_SECONDS)


def _train(run: Run, report: Callable[[Row], None] | None, note: Callable[[str], None], progress_bar: bool) -> None:
    try:
        run.train(report, progress_bar)
    except Exception:  # whatever it is, it must not take the other contenders along
        note(f"{run.contender.label}, seed {run.seed} failed, the others go on: {run.error()}")


def _start(run: Run, number: int, runs: Sequence[Run], began: float) -> RunStart:
    known: dict[str, list[float]] = {}
    left: dict[str, float] = {}
    others: set[str | None] = set()
    for other in runs:
        label, epochs, closing = other.contender.label, other.recipe.schedule.epochs, other.closing()
        if closing and closing["epochs"]:
            known.setdefault(label, []).append(closing["seconds"] / closing["epochs"])
        if not closing and not other.error(since=began):
            left[label] = left.get(label, 0) + epochs - (len(other.rows()) if other.started else 0)
            others |= set() if other is run else {owner(other.folder / LOCK_FILE)}
    seconds_per_epoch = {label: mean(values) for label, values in known.items()}
    estimate = seconds_left(left, seconds_per_epoch, workers=1 + len(others - {None}))
    return RunStart(run.contender.label, run.seed, number, len(runs), run.started, estimate)
