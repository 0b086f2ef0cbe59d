"""Peak memory, watched in a process of its own.

The figure is what something needs at its peak above what the process held before. On CUDA it is the allocator's own
count. On the CPU it is resident memory, whose peak Linux lets a process reset (``/proc/self/clear_refs``).
``ru_maxrss`` would not do: a child inherits the peak of the parent that started it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dynaconv.errors import DynaconvError

# Large tensors go back to the system as soon as they are freed, so that resident memory is what is in use.
ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def measure_in_process(module: str, request: Any) -> int:
    """Peak memory in bytes, measured in a fresh process by a module that ends with :func:`answer`.

    Args:
        module: what ``python -m`` runs.
        request: plain types, which the module gets.

    Raises:
        DynaconvError: if the process fails; it holds the last line it wrote.
    """
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, **ALLOCATION, **threads},
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DynaconvError(f"the process that measures memory ended with code {done.returncode}: {last}")
    return int(json.loads(done.stdout.strip().splitlines()[-1])["peak_bytes"])


def answer(peak_of: Callable[[Any], int]) -> None:
    """Answer the process that has called :func:`measure_in_process`.

    Args:
        peak_of: measures what was requested, in bytes.
    """
    sys.stdout.write(json.dumps({"peak_bytes": peak_of(json.load(sys.stdin))}) + "\n")


def watch_peak(device: torch.device) -> Callable[[], int]:
    """Start to watch memory, and return a function for its peak since then, in bytes above what is held now.

    Args:
        device: whose memory.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return lambda: torch.cuda.max_memory_allocated() - before
    _return_free_memory()
    before, peak = _watch_resident_memory()
    return lambda: peak() - before


def _return_free_memory() -> None:
    """Give what is free back to the system, where the C library can."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return


def _watch_resident_memory() -> tuple[int, Callable[[], int]]:
    """Resident memory now, and a function for its peak from now on, in bytes."""
    status = Path("/proc/self/status")
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status(status, "VmRSS"), lambda: _status(status, "VmHWM")
    except OSError:  # no Linux: the peak of the whole process has to do
        import resource

        unit = 1 if sys.platform == "darwin" else 1024

        def peak() -> int:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

        return peak(), peak


def _status(path: Path, name: str) -> int:
    line = next(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
