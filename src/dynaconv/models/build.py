"""Make a network by name: a preset of a paper, or any timm backbone with a config."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from dynaconv.config import KernelWarehouseConfig, MethodConfig
from dynaconv.convert import Init, Pretrained, Where, convert, draft_plan, find_candidates
from dynaconv.errors import DynaconvError, UnknownModelError, require
from dynaconv.models.backbone import make_backbone
from dynaconv.models.preset import Preset
from dynaconv.models.presets import PRESETS

_BY_NAME = {preset.name: preset for preset in PRESETS}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the presets that match a pattern, as in :mod:`fnmatch`.

    Example:
        >>> list_models("kw4x_resnet*")
        ['kw4x_resnet18', 'kw4x_resnet50']
    """
    return [name for name in _BY_NAME if fnmatchcase(name, pattern)]


def get_preset(name: str) -> Preset:
    """A preset by name.

    Raises:
        UnknownModelError: if there is none; it names the nearest.
    """
    if name not in _BY_NAME:
        close = get_close_matches(name, _BY_NAME, n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(close)}?" if close else "; dynaconv.list_models() lists them"
        raise UnknownModelError(f"no preset '{name}'{hint}")
    return _BY_NAME[name]


def _without_classifier(preset: Preset, backbone: nn.Module) -> tuple[MethodConfig, tuple[str, ...] | None]:
    """A preset's config and selection for a backbone that was made without its classifier."""
    names = [spec.name for spec in find_candidates(backbone).convertible]
    config = preset.config
    if isinstance(config, KernelWarehouseConfig):
        overrides = {k: v for k, v in config.overrides.items() if k not in preset.classifier_overrides}
        config = replace(config, overrides=overrides)
    where = preset.where and tuple(p for p in preset.where if any(fnmatchcase(n, p.removeprefix("!")) for n in names))
    return config, where


def create_model(
    name: str,
    *,
    config: MethodConfig | None = None,
    where: Where | None = None,
    num_classes: int = 1000,
    in_chans: int = 3,
    pretrained: bool = False,
    init: Init | Pretrained = "auto",
    **backbone_kwargs: Any,
) -> nn.Module:
    """Make a preset's network, or a timm backbone, static or converted by a config.

    Args:
        name: a preset (:func:`list_models`) or a model of timm.
        config: for a backbone: how to convert it; None leaves it static.
        where: for a backbone with a config: which layers, as in :func:`dynaconv.plan`.
        num_classes: outputs of the classifier; 0 for features.
        in_chans: channels of the input.
        pretrained: load timm's weights into the backbone, from which it is then converted. No weights are published
            for the presets.
        init: how dynamic layers start, as in :func:`dynaconv.convert`.
        backbone_kwargs: further arguments of timm's model, e.g. ``drop_path_rate``; also ``v1_stride=True`` (a ResNet
            that strides in its first 1x1 convolutions, as the original) and ``classifier_bias=False``.

    Raises:
        UnknownModelError: if the name is neither.
        DynaconvError: if config or where is given with a preset, which has its own.
        MissingExtraError: if timm is not installed.
    """
    timm = require("timm", "train")
    arguments = {"num_classes": num_classes, "in_chans": in_chans, **backbone_kwargs}
    preset = _BY_NAME.get(name)
    if preset is None:
        if not timm.is_model(name):
            close = get_close_matches(name, [*_BY_NAME, *timm.list_models()], n=3, cutoff=0.6)
            hint = f"; did you mean {', '.join(close)}?" if close else ""
            raise UnknownModelError(f"'{name}' is neither a preset (dynaconv.list_models()) nor a model of timm{hint}")
        backbone = make_backbone(name, pretrained=pretrained, **arguments)
        if config is None:
            if where is not None:
                raise DynaconvError("where= says which layers a config converts; give config= too")
            return backbone
        return convert(backbone, config, where, "pretrained" if pretrained and init == "auto" else init)
    if config is not None or where is not None:
        raise DynaconvError(
            f"'{name}' is a preset with a config of its own; to change it, give the backbone's name: "
            f"create_model({preset.backbone!r}, config=..., where=...)"
        )
    if pretrained:
        raise DynaconvError(
            f"no trained weights are published for '{name}'; use pretrained=False, or start from its backbone's: "
            f"create_model({preset.backbone!r}, pretrained=True, config=...)"
        )
    headless = num_classes == 0 or bool(backbone_kwargs.get("features_only"))
    backbone = make_backbone(preset.backbone, **{**preset.backbone_kwargs, **arguments})
    config, where = _without_classifier(preset, backbone) if headless else (preset.config, preset.where)
    return convert(backbone, draft_plan(backbone, config, list(where) if where else None), init=init)
