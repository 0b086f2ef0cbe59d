"""Peak memory of a training step, measured in a process of its own: `python -m dynaconv.training.comparison.memory`.

The figure is what training needs at its peak above what the process held before there was a network: weights,
gradients, the optimiser's state, activations, and the batch.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from dynaconv.analysis.memory import answer, measure_in_process, watch_peak
from dynaconv.training.comparison.timing import Workload, make_fabric, make_steps
from dynaconv.training.config import Recipe

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
    request = {"recipe": recipe.to_dict(), "workload": asdict(workload)}
    return measure_in_process("dynaconv.training.comparison.memory", request)


def peak_of_steps(recipe: Recipe, workload: Workload) -> int:
    """Peak memory of training steps in bytes, in this process, which should do nothing else."""
    fabric = make_fabric(recipe)
    # Code is loaded, and libraries prepare themselves, when they first run: on two images, before anything is measured.
    make_steps(recipe, replace(workload, batch_size=2), fabric).train()
    peak = watch_peak(fabric.device)
    steps = make_steps(recipe, workload, fabric)
    for _ in range(STEPS):
        steps.train()
    return peak()


def _requested(request: dict[str, Any]) -> int:
    return peak_of_steps(Recipe.from_dict(request["recipe"]), Workload(**request["workload"]))


if __name__ == "__main__":
    answer(_requested)
