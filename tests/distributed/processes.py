"""Starting several processes that are one run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_together(calls: Sequence[Sequence[object]], seconds: float = 240) -> list[str]:
    """Run Python with several lists of arguments at once; what each wrote to its outputs.

    Raises:
        AssertionError: if one fails, with what it wrote; the others are ended.
    """
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", *map(str, call)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for call in calls
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
