"""How KernelWarehouse trains from scratch: the library's start of the attention branch against the paper's, and others.

    python benchmarks/from_scratch.py scenes             # small ResNet18, digits on photographs
    python benchmarks/from_scratch.py full               # ResNet18 of full width, 5,000 digits
    python benchmarks/from_scratch.py full start         # several, one after the other
    python benchmarks/from_scratch.py scenes --seeds 3 4 # more seeds, beside those that have finished
    python benchmarks/from_scratch.py scenes --summary   # table and picture of what has finished
    python benchmarks/from_scratch.py --attention        # what attention is before training
    python benchmarks/from_scratch.py --samples          # a picture of the data set scenes, docs/results/scenes.png

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

import timm
import torch
from PIL import Image
from torch import Tensor

import dynaconv
from dynaconv.cli.options import epoch_line, quiet_logs
from dynaconv.files import write_text
from dynaconv.nn.router import CellRouter
from dynaconv.training.comparison.compare import results_of, run_compare
from dynaconv.training.comparison.contenders import contender_of
from dynaconv.training.config import LoaderConfig, OptimizerConfig, Recipe, RunConfig, ScheduleConfig
from dynaconv.training.data.sources import open_source

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
    """

    about: str
    methods: tuple[str, ...]
    data: str = "scenes"
    channels: Sequence[int] = ()
    epochs: int = 8
    seeds: tuple[int, ...] = (0, 1, 2)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=4e-3))

    def recipe(self) -> Recipe:
        """What all its runs share."""
        return Recipe(
            model="resnet18",
            backbone={"channels": list(self.channels or SMALL)},
            data=self.data,
            loader=LoaderConfig(image_size=32, batch_size=64),
            optimizer=self.optimizer,
            schedule=ScheduleConfig(epochs=self.epochs),
            run=RunConfig(accelerator="cpu"),
        )


STUDIES = {
    "scenes": Study(
        about="a small network where capacity is what lacks",
        methods=("static", KW, f"{KW}:branch_start=0", f"{KW}:budget=0.5", f"{KW}:budget=0.5,branch_start=0"),
    ),
    "full": Study(
        about="ResNet18 of full width on few images",
        methods=("static", KW),
        data="mnist5k",
        channels=FULL,
        epochs=3,
        seeds=(0, 1),
        optimizer=OptimizerConfig(lr=1e-3),
    ),
    "start": Study(
        about="how large the assigned logit is",
        methods=(f"{KW}:branch_start=1", f"{KW}:branch_start=16"),
        seeds=(0, 1),
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

    figure = Figure(figsize=(13, 4.2), layout="constrained")
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
    figure.legend(*every_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=110, format="png")
    temporary.replace(path)


def save_samples(path: Path) -> None:
    """Draw scenes: above the line training's, below it validation's."""
    source = open_source("scenes", LoaderConfig())
    chosen = torch.arange(0, len(source.train), len(source.train) // 60)[:60]
    parts = [source.train.render(chosen, range(60), 32), source.val.pixels(32, 3)[:: len(source.val) // 60][:60]]
    rows = [part.view(3, 20, 3, 32, 32).permute(0, 3, 1, 4, 2).reshape(96, 640, 3) for part in parts]
    picture = torch.cat([rows[0], torch.ones(6, 640, 3), rows[1]])
    pixels = picture.repeat_interleave(2, 0).repeat_interleave(2, 1).mul(255).round().byte()
    temporary = path.with_name(f".{path.name}.tmp")
    Image.fromarray(pixels.numpy()).save(temporary, format="png")
    temporary.replace(path)


@torch.no_grad()
def attention_at_start(start: float) -> tuple[float, float]:
    """The small network without temperature, before training, on 64 scenes; means over all mixtures.

    Returns:
        Attention on the assigned cell, of 1; and how much the mixture's attention differs between images, relative to
        its mean: the length of the standard deviation over that of the mean.
    """
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10, channels=SMALL)
    dynaconv.convert(model, dynaconv.KernelWarehouseConfig(branch_start=start))
    seen: list[tuple[Tensor, Tensor]] = []

    def note(router: CellRouter, inputs: Any, attention: Tensor) -> None:
        assert router.beta is not None  # the assignment is one-to-one
        own = (attention.abs() * router.beta[:, :-1]).sum(-1).mean(0)
        seen.append((own, attention.std(0).norm(dim=-1) / attention.mean(0).norm(dim=-1)))

    for module in model.modules():
        if isinstance(module, CellRouter):
            module.register_forward_hook(note)
    scenes = open_source("scenes", LoaderConfig()).train
    model(scenes.pixels(32, 3)[:: len(scenes) // 64][:64])
    own, spread = (torch.cat(values).mean().item() for values in zip(*seen, strict=True))
    return own, spread


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
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument("--seeds", type=int, nargs="+", default=None, help="instead of the study's own")
    parser.add_argument("--epochs", type=int, default=None, help="instead of the study's own, for a quick try")
    parser.add_argument("--out", type=Path, default=Path("compare/from-scratch"), help="folder of the runs")
    parser.add_argument("--results", type=Path, default=Path("docs/results"), help="folder of figures and pictures")
    parser.add_argument("--summary", action="store_true", help="train nothing")
    parser.add_argument("--samples", action="store_true", help="draw scenes, too")
    parser.add_argument("--attention", action="store_true", help="print attention before training, too")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.studies) - set(STUDIES)):
        parser.error(f"unknown {', '.join(unknown)}; expected any of {', '.join(STUDIES)}")
    if arguments.samples:
        save_samples(arguments.results / "scenes.png")
    if arguments.attention:
        print("| branch_start | attention on the own cell | differs between images |\n| ---: | ---: | ---: |")
        for start in (0, 1, 4, 16):
            own, spread = attention_at_start(start)
            print(f"| {start} | {own:.3f} | {100 * spread:.1f} % |")
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
