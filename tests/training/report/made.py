"""A report's figures made by hand, with names that would like to be HTML, and numbers that can be read off."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import torch

from dynaconv import KernelWarehouseConfig
from dynaconv.analysis.attention import AttentionMap, AttentionMaps
from dynaconv.planning import LayerSpec, make_plan
from dynaconv.training.report.curves import curves_of
from dynaconv.training.report.gather import Figures
from dynaconv.training.report.judging import Judge
from dynaconv.training.report.network import Cost, NetworkFigures
from dynaconv.training.report.sheets import attention_figures
from dynaconv.training.report.speed import OURS, STATIC, Spread, Timing

EVIL = "<script>alert(1)</script>"
CLASSES = (EVIL, "</script><img src=x onerror=alert(2)>", "cat & \"dog\" 'x' {{ 7 * 7 }}")
COLUMNS, ROWS = 6, 4  # two layers of two mixtures over six cells
ASSIGNED = ((0, 0), (1, 1))


def attention(layer: str, offset: float) -> AttentionMap:
    """Mixture i attends to cell j by offset + (i - j) / 10; to images of the second class by 0.01 more."""
    mean = offset + (torch.arange(2.0).view(-1, 1) - torch.arange(6.0)).double() / 10
    return AttentionMap(
        layer=layer,
        kind="cells",
        group="stage <i>0</i>",
        images=30,
        mean=mean,
        size=mean.abs(),
        spread=mean.abs() / 2,
        histogram=torch.zeros(201, dtype=torch.float64),
        negative=3,
        positive=1,
        by_class=torch.stack([mean, mean + 0.01]),
        assigned=ASSIGNED,
    )


def judge() -> Judge:
    """Eight images of the first two classes, three of them wrong."""
    judge = Judge(CLASSES)
    images = torch.linspace(-1, 1, 8).view(8, 1, 1, 1).expand(8, 1, 16, 16)
    truth = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    said = torch.tensor([0, 0, 0, 1, 1, 1, 0, 2])
    sureness = torch.tensor([1.0, 5.0, 3.0, 2.0, 4.0, 6.0, 3.0, 1.0])
    judge.add(images, truth, torch.nn.functional.one_hot(said, 3) * sureness.unsqueeze(1))
    return judge


def figures(**changes) -> Figures:
    specs = [LayerSpec(name=f"conv{i} <b>", in_channels=8, out_channels=8, kernel_size=(1, 2)) for i in (1, 2)]
    plan = make_plan(specs, KernelWarehouseConfig(budget=1.0))
    network = NetworkFigures(
        name="tiny",
        backbone="tiny",
        method="kernel_warehouse",
        settings={"budget": 1.0},
        input_size=(1, 16, 16),
        cost=Cost(parameters=1000, kernels=600, branches=300, convolution=5000, mixing=200, attention=50),
        static=Cost(parameters=700, kernels=600, convolution=5000),
        layers=plan.layers,
        warehouses=plan.warehouses,
        left_static=("stem",),
        notes=("a note with <b>bold</b>",),
    )
    maps = AttentionMaps((attention("conv1 <b>", 0.1), attention("conv2 <b>", 0.2)), CLASSES[:2], 0.0)
    rows = [{"epoch": e, "train_loss": 2 / e, "val_loss": 3 / e, "val_top1": e / 5, "lr": 0.1} for e in range(1, 5)]
    seconds = {OURS: Spread(0.002, 0.0015, 0.003), STATIC: Spread(0.001, 0.0009, 0.0011)}
    made = Figures(
        checkpoint="runs/<b>x</b>/best",
        data="folder:/tmp/<b>x</b>",
        limited=None,
        unreadable=0,
        mean=(0.5,),
        std=(0.5,),
        network=network,
        judged=judge().result(),
        attention=attention_figures(maps, CLASSES[:2]),
        curves=curves_of(rows),
        no_curves="",
        timings=(Timing(batch=1, rounds=9, seconds=seconds, ratio=Spread(2.0, 1.5, 2.5)),),
        load=0.25,
        trained={"dynaconv": "0.1.0", "data": "folder:x", "epoch": 4, "top1": 0.8, "environment": None},
        measured="a machine; torch 2",
        command="dynaconv report 'runs/<b>x</b>/best'",
        date=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        notes=(),
    )
    return replace(made, **changes)
