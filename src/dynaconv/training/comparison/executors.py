"""Where jobs run: processes of this machine and SLURM through submitit, a cluster of Ray's where it is installed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dynaconv.errors import DynaconvError, require

YEAR_MINUTES = 365 * 24 * 60
"""submitit ends local jobs after two minutes unless told otherwise."""
SLURM_DEFAULTS: Mapping[str, Any] = {"job_name": "dynaconv", "time": 240}
GPU_ACCELERATORS = ("auto", "gpu", "cuda")
REQUEUES = 100
"""How often SLURM may end a job at its time limit: it is submitted again, and goes on from the last epoch."""


@dataclass(frozen=True)
class Job:
    """A job that was submitted.

    Args:
        name: for people.
        done: whether it has come to an end, whatever kind.
        error: how it failed, after its end; None if it did not.
        cancel: ends it.
        outlives: whether it goes on when the process that submitted it is interrupted.
    """

    name: str
    done: Callable[[], bool]
    error: Callable[[], str | None]
    cancel: Callable[[], None]
    outlives: bool = False


def submit_local(work: Callable[[], None], count: int, folder: Path, devices: Sequence[int]) -> list[Job]:
    """Processes on this machine, each with one of the CUDA devices, if there are any.

    Args:
        work: what each does; it is pickled.
        count: how many.
        folder: of the jobs' logs.
        devices: CUDA devices as the machine numbers them; shared in turn where there are fewer than jobs.
    """
    submitit = require("submitit", "sweep")
    jobs = []
    for index in range(count):
        executor = submitit.LocalExecutor(folder)
        mine = [devices[index % len(devices)]] if devices else []
        executor.update_parameters(timeout_min=YEAR_MINUTES, gpus_per_node=len(mine), visible_gpus=mine)
        jobs.append(_submitted(executor.submit(work), "process", outlives=False))
    return jobs


def submit_slurm(work: Callable[[], None], count: int, folder: Path, parameters: Mapping[str, Any]) -> list[Job]:
    """An array of SLURM's, submitted with `sbatch`.

    Args:
        work: what each job does; it is pickled into the folder, which all nodes must see.
        count: how many.
        folder: of the jobs' files and logs.
        parameters: of submitit's SlurmExecutor: partition, time (minutes), gpus_per_node, mem, account, ...

    Raises:
        DynaconvError: if there is no SLURM, or it or submitit refuses the parameters.
    """
    submitit = require("submitit", "sweep")
    if missing := [name for name in ("sbatch", "srun") if shutil.which(name) is None]:
        raise DynaconvError(
            f"launcher 'slurm' needs the command {missing[0]}, which is not on this machine; start it on a node that "
            "submits jobs, or use --launcher local"
        )
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=REQUEUES)
        executor.update_parameters(**{**SLURM_DEFAULTS, **parameters})
        with executor.batch():
            submitted = [executor.submit(work) for _ in range(count)]
    except (ValueError, TypeError, AssertionError, RuntimeError, submitit.core.utils.FailedJobError) as error:
        raise DynaconvError(f"SLURM job with {dict(parameters)}: {' '.join(str(error).split())}") from error
    return [_submitted(job, "SLURM job", outlives=True) for job in submitted]


def submit_ray(work: Callable[[], None], count: int, accelerator: str) -> list[Job]:
    """Tasks of Ray's: on the cluster that RAY_ADDRESS names, else on this machine.

    Args:
        work: what each does; it is pickled.
        count: how many.
        accelerator: Lightning's; a task asks for a GPU where the cluster has some, unless it excludes them.
    """
    ray = require("ray", "ray")
    if not ray.is_initialized():
        ray.init(log_to_driver=False, **({} if "RAY_ADDRESS" in os.environ else {"num_cpus": count}))
    gpus = 1 if accelerator in GPU_ACCELERATORS and ray.cluster_resources().get("GPU", 0) else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_call)
    return [_ray_job(ray, task.remote(work), index) for index in range(count)]


def cuda_devices(accelerator: str) -> list[int]:
    """CUDA devices that this process may use, as the machine numbers them.

    Args:
        accelerator: Lightning's; those that exclude GPUs use none.

    Raises:
        DynaconvError: if CUDA_VISIBLE_DEVICES names them otherwise than by number.
    """
    if accelerator not in GPU_ACCELERATORS or not torch.cuda.is_available():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return list(range(torch.cuda.device_count()))
    try:
        return [int(text) for text in visible.split(",")]
    except ValueError:
        raise DynaconvError(
            f"CUDA_VISIBLE_DEVICES={visible}; jobs get a device each by its number: give numbers, such as 0,1"
        ) from None


def _call(work: Callable[[], None]) -> None:
    work()


def _submitted(job: Any, kind: str, outlives: bool) -> Job:
    def error() -> str | None:
        raised = job.exception()
        return None if raised is None else f"{str(raised).strip().splitlines()[-1]} (log: {job.paths.stderr})"

    return Job(f"{kind} {job.job_id}", job.done, error, job.cancel, outlives)


def _ray_job(ray: Any, reference: Any, index: int) -> Job:
    def done() -> bool:
        return bool(ray.wait([reference], timeout=0)[0])

    def error() -> str | None:
        try:
            ray.get(reference)
        except ray.exceptions.RayError as raised:
            return str(raised).strip().splitlines()[-1]
        return None

    return Job(f"Ray task {index}", done, error, lambda: ray.cancel(reference))
