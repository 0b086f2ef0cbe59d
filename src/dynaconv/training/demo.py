"""The demonstration: one small ResNet18, static and as a KernelWarehouse network at two budgets, on one recipe.

Half width, because at 32 pixels mixing kernels costs far more than convolving. Cells of full size at b = 1/2, where
the paper's presets take half: the branches cost the same at any width, so at half width four times as many cells
would spend on branches what the budget saves on kernels (2.77 M parameters instead of 1.48 M).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynaconv.config import KernelWarehouseConfig
from dynaconv.models import get_preset
from dynaconv.training.config import (
    AugmentConfig,
    LoaderConfig,
    OptimizerConfig,
    Recipe,
    RunConfig,
    ScheduleConfig,
)
from dynaconv.training.runs.curves import save_curves
from dynaconv.training.runs.fitting import FitResult, fit
from dynaconv.training.runs.history import Row

BACKBONE = "resnet18"
WIDTH: Mapping[str, Any] = {"channels": [32, 64, 128, 256]}
STATIC_PAPER_TOP1 = 70.44
"""ResNet18 on ImageNet, 300 epochs, percent: KernelWarehouse README (June 2024), as the presets' figures."""


@dataclass(frozen=True)
class Contender:
    """One of the networks that are compared.

    Args:
        label: for people.
        folder: name of its folder.
        config: None for the static network.
        paper_top1: ImageNet top-1 in percent that the paper reports for the full-width network.
    """

    label: str
    folder: str
    config: KernelWarehouseConfig | None
    paper_top1: float


@dataclass(frozen=True)
class DemoResult:
    """What came out.

    Args:
        runs: contenders with their runs, in order.
        curves: the PNG.
    """

    runs: tuple[tuple[Contender, FitResult], ...]
    curves: Path


def contenders() -> tuple[Contender, ...]:
    """Static, b = 1/2 and b = 1."""
    half, whole = get_preset("kw1d2x_resnet18").results[0].top1, get_preset("kw1x_resnet18").results[0].top1
    return (
        Contender("ResNet18, static", "static", None, STATIC_PAPER_TOP1),
        Contender("ResNet18, KW 1/2x", "kw-half", KernelWarehouseConfig(budget=0.5, cell_scale=1), half),
        Contender("ResNet18, KW 1x", "kw-one", KernelWarehouseConfig(), whole),
    )


def demo_recipe(config: KernelWarehouseConfig | None, *, data: str, epochs: int, seed: int) -> Recipe:
    """The recipe all contenders share, but for the config."""
    return Recipe(
        model=BACKBONE,
        method=None if config is None else config.to_dict(),
        backbone=dict(WIDTH),
        data=data,
        loader=LoaderConfig(image_size=32, batch_size=32),
        augment=AugmentConfig(),
        optimizer=OptimizerConfig(lr=8e-3),
        schedule=ScheduleConfig(epochs=epochs, warmup_epochs=1, temperature_epochs=epochs / 2),
        run=RunConfig(seed=seed),
    )


def run_demo(
    out: str | Path,
    *,
    data: str = "digits",
    epochs: int = 10,
    seed: int = 0,
    start: Callable[[Contender], None] = lambda contender: None,
    report: Callable[[Row], None] | None = None,
    progress_bar: bool = False,
) -> DemoResult:
    """Train the contenders one after the other.

    Args:
        out: folder for a run a contender, and the curves.
        data: an embedded set.
        epochs: of each contender.
        seed: of each contender.
        start: called before each contender.
        report: called with the figures of every epoch.
        progress_bar: show Lightning's progress bar.

    Raises:
        DynaconvError: if the folder already holds a demo.
    """
    runs = []
    for contender in contenders():
        start(contender)
        recipe = demo_recipe(contender.config, data=data, epochs=epochs, seed=seed)
        runs.append((contender, fit(recipe, Path(out) / contender.folder, report=report, progress_bar=progress_bar)))
    curves = save_curves({contender.label: run.rows for contender, run in runs}, Path(out) / "curves.png")
    return DemoResult(tuple(runs), curves)
