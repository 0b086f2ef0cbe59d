"""Training the runs of a comparison by several jobs at once, which share its folder."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from dynaconv.analysis.environment import utc_now
from dynaconv.config import check_choice, check_count
from dynaconv.errors import DynaconvError, require
from dynaconv.training.comparison.executors import Job, cuda_devices, submit_local, submit_ray, submit_slurm
from dynaconv.training.comparison.lines import write_lines
from dynaconv.training.comparison.runs import Comparison, Run, open_comparison
from dynaconv.training.comparison.work import Progress, Watcher, progress_of, train_runs

Launcher = Literal["local", "slurm", "ray"]
JOBS_FOLDER = "jobs"
POLL_SECONDS = 2.0
LEAVING_SECONDS = 30.0
"""How long a job may take to leave when nothing is left to do."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How runs are spread over jobs.

    Args:
        launcher: ``"local"``: processes of this machine; ``"slurm"``: jobs of SLURM; ``"ray"``: tasks of Ray.
        jobs: how many at once, each training a run at a time. One local job is this process.
        slurm: parameters of SLURM's jobs, as submitit's SlurmExecutor has them.

    Raises:
        DynaconvError: on an unknown launcher, no jobs, or parameters of SLURM for another launcher.
    """

    launcher: Launcher = "local"
    jobs: int = 1
    slurm: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("launcher", self.launcher, get_args(Launcher))
        check_count("jobs", self.jobs)
        if self.slurm and self.launcher != "slurm":
            raise DynaconvError(f"slurm={dict(self.slurm)} with launcher={self.launcher!r}; expected launcher 'slurm'")

    @property
    def here(self) -> bool:
        """Whether this process does the work."""
        return self.launcher == "local" and self.jobs == 1


@dataclass(frozen=True)
class Work:
    """What a job does: train runs of a folder that nobody else trains, until none is left.

    Args:
        out: the comparison's folder.
        labels: of the contenders.
        seeds: of the runs.
        since: runs that have failed since then, in seconds since 1970, are left alone.
        threads: of PyTorch, unless OMP_NUM_THREADS is set; None leaves them.
        command: of the process that asked for it, which runs note as theirs.
    """

    out: str
    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    since: float
    threads: int | None
    command: tuple[str, ...]

    def __call__(self) -> None:
        """Do it; what happens goes to the job's log."""
        if self.threads is not None and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(self.threads)
        sys.argv = list(self.command)

        log = _job_log()
        comparison = open_comparison(self.out)
        by_label = {contender.label: contender for contender in comparison.contenders}
        runs = [comparison.run(by_label[label], seed) for seed in self.seeds for label in self.labels]
        watcher = Watcher(
            start=log.info, report=log.info, note=log.info, finished=lambda run: write_lines(comparison.out)
        )
        train_runs(runs, self.since, watcher, wait=False)

    def checkpoint(self) -> Any:
        """What submitit submits again when SLURM ends the job at its time limit, or for another's sake: the same."""
        return require("submitit.helpers", "sweep").DelayedSubmission(self)


def _job_log() -> logging.Logger:
    """A log that goes to the process's output, which launchers keep in a file for every job."""
    log = logging.getLogger("dynaconv.jobs")
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stdout))
        log.setLevel(logging.INFO)
        log.propagate = False
    return log


def train_comparison(comparison: Comparison, since: float, launch: Launch, watcher: Watcher) -> None:
    """Train all runs of a comparison that is registered in its folder, here or by jobs, and wait for them.

    Args:
        comparison: whose runs.
        since: when the work began, in seconds since 1970; runs that have failed before are tried again.
        launch: how.
        watcher: is told; of runs trained by jobs only by notes.

    Raises:
        DynaconvError: if jobs end before their runs do; calling again goes on.
    """
    runs = comparison.runs()
    if launch.here:
        train_runs(runs, since, watcher)
        return
    free = [run for run in runs if not run.finished]
    if not free:
        return
    labels = tuple(contender.label for contender in comparison.contenders)
    work = Work(str(comparison.out.resolve()), labels, comparison.seeds, since, None, tuple(sys.argv))
    logs = comparison.out.resolve() / JOBS_FOLDER / f"{utc_now():%Y%m%dT%H%M%SZ}-{os.getpid()}"
    jobs = _submit(work, launch, min(launch.jobs, len(free)), logs, comparison.recipe.run.accelerator)
    where = "Ray's own folder" if launch.launcher == "ray" else logs
    watcher.note(f"{len(free)} runs to train by {', '.join(job.name for job in jobs)}; logs in {where}")
    try:
        _wait(runs, jobs, since, watcher.note)
    except KeyboardInterrupt:
        if jobs[0].outlives:
            watcher.note(f"\n{', '.join(job.name for job in jobs)} go on; scancel ends them")
        else:
            _end(jobs)
        raise
    _end(jobs, patience=0.0 if jobs[0].outlives else LEAVING_SECONDS)  # of SLURM, some may not have begun


def _end(jobs: Sequence[Job], patience: float = 0.0) -> None:
    """End jobs that do not come to an end by themselves within some seconds."""
    until = time.time() + patience
    while time.time() < until and not all(job.done() for job in jobs):
        time.sleep(0.1)
    for job in jobs:
        if not job.done():
            job.cancel()


def _submit(work: Work, launch: Launch, count: int, folder: Path, accelerator: str) -> list[Job]:
    if launch.launcher == "local":
        devices = cuda_devices(accelerator)
        return submit_local(work if devices else replace(work, threads=1), count, folder, devices)
    if launch.launcher == "slurm":
        return submit_slurm(work, count, folder, launch.slurm)
    return submit_ray(work, count, accelerator)


def _wait(runs: Sequence[Run], jobs: Sequence[Job], since: float, note: Callable[[str], None]) -> None:
    """Until every run has finished or failed, also those that other processes train."""
    told: set[Path] = set()
    shown: tuple[int, int, int] | None = None
    while True:
        ended = all(job.done() for job in jobs)  # before the look at the runs, which may finish in between
        progress = progress_of(runs, since)
        for run in runs:
            if run.folder not in told and not run.finished and (error := run.error(since)):
                told.add(run.folder)
                note(f"{run.label}, seed {run.seed} failed, the others go on: {error}")
        counts = (progress.finished, progress.running, progress.failed)
        if counts != shown:
            shown = counts
            note(describe(progress))
        if progress.finished + progress.failed == progress.total:
            return
        if ended and not progress.running:
            errors = [f"{job.name}: {error}" for job in jobs if (error := job.error())]
            raise DynaconvError(
                f"all jobs have ended, and {progress.waiting} runs are not finished"
                f"{'; ' + '; '.join(errors) if errors else ''}. Call it again to go on"
            )
        time.sleep(max(POLL_SECONDS, len(runs) / 100))  # looking at thousands of folders takes time itself


def describe(progress: Progress) -> str:
    """Progress as a line.

    Example:
        >>> describe(Progress(total=12, finished=3, running=2, failed=1, seconds_left=600.0))
        '3 of 12 runs finished, 2 running, 6 waiting, 1 failed; about 10 min left'
    """
    failed = f", {progress.failed} failed" if progress.failed else ""
    left = progress.seconds_left
    more = "" if not left else f"; about {left / 60:.0f} min left" if left >= 90 else f"; about {left:.0f} s left"
    return (
        f"{progress.finished} of {progress.total} runs finished, {progress.running} running, {progress.waiting} waiting"
        f"{failed}{more}"
    )
