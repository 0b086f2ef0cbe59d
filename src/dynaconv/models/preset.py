"""What a preset is: a backbone, a config, and what its paper reports for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dynaconv.config import MethodConfig


@dataclass(frozen=True, kw_only=True)
class PaperResult:
    """Figures that a paper reports. They are the paper's, not measured here.

    Args:
        dataset: what was evaluated.
        recipe: how the network was trained.
        top1: top-1 accuracy in percent.
        top5: top-5 accuracy in percent, if reported.
        params_millions: parameters in millions, as printed.
        source: where the figure stands.
    """

    dataset: str = "ImageNet"
    recipe: str
    top1: float
    top5: float | None = None
    params_millions: float | None = None
    source: str


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A network of a paper.

    Args:
        name: what :func:`dynaconv.create_model` takes.
        backbone: name of the static network in timm.
        config: the method's config; None for a static network.
        where: which layers are dynamic, as in :func:`dynaconv.plan`.
        params: exact parameters with 1000 classes and three input channels.
        results: what the papers report.
        note: where sources disagree or are silent, and what was chosen.
        backbone_kwargs: arguments for the backbone.
        classifier_overrides: those of the config's overrides that only a network with a classifier has.
    """

    name: str
    backbone: str
    config: MethodConfig
    where: tuple[str, ...] | None = None
    params: int
    results: tuple[PaperResult, ...] = ()
    note: str = ""
    backbone_kwargs: Mapping[str, Any] = field(default_factory=dict)
    classifier_overrides: tuple[str, ...] = ()
