"""How KernelWarehouse trains from scratch: the library's start of the attention branch against the paper's, and others.

    python benchmarks/from_scratch.py scenes             # small ResNet18, digits on photographs
    python benchmarks/from_scratch.py full               # ResNet18 of full width, 5,000 digits
    python benchmarks/from_scratch.py start budget sgd   # several, one after the other
    python benchmarks/from_scratch.py scenes --seeds 3 4 # more seeds, beside those that have finished
    python benchmarks/from_scratch.py scenes --summary   # table and picture of what has finished

Every study is a comparison of `dynaconv compare`, in OUT/STUDY: stop it and call it again, or start it twice, as there.
When it has finished, its figures go to docs/results/from-scratch-STUDY.json, its curves to a PNG beside them.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from dynaconv.analysis.files import write_text
from dynaconv.training.comparison.compare import results_of, run_compare
from dynaconv.training.comparison.contenders import contender_of
from dynaconv.training.config import LoaderConfig, OptimizerConfig, Recipe, RunConfig, ScheduleConfig

KW = "kernel_warehouse"
SMALL, FULL = [16, 32, 64, 64], [64, 128, 256, 512]
PANELS = (("train_loss", "training loss"), ("val_loss", "validation loss"), ("val_top1", "validation accuracy"))


@dataclass(frozen=True, kw_only=True)
class Study:
    """Networks on one recipe.

    Args:
        about: what it asks.
        methods: contenders as `dynaconv compare` takes them; the first is what the others are related to.
        data: source of the images.
        channels: widths of the four stages.
        epochs: of every run.
        seeds: of every contender.
        optimizer: of every run.
        temperature_epochs: length of the temperature's fall, None for a tenth of the epochs.
    """

    about: str
    methods: tuple[str, ...]
    data: str = "scenes"
    channels: Sequence[int] = ()
    epochs: int = 8
    seeds: tuple[int, ...] = (0, 1, 2)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=4e-3))
    temperature_epochs: float | None = None

    def recipe(self) -> Recipe:
        """What all its runs share."""
        return Recipe(
            model="resnet18",
            backbone={"channels": list(self.channels or SMALL)},
            data=self.data,
            loader=LoaderConfig(image_size=32, batch_size=64),
            optimizer=self.optimizer,
            schedule=ScheduleConfig(epochs=self.epochs, temperature_epochs=self.temperature_epochs),
            run=RunConfig(accelerator="cpu"),
        )


STUDIES = {
    "scenes": Study(
        about="a small network where capacity is what lacks",
        methods=("static", KW, f"{KW}:branch_start=0", f"{KW}:budget=0.5", f"{KW}:budget=0.5,branch_start=0"),
    ),
    "full": Study(
        about="ResNet18 of full width on few images",
        methods=("static", KW, f"{KW}:branch_start=0"),
        data="mnist5k",
        channels=FULL,
        epochs=3,
        seeds=(0, 1),
        optimizer=OptimizerConfig(lr=1e-3),
    ),
    "start": Study(
        about="how large the assigned logit is",
        methods=(KW, f"{KW}:branch_start=1", f"{KW}:branch_start=16"),
        seeds=(0, 1),
    ),
    "fall": Study(
        about="no fall of the temperature: attention alone from the first step",
        methods=("static", KW, f"{KW}:branch_start=0"),
        seeds=(0, 1),
        temperature_epochs=0,
    ),
    "sgd": Study(
        about="SGD instead of AdamW",
        methods=("static", KW, f"{KW}:branch_start=0"),
        seeds=(0, 1),
        optimizer=OptimizerConfig(name="sgd", lr=0.05, weight_decay=1e-4),
    ),
}


def save_results(name: str, values: dict[str, Any], folder: Path) -> None:
    """Write a study's figures and curves."""
    values = {**values, "study": name, "about": STUDIES[name].about}
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"from-scratch-{name}.json", json.dumps(values, indent=1) + "\n")
    save_picture(values, folder / f"from-scratch-{name}.png")


def save_picture(values: dict[str, Any], path: Path) -> None:
    """Draw mean and range over the seeds, epoch by epoch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    every_axes = figure.subplots(1, len(PANELS))
    for axes, (column, title) in zip(every_axes, PANELS, strict=True):
        for index, entry in enumerate(entry for entry in values["contenders"] if entry["runs"]):
            runs = [[row[column] for row in run["epochs"]] for run in entry["runs"]]
            epochs = range(1, len(runs[0]) + 1)
            middle, low, high = ([f(v) for v in zip(*runs, strict=True)] for f in (mean, min, max))
            colour = "black" if entry["method"] is None else f"C{index}"
            axes.plot(epochs, middle, color=colour, marker=".", label=entry["label"])
            axes.fill_between(epochs, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    every_axes[-1].legend(fontsize=8)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=110, format="png")
    temporary.replace(path)


def table(values: dict[str, Any]) -> str:
    """Markdown: parameters, accuracy and losses after the last epoch, mean and range over the seeds."""
    lines = ["| network | parameters | top-1 % (seeds) | gain | training loss | validation loss |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for entry in values["contenders"]:
        if not entry["runs"]:
            continue
        last = [run["epochs"][-1] for run in entry["runs"]]
        seeds = ", ".join(f"{100 * row['val_top1']:.2f}" for row in last)
        losses = (f"{mean(row[key] for row in last):.3f}" for key in ("train_loss", "val_loss"))
        gain = "–" if entry is values["contenders"][0] else f"{100 * entry['gain']:+.2f}"
        top1 = f"{100 * entry['top1_mean']:.2f} ({seeds})"
        cells = (entry["label"], f"{entry['parameters']:,}", top1, gain, *losses)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run studies, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", choices=STUDIES, metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=None, help="instead of the study's own")
    parser.add_argument("--epochs", type=int, default=None, help="instead of the study's own, for a quick try")
    parser.add_argument("--out", type=Path, default=Path("compare/from-scratch"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="folder of figures and pictures")
    parser.add_argument("--summary", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    from dynaconv.cli.options import epoch_line, quiet_logs

    quiet_logs()
    warnings.filterwarnings("ignore", message="layers that own no cell")
    for name in arguments.studies:
        study = STUDIES[name]
        epochs = arguments.epochs or study.epochs
        out = arguments.out / name
        if arguments.summary:
            result = results_of(out)
        else:
            recipe = replace(study, epochs=epochs).recipe()
            contenders = [contender_of(text, recipe.model, None, recipe.backbone) for text in study.methods]
            result = run_compare(
                contenders,
                arguments.seeds or study.seeds,
                recipe,
                out,
                rounds=0,
                start=lambda run: print(f"\n[{run.number}/{run.total}] {run.label}, seed {run.seed}", flush=True),
                report=epoch_line(epochs, "  "),
                note=print,
            )
        save_results(name, result.values, arguments.results)
        print(f"\n{name}: {study.about}\n\n{table(result.values)}\n", flush=True)


if __name__ == "__main__":
    main()
