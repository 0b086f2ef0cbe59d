"""Starting several processes that are one run."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]


EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A port that nobody listens on, and that the system gives to nobody who asks for any port.

    What is free now may else be another test's connection by the time that it is used.
    """
    first = int(EPHEMERAL.read_text().split()[0]) if EPHEMERAL.exists() else 32_768
    draw = random.SystemRandom()  # tests seed the other one, each with the same number
    wanted = [draw.randrange(10_000, first) for _ in range(100)] if first > 20_000 else []
    for port in [*wanted, 0]:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return probe.getsockname()[1]
    raise OSError("no port is free")


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


def run_python(*arguments: object, seconds: float = 540) -> str:
    """Run Python with arguments; what it wrote to its outputs.

    Args:
        arguments: of the interpreter.
        seconds: it may take.

    Raises:
        AssertionError: if it fails, with what it wrote.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
