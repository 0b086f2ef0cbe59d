"""Starting several processes that are one run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def as_slurm(processes: int) -> list[dict[str, str]]:
    """What SLURM's srun tells every process of a job on one machine."""
    job = {
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": str(processes),
        "SLURM_NTASKS_PER_NODE": str(processes),
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "localhost",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    return [{**job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(processes)]


def run_together(
    calls: Sequence[Sequence[object]], seconds: float = 540, settings: Sequence[Mapping[str, str]] | None = None
) -> list[str]:
    """Run Python with several lists of arguments at once; what each wrote to its outputs.

    Args:
        calls: a list of arguments for every process.
        seconds: they may take.
        settings: further variables of every process's environment.

    Raises:
        AssertionError: if one fails, with what it wrote; the others are ended.
    """
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", *map(str, call)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **further},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for call, further in zip(calls, settings or [{}] * len(calls), strict=True)
    ]
    try:
        texts = [process.communicate(timeout=seconds)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    for process, text in zip(started, texts, strict=True):
        assert process.returncode == 0, text
    return texts
