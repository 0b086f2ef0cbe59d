"""What trained networks are worth when their attention is replaced, over methods and seeds.

    python benchmarks/perturbed_attention.py compare/mnist5k-resnet18 --out docs/results/perturbed-mnist5k

The folder is one of `dynaconv compare`, with METHOD/seedN/best in it. Each network is judged on its validation images
in an order of the images that is drawn once, as it is, and with its attention replaced by its average, all on the
largest weight, and shuffled within images and across them, in all layers at once and stage by stage. Writes OUT.json
and OUT.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from dynaconv.analysis.attention import PERTURBATIONS, collect_attention
from dynaconv.analysis.environment import command_line, describe, environment, utc_now
from dynaconv.errors import DynaconvError
from dynaconv.files import write_text
from dynaconv.training.evaluation import open_saved
from dynaconv.training.perturbation import perturbation_study, scopes


def judge(checkpoint: Path) -> dict[str, dict[str, float]] | None:
    """Top-1 by part and way; None where no layer mixes kernels by attention."""
    try:
        model, images, _ = open_saved(checkpoint)
    except DynaconvError as error:  # of an earlier version, or of other data
        print(str(error).splitlines()[0], file=sys.stderr)
        return None
    loader = images.shuffled_val_dataloader()  # digits lie sorted by class; attention is to be that of others

    def batches(text: str) -> Iterator[tuple[Tensor, Tensor]]:
        yield from loader

    try:
        maps = collect_attention(model, batches(""))
    except DynaconvError as error:
        print(f"{checkpoint}: {error}", file=sys.stderr)
        return None
    return perturbation_study(model, maps, batches, scopes(model, maps, "stages"))


def table(result: dict[str, Any]) -> str:
    """Means over seeds and their range, in percent."""
    lines = [f"| method | attention of | as it is | {' | '.join(PERTURBATIONS)} |", f"|---|---|{'---:|' * 5}"]
    for method, seeds in result["methods"].items():
        for part in list(seeds[0])[1:]:
            values = [[seed["as it is"][""] for seed in seeds]]
            values += [[seed[part][way] for seed in seeds if way in seed[part]] for way in PERTURBATIONS]
            lines.append(f"| {method} | {part} | {' | '.join(map(spread, values))} |")
    return "\n".join(lines) + f"\n\n`{result['command']}`: {describe(result)}.\n"


def spread(values: list[float]) -> str:
    if not values:  # a way that changes nothing in these layers
        return "–"
    mean = 100 * statistics.mean(values)
    return f"{mean:.1f} ({100 * min(values):.1f}–{100 * max(values):.1f})" if len(values) > 1 else f"{mean:.1f}"


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("folder", type=Path, help="of a comparison")
    flags.add_argument("--out", type=Path, required=True, help="name of the JSON and the table")
    options = flags.parse_args()
    methods: dict[str, list[Any]] = {}
    for checkpoint in sorted(options.folder.glob("*/seed*/best.safetensors")):
        found = judge(checkpoint.with_suffix(""))
        if found is not None:
            methods.setdefault(checkpoint.parent.parent.name, []).append(found)
            print(checkpoint.parent, found["all layers"], flush=True)
    result = {"date": utc_now().isoformat(timespec="seconds"), "command": command_line(), **environment()}
    result["methods"] = methods
    write_text(options.out.with_suffix(".json"), json.dumps(result, indent=1))
    write_text(options.out.with_suffix(".md"), table(result))


if __name__ == "__main__":
    main()
