"""Peak memory of a training step, measured in a process of its own: `python -m dynaconv.training.comparison.memory`.

The figure is what training needs at its peak above what the process held before there was a network: weights,
gradients, the optimiser's state, activations, and the batch. On CUDA it is the allocator's own count. On the CPU it is
resident memory, whose peak Linux lets a process reset (``/proc/self/clear_refs``). ``ru_maxrss`` would not do: a child
inherits the peak of the parent that started it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from dynaconv.errors import DynaconvError
from dynaconv.training.comparison.timing import Workload, make_fabric, make_steps
from dynaconv.training.config import Recipe

# Large tensors go back to the system as soon as they are freed, so that resident memory is what is in use.
ALLOCATION = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
STEPS = 2
"""The second step meets the optimiser's state that the first has made."""


def measure_peak(recipe: Recipe, workload: Workload) -> int:
    """Peak memory of a training step in bytes, measured in a fresh process.

    Args:
        recipe: the network, its optimiser, device and precision.
        workload: the batch.

    Raises:
        DynaconvError: if the process fails; it holds the last line it wrote.
    """
    request = json.dumps({"recipe": recipe.to_dict(), "workload": asdict(workload)})
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "dynaconv.training.comparison.memory"],
        input=request,
        capture_output=True,
        text=True,
        env={**os.environ, **ALLOCATION, **threads},
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DynaconvError(f"the process that measures memory ended with code {done.returncode}: {last}")
    return int(json.loads(done.stdout.strip().splitlines()[-1])["peak_bytes"])


def peak_of_steps(recipe: Recipe, workload: Workload) -> int:
    """Peak memory of training steps in bytes, in this process, which should do nothing else."""
    fabric = make_fabric(recipe)
    # Code is loaded, and libraries prepare themselves, when they first run: on two images, before anything is measured.
    make_steps(recipe, replace(workload, batch_size=2), fabric).train()
    gc.collect()
    if fabric.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        peak: Callable[[], int] = torch.cuda.max_memory_allocated
    else:
        _return_free_memory()
        before, peak = _watch_resident_memory()
    steps = make_steps(recipe, workload, fabric)
    for _ in range(STEPS):
        steps.train()
    return peak() - before


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


def _main() -> None:
    request: dict[str, Any] = json.load(sys.stdin)
    peak = peak_of_steps(Recipe.from_dict(request["recipe"]), Workload(**request["workload"]))
    sys.stdout.write(json.dumps({"peak_bytes": peak}) + "\n")


if __name__ == "__main__":
    _main()
