"""The demonstration: handwritten digits on photographs, and one small Mask R-CNN, static and with KernelWarehouse.

A quarter of ResNet18's width and narrow heads, so that two cores train it in minutes; both twins have the same recipe.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynaconv.analysis.environment import command_line, environment
from dynaconv.config import KernelWarehouseConfig
from dynaconv.detection.checkpoints import load_detector
from dynaconv.detection.config import CocoLoaderConfig, DetectionAugmentConfig, DetectionRecipe, DetectorConfig
from dynaconv.detection.data.annotations import read_annotations
from dynaconv.detection.data.datamodule import split_paths
from dynaconv.detection.data.digits import DigitsConfig, make_digits
from dynaconv.detection.data.images import CocoImages
from dynaconv.detection.drawing import contact_sheet, draw_detections
from dynaconv.detection.evaluation.evaluate import SCORES_FILE, evaluate
from dynaconv.detection.evaluation.scores import DetectionScores
from dynaconv.detection.prediction import find_objects
from dynaconv.detection.runs import DETECTION, fit_or_resume
from dynaconv.files import replacing, write_text
from dynaconv.training.config import OptimizerConfig, RunConfig, ScheduleConfig
from dynaconv.training.runs.curves import save_curves
from dynaconv.training.runs.fitting import FitResult
from dynaconv.training.runs.history import Row

BACKBONE = "resnet18"
WIDTH: Mapping[str, Any] = {"channels": [16, 32, 64, 128]}
PICTURES = 6
"""Validation images on the sheet of the demonstration."""
SCORE = 0.5
"""Detections below are not drawn."""
LARGER, ABREAST = 2, 2
"""Drawings are so many times as large as the images, and so many images stand side by side."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What is shown.

    Args:
        train: training images.
        val: images that are judged.
        size: longer side of an image, in pixels.
        epochs: of each detector.
        seed: of data and detectors.
    """

    train: int = 800
    val: int = 200
    size: int = 160
    epochs: int = 12
    seed: int = 0


@dataclass(frozen=True)
class Twin:
    """One of the detectors that are compared.

    Args:
        label: for people.
        folder: name of its folder.
        method: of the backbone's convolutions; None for the static one.
    """

    label: str
    folder: str
    method: KernelWarehouseConfig | None


@dataclass(frozen=True)
class DemoResult:
    """What came out.

    Args:
        runs: twins with their runs and the scores of their best epoch, in order.
        curves: a PNG.
        pictures: a PNG of what they find, beside the truth.
        summary: a JSON file of all figures.
    """

    runs: tuple[tuple[Twin, FitResult, DetectionScores], ...]
    curves: Path
    pictures: Path
    summary: Path


TWINS = (Twin("static", "static", None), Twin("KernelWarehouse 1x", "kw", KernelWarehouseConfig()))


def demo_recipe(twin: Twin, config: DemoConfig, data: Path) -> DetectionRecipe:
    """The recipe that both share, but for the method."""
    return DetectionRecipe(
        model=BACKBONE,
        method=None if twin.method is None else twin.method.to_dict(),
        backbone=dict(WIDTH),
        detector=DetectorConfig(
            image_size=config.size,  # the longer side decides
            max_size=config.size,
            pyramid_channels=32,
            box_channels=128,
            mask_channels=32,
            anchor_size=16,
            proposals=200,
            box_samples=64,
        ),
        data=str(data),
        loader=CocoLoaderConfig(batch_size=4, workers=0),
        augment=DetectionAugmentConfig(flip=0.0),  # digits have a hand
        optimizer=OptimizerConfig(lr=2e-3, clip_norm=10.0),
        schedule=ScheduleConfig(epochs=config.epochs, kind="cosine", warmup_epochs=min(1, config.epochs / 2)),
        run=RunConfig(seed=config.seed),
    )


def make_data(out: str | Path, config: DemoConfig, advance: Callable[[], None] = lambda: None) -> Path:
    """Make the digits, unless they are there.

    Args:
        out: folder of the demonstration.
        config: what is shown.
        advance: called after every image.

    Raises:
        DynaconvError: if there are digits of other settings.
    """
    data = Path(out) / "digits"
    make_digits(data, DigitsConfig(train=config.train, val=config.val, size=config.size, seed=config.seed), advance)
    return data


def run_demo(
    out: str | Path,
    config: DemoConfig | None = None,
    *,
    start: Callable[[str], None] = lambda text: None,
    report: Callable[[Row], None] | None = None,
    progress_bar: bool = False,
) -> DemoResult:
    """Make the data, train both twins, judge them, and draw what they find; what is there already is not made again.

    Args:
        out: folder for everything.
        config: what is shown.
        start: called with a line before each step.
        report: called with the figures of every epoch.
        progress_bar: show those of training and judging.

    Raises:
        DynaconvError: if the folder holds a demonstration of other settings.
    """
    config, out = config or DemoConfig(), Path(out)
    data = make_data(out, config)
    runs = []
    for twin in TWINS:
        start(f"Mask R-CNN, {twin.label}")
        fitted = fit_or_resume(
            demo_recipe(twin, config, data), out / twin.folder, report=report, progress_bar=progress_bar
        )
        judged = out / twin.folder / "scores"
        fresh = None if (judged / SCORES_FILE).exists() else judged
        if fresh is not None:  # half written
            shutil.rmtree(fresh, ignore_errors=True)
        runs.append((twin, fitted, evaluate(fitted.best, out=fresh, progress_bar=progress_bar)))
    start("pictures")
    curves = save_curves({twin.label: fitted.rows for twin, fitted, _ in runs}, out / "curves.png", DETECTION.panels)
    pictures = _draw(out, [(twin.label, fitted.best) for twin, fitted, _ in runs], data)
    return DemoResult(tuple(runs), curves, pictures, _summarise(out / "demo.json", config, runs))


def _draw(out: Path, detectors: list[tuple[str, Path]], data: Path) -> Path:
    """A sheet: an image a row; the truth, and what each detector finds."""
    annotations = read_annotations(*split_paths(str(data), CocoLoaderConfig(), "val"), masks=True)
    images = CocoImages(annotations, masks=True, empty=False)
    some = range(min(PICTURES, len(images)))
    paths = [Path(images.folder) / images.record(index).name for index in some]
    titles, columns = ["truth"], [[_truth(*images[index], annotations.classes) for index in some]]
    for label, best in detectors:
        detector, description = load_detector(best)
        found = find_objects(
            detector,
            paths,
            classes=description["classes"],
            category_ids=description["category_ids"],
            score=SCORE,
            scale=LARGER,
        )
        columns.append([picture for _, picture in found])
        titles.append(label)
    rows = [picture for row in zip(*columns, strict=True) for picture in row]
    path = out / "pictures.png"
    with replacing(path) as temporary:
        contact_sheet(rows, ABREAST * len(columns), titles * len(some)).save(temporary, format="PNG")
    return path


def _truth(image: Any, target: dict[str, Any], classes: tuple[str, ...]) -> Any:
    """An image with the objects that are to be found."""
    labels = target["labels"].tolist()
    return draw_detections(image, target["boxes"], labels, None, target["masks"], classes, scale=LARGER)


def _summarise(path: Path, config: DemoConfig, runs: list[tuple[Twin, FitResult, DetectionScores]]) -> Path:
    summary = {
        "command": command_line(),
        "settings": vars(config),
        "environment": environment(),
        "detectors": [
            {
                "label": twin.label,
                "parameters": fitted.parameters,
                "seconds_per_epoch": fitted.seconds_per_epoch,
                "scores": scores.to_dict(),
                "rows": fitted.rows,
            }
            for twin, fitted, scores in runs
        ],
    }
    write_text(path, json.dumps(summary, indent=1) + "\n")
    return path
