"""How true a dry run's memory is: its estimate beside the peak of real training steps, each in a process of its own.

python benchmarks/memory_estimate.py kw1x_resnet18 kw1x_mobilenetv2_100 --batch-size 16
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from dynaconv.analysis.environment import describe, environment
from dynaconv.training.comparison.memory import measure_peak
from dynaconv.training.comparison.timing import Workload
from dynaconv.training.estimates.dry_run import dry_run
from dynaconv.training.recipes import paper_recipe


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("names", nargs="+", help="as for `dynaconv train --recipe`")
    flags.add_argument("--batch-size", type=int, default=16)
    given = flags.parse_args()
    print(describe(environment()))
    print("| recipe | optimiser | estimate, MB | peak, MB | estimate / peak |\n|---|---|---|---|---|")
    for name in given.names:
        paper = paper_recipe(name)
        recipe = paper.recipe
        recipe = replace(
            recipe,
            loader=replace(recipe.loader, batch_size=given.batch_size),
            optimizer=replace(recipe.optimizer, global_batch=None),
            ema=replace(recipe.ema, decay=None),  # steps that are measured have none
            run=replace(recipe.run, accelerator="cpu", devices=1),
        )
        found = dry_run(recipe, paper, measure=False)
        peak = measure_peak(recipe, Workload(given.batch_size, 3, found.data.image_size, 1000))
        figures = (f"{found.memory.total / 1e6:.0f}", f"{peak / 1e6:.0f}", f"{found.memory.total / peak:.2f}")
        print(f"| `{name}` | {recipe.optimizer.name} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
