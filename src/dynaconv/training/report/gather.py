"""Everything that a report says, as figures: nothing here knows of HTML."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.analysis.attention import AttentionMaps, collect_attention
from dynaconv.analysis.attention.maps import class_names
from dynaconv.analysis.environment import command_line, describe, environment, utc_now
from dynaconv.analysis.settling import settle
from dynaconv.checkpoints.description import base_path
from dynaconv.nn import attending_layers
from dynaconv.training.attention_study import MOST_CLASSES
from dynaconv.training.comparison.runs import FINISHED_FILE
from dynaconv.training.config import LoaderConfig
from dynaconv.training.devices import place
from dynaconv.training.evaluation import Counting, check_limit, first_batches, open_saved
from dynaconv.training.report.curves import Curves, read_curves
from dynaconv.training.report.judging import Judge, Judged
from dynaconv.training.report.network import NetworkFigures, Origin, describe_network
from dynaconv.training.report.sheets import AttentionFigures, attention_figures, classes_that_fit
from dynaconv.training.report.speed import OURS, STATIC, Timing, measure_speed

BATCHES = (1, 8)
"""Images of the passes that are timed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Figures:
    """A report's content.

    Args:
        checkpoint: its path without ending.
        data: whose validation images were judged.
        limited: how many validation images there are, if only the first were judged.
        unreadable: images that were left out.
        mean: of each channel, by which images were normalised.
        std: likewise.
        network: what it is and costs.
        judged: what it makes of the images.
        attention: what it attends to; None if it does not mix kernels by attention.
        curves: of its training; None if nothing is known of it.
        no_curves: why.
        timings: of forward passes; empty if they were not asked for.
        load: of the machine just before they were taken, None where the system does not say.
        trained: what is known of the training: version, epoch, accuracy, environment.
        measured: environment of this report in one line.
        command: that made it.
        date: of this report.
        notes: what was left out.
    """

    checkpoint: str
    data: str
    limited: int | None
    unreadable: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    network: NetworkFigures
    judged: Judged
    attention: AttentionFigures | None
    curves: Curves | None
    no_curves: str
    timings: tuple[Timing, ...]
    load: float | None
    trained: Mapping[str, Any]
    measured: str
    command: str
    date: datetime
    notes: tuple[str, ...]


def gather(
    checkpoint: str | Path,
    data: str | None = None,
    *,
    loader: LoaderConfig | None = None,
    device: str = "cpu",
    limit: int | None = None,
    classes: Sequence[int | str] | None = None,
    speed: bool = True,
    counting: Counting | None = None,
) -> Figures:
    """Judge a saved network, count it, time it, and see what it attends to.

    Args:
        checkpoint: name of the pair of files, such as ``runs/<name>/<time>/best``.
        data: a source; the one it was trained on if None.
        loader: batch size, workers.
        device: where to run, such as ``cuda``.
        limit: validation images at most, the first ones; all if None.
        classes: names or numbers of those whose average attention is kept; the first ten if None.
        speed: whether to time forward passes.
        counting: a progress bar: is given a text and a number of steps, and gives what to call after each.

    Raises:
        CheckpointError: if the checkpoint can not be loaded.
        DynaconvError: if the data have other classes, there is no image, or device, limit or a class is not known.
    """
    check_limit(limit)
    counted = counting or (lambda text, total: nullcontext(lambda: None))
    model, images, about = open_saved(checkpoint, data, loader)
    names, notes = tuple(map(str, images.classes)), []
    chosen = class_names(names, classes, MOST_CLASSES)
    room = classes_that_fit(model)
    if attending_layers(model) and len(chosen) > room:
        notes.append(
            f"averages by class of {len(chosen) - room} of {len(chosen)} classes, which would take too much room"
        )
        chosen = chosen[:room]
    network = describe_network(model, about, checkpoint)
    place(model, device)
    total = images.summary()["val"]
    steps = -(-min(limit or total, total) // images.loader.batch_size)
    judge = Judge(names)
    with counted("images", steps) as done:
        batches = first_batches(images.val_dataloader(), limit, done)
        maps = _judge(model, batches, judge, {number: names[number] for number in chosen}, device)
    judged = judge.result()
    attention = None if maps is None else attention_figures(maps, [one.name for one in judged.by_class])
    if attention is not None and attention.left_out:
        notes.append(f"attention maps of {', '.join(attention.left_out)}, which would take too much room")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    timings = []
    if speed:
        networks = {OURS: model} | _static(about, checkpoint, network, device)
        for batch in BATCHES:
            with counted(f"speed, batch {batch}", None):
                timings.append(measure_speed(networks, network.input_size, batch, device))
    folder = base_path(checkpoint).parent
    curves, no_curves = read_curves(folder)
    ledger = images.ledgers.get("val_unreadable")
    return Figures(
        checkpoint=str(base_path(checkpoint)),
        data=images.data,
        limited=total if limit is not None and limit < total else None,
        unreadable=0 if ledger is None else len(ledger.faults),
        mean=tuple(images.mean),
        std=tuple(images.std),
        network=network,
        judged=judged,
        attention=attention,
        curves=curves,
        no_curves=no_curves,
        timings=tuple(timings),
        load=load if speed else None,
        trained=_trained(about, folder),
        measured=describe(environment()),
        command=command_line(),
        date=utc_now(),
        notes=tuple(notes),
    )


def _judge(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    judge: Judge,
    classes: Mapping[int, str],
    device: str,
) -> AttentionMaps | None:
    """One pass over the images for both: what the network says of them, and what it attends to in them."""
    given: list[tuple[Tensor, Tensor]] = []

    def noted() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches:
            given.append(batch)
            yield batch

    def overhear(module: nn.Module, inputs: Any, logits: Tensor) -> None:
        judge.add(*given.pop(), logits)

    handle = model.register_forward_hook(overhear)
    try:
        if attending_layers(model):
            return collect_attention(model, noted(), classes=classes)
        with torch.inference_mode():
            for images, _ in noted():
                model.eval()(images.to(device))
        return None
    finally:
        handle.remove()


def _static(
    about: Mapping[str, Any], checkpoint: str | Path, network: NetworkFigures, device: str
) -> dict[str, nn.Module]:
    """The static backbone with random weights, as long as there is another network beside it."""
    if network.method is None:
        return {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        static = Origin.of(about["model"]).static(checkpoint).to(device)
    settle(static, network.input_size[1], network.input_size[0])
    return {STATIC: static}


def _trained(about: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What checkpoint and run say of the training, as far as they do."""
    metrics = about.get("metrics")
    found = {
        "dynaconv": about.get("dynaconv"),
        "data": about.get("data"),
        "epoch": about.get("epoch"),
        "top1": metrics.get("val_top1") if isinstance(metrics, dict) else None,
        "environment": None,
    }
    try:  # runs of a comparison note where they were trained
        noted = json.loads((folder / FINISHED_FILE).read_text(encoding="utf-8"))
        found["environment"] = describe(noted["environment"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return found
