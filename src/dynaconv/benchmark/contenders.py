"""Who is measured for a network: the static backbone, this library's ways, and the textbook's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

import dynaconv
from dynaconv.analysis.settling import settle
from dynaconv.benchmark.settings import BenchSettings
from dynaconv.models import create_model, get_preset
from dynaconv.models.layout import use_channels_last


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to run a network.

    Args:
        name: in files.
        title: for people.
        dynamic: whether it is the preset, not its static backbone.
        channels_last: layout of images and parameters.
        backend: of the dynamic layers, see :class:`dynaconv.use_backend`.
        prepared: whether the network is prepared for inference first; no training then.
        compiled: whether it runs through ``torch.compile``.
    """

    name: str
    title: str
    dynamic: bool = True
    channels_last: bool = True
    backend: str = "auto"
    prepared: bool = False
    compiled: bool = False

    @property
    def layout(self) -> torch.memory_format:
        """Layout of images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format


REFERENCE, OURS, TEXTBOOK = "static_channels_last", "ours", "textbook"
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(name=REFERENCE, title="static", dynamic=False),
        Contender(name="static", title="static, NCHW", dynamic=False, channels_last=False),
        Contender(name=OURS, title="ours"),
        Contender(name="ours_prepared", title="ours, prepared", prepared=True),
        Contender(name="compiled", title="ours, compiled", compiled=True),
        # The papers' codes leave images as PyTorch makes them, and a grouped convolution over samples wants them so.
        Contender(name=TEXTBOOK, title="textbook", channels_last=False, backend="textbook"),
    )
}
"""All there are; the first is what the others are related to."""


def contenders_of(settings: BenchSettings, training: bool) -> list[Contender]:
    """Who takes part in inference, or in training."""
    return [
        contender
        for contender in CONTENDERS.values()
        if (settings.compiled or not contender.compiled) and not (contender.prepared and training)
    ]


def build(
    contender: Contender,
    network: str,
    device: str,
    max_extra_mb: float,
    settle_on: int | None = None,
    progress: float = 1.0,
) -> nn.Module:
    """A contender's network, with weights that are always the same.

    Args:
        contender: who.
        network: a preset.
        device: where.
        max_extra_mb: memory that preparing for inference may add.
        settle_on: side of the images that :func:`settle` takes; None leaves statistics as they are.
        progress: how far the temperature's schedule has come; at its end, with 1, attention alone mixes kernels, and
            that of fresh weights magnifies rounding.
    """
    preset = get_preset(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model(network) if contender.dynamic else create_model(preset.backbone, **preset.backbone_kwargs)
    dynaconv.schedule_temperature(model, progress)
    model.to(device)
    if contender.channels_last:
        use_channels_last(model)
    if settle_on is not None:
        settle(model, settle_on)
    return dynaconv.prepare_inference(model.eval(), max_extra_mb=max_extra_mb) if contender.prepared else model
