"""Training the runs of a comparison: each by whoever takes it first, an interrupted one from its last checkpoint.

Several processes may work on one folder; each takes runs that nobody else trains.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from dynaconv.training.comparison.runs import LOCK_FILE, Run
from dynaconv.training.runs.history import Row
from dynaconv.training.runs.lock import try_lock

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


@dataclass(frozen=True)
class Watcher:
    """Who is told what happens while runs are trained.

    Args:
        start: called before each run.
        report: called with the figures of every epoch.
        note: called with a line about everything else that takes time or fails.
        finished: called after each run that was trained to its end.
        progress_bar: show Lightning's progress bar.
    """

    start: Callable[[RunStart], None] = lambda run: None
    report: Callable[[Row], None] | None = None
    note: Callable[[str], None] = lambda text: None
    finished: Callable[[Run], object] = lambda run: None
    progress_bar: bool = False


@dataclass(frozen=True)
class Progress:
    """How far the runs are.

    Args:
        total: runs there are.
        finished: of them.
        running: trained by a living process.
        failed: since the work began.
        seconds_left: estimate, None before there is anything to go by.
    """

    total: int
    finished: int
    running: int
    failed: int
    seconds_left: float | None

    @property
    def waiting(self) -> int:
        """Runs that nobody has begun, or goes on with, yet."""
        return self.total - self.finished - self.running - self.failed


def train_runs(runs: Sequence[Run], since: float, watcher: Watcher, *, wait: bool = True) -> None:
    """Train what nobody has trained.

    A run that fails is noted, and the others go on.

    Args:
        runs: in the order in which they are taken.
        since: when the work began, in seconds since 1970; a run that has failed since is left alone.
        watcher: is told.
        wait: for runs that others train, and take over those they leave; else return as soon as nothing is free.
    """
    open_runs = dict(enumerate(runs, 1))
    waiting = False
    while open_runs:
        busy = len(open_runs)
        for number, run in list(open_runs.items()):
            if run.finished or (run.error(since) and not run.owner):
                del open_runs[number]
                continue
            with try_lock(run.folder / LOCK_FILE) as got:
                if run.finished or run.error(since):  # by somebody else, just now
                    del open_runs[number]
                elif got:
                    left = progress_of(runs, since, here=run).seconds_left
                    watcher.start(RunStart(run.label, run.seed, number, len(runs), run.started, left))
                    _train(run, watcher)
                    del open_runs[number]
        if len(open_runs) < busy:
            continue
        if not wait:
            return
        if not waiting:
            waiting = True
            owners = {run.owner for run in open_runs.values()} - {None}
            watcher.note(f"waiting for {busy} run(s) of {', '.join(sorted(map(str, owners)))}")
        time.sleep(POLL_SECONDS)


def progress_of(runs: Sequence[Run], since: float, here: Run | None = None) -> Progress:
    """Look at the folders of some runs.

    Args:
        runs: whose folders.
        since: leave out errors of before.
        here: a run that this process is about to train, and holds the lock of.
    """
    known: dict[str, list[float]] = {}
    left: dict[str, float] = {}
    owners: list[str] = []
    finished = failed = 0
    for run in runs:
        closing = run.closing()
        if closing:
            finished += 1
            if closing["epochs"]:
                known.setdefault(run.label, []).append(closing["seconds"] / closing["epochs"])
            continue
        owner = None if run is here else run.owner
        if owner is None and run is not here and run.error(since):
            failed += 1
            continue
        done = len(run.rows()) if run.started else 0
        left[run.label] = left.get(run.label, 0) + run.recipe.schedule.epochs - done
        owners += [owner] if owner else []
    seconds_per_epoch = {label: mean(values) for label, values in known.items()}
    workers = len(set(owners)) + (here is not None)
    estimate = seconds_left(left, seconds_per_epoch, max(workers, 1))
    return Progress(len(runs), finished, len(owners) + (here is not None), failed, estimate)


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


def _train(run: Run, watcher: Watcher) -> None:
    try:
        run.train(watcher.report, watcher.progress_bar)
    except Exception:  # whatever it is, it must not take the other contenders along
        watcher.note(f"{run.label}, seed {run.seed} failed, the others go on: {run.error()}")
    else:
        watcher.finished(run)
