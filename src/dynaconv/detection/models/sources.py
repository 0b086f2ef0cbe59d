"""Where a backbone comes from: a random start, a checkpoint of this library, a file of weights, or timm."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

import dynaconv
from dynaconv.checkpoints.description import is_checkpoint
from dynaconv.checkpoints.native import load_checkpoint
from dynaconv.checkpoints.reading import read_state_dict
from dynaconv.checkpoints.reference import load_reference_checkpoint
from dynaconv.checkpoints.weights import load_weights
from dynaconv.config import MethodConfig
from dynaconv.convert import Where, config_from_dict
from dynaconv.errors import CheckpointError, DynaconvError
from dynaconv.training.engine.tuning import TIMM, fitting_network

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class _Asked:
    """What was asked for: arguments of :func:`dynaconv.create_model`."""

    name: str
    config: MethodConfig | None
    where: Where | None
    num_classes: int
    in_chans: int
    options: Mapping[str, Any]

    def make(self, **more: Any) -> nn.Module:
        """The network."""
        chosen = {"config": self.config, "where": self.where, "num_classes": self.num_classes}
        return dynaconv.create_model(self.name, in_chans=self.in_chans, **self.options, **chosen, **more)

    def loaded(self, state: Mapping[str, Any], converted: bool = True) -> nn.Module:
        """The network, or the static one below it, with weights; as many classes as they have."""
        chosen = {"config": self.config, "where": self.where} if converted else {}
        return fitting_network(self.name, state, in_chans=self.in_chans, **self.options, **chosen)

    def arguments(self) -> dict[str, Any]:
        """As plain types."""
        return {
            "name": self.name,
            "config": None if self.config is None else self.config.to_dict(),
            "where": self.where,
            "num_classes": self.num_classes,
            "in_chans": self.in_chans,
            "backbone_kwargs": dict(self.options),
        }


@dataclass(frozen=True)
class Backbone:
    """A classification network, whole.

    Args:
        network: with its classifier; trained networks are at the end of their temperature's schedule.
        arguments: of :func:`dynaconv.create_model` that make it without weights, as plain types.
        mean: what its images were normalised with, a value a channel; None if that is not known.
        std: as above.
    """

    network: nn.Module
    arguments: dict[str, Any]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def open_backbone(
    name: str,
    *,
    weights: str | None = None,
    config: MethodConfig | None = None,
    where: Where | None = None,
    num_classes: int = 1000,
    in_chans: int = 3,
    backbone_kwargs: Mapping[str, Any] | None = None,
) -> Backbone:
    """Make a backbone, and load trained weights into it.

    Args:
        name: a preset or a model of timm.
        weights: a checkpoint of `dynaconv train` (its config, ``where`` and arguments are taken where none are given),
            a file of weights of the network (this library's, timm's or the method's authors'; static ones are converted
            with :func:`dynaconv.convert`'s ``init="pretrained"``), ``"timm"``, or None for a random start.
        config: for a timm backbone: how it is converted.
        where: for a timm backbone with a config: which layers.
        num_classes: outputs of its classifier; a file's own come before it.
        in_chans: channels of an image.
        backbone_kwargs: further arguments of :func:`dynaconv.create_model`.

    Raises:
        CheckpointError: if weights can not be read, are a detector's, or do not fit.
        DynaconvError: if a checkpoint is of another network than asked for, or there is no such file.
    """
    asked = _Asked(name, config, where, num_classes, in_chans, dict(backbone_kwargs or {}))
    if weights is None or weights == TIMM:
        return _described(asked.make(pretrained=weights == TIMM), asked)
    path = Path(weights).expanduser()
    if is_checkpoint(path):
        return _from_checkpoint(path, asked)
    if not path.is_file():
        raise DynaconvError(
            f"detector.weights={weights!r} is no file and no checkpoint; expected runs/NAME/TIME/best of `dynaconv "
            f"train`, a file of weights of '{name}' (.safetensors, .pth), or {TIMM!r} to download timm's"
        )
    network = _from_file(path, asked)
    dynaconv.schedule_temperature(network, 1.0)
    return _described(network, replace(asked, num_classes=getattr(network, "num_classes", num_classes)))


def _described(network: nn.Module, asked: _Asked) -> Backbone:
    """A network with the arguments that make it, and what timm knows of its images."""
    known = getattr(network, "pretrained_cfg", None) or {}
    mean, std = tuple(known.get("mean", ())), tuple(known.get("std", ()))
    fits = len(mean) == len(std) == asked.in_chans
    return Backbone(network, asked.arguments(), mean if fits else None, std if fits else None)


def _from_checkpoint(path: Path, asked: _Asked) -> Backbone:
    """The network of a checkpoint, if it is the one asked for; arguments such as drop_path_rate may differ.

    A static network is converted as it is trained, if a method is asked for.
    """
    network, description = load_checkpoint(path)
    saved = {"config": None, "where": None, "num_classes": 1000, "in_chans": 3, **description["model"]}
    saved["backbone_kwargs"] = dict(saved.get("backbone_kwargs") or {})
    config = None if saved["config"] is None else config_from_dict(saved["config"])
    converts = config is None and asked.config is not None
    _check_same(path, replace(asked, config=None, where=None) if converts else asked, {**saved, "config": config})
    options = {**saved["backbone_kwargs"], **asked.options}
    if options != saved["backbone_kwargs"]:
        there = replace(asked, config=config, where=saved["where"], num_classes=saved["num_classes"], options=options)
        state, network = network.state_dict(), there.make()
        load_weights(network, state)
    if converts and asked.config is not None:
        network = dynaconv.convert(network, asked.config, asked.where, init="pretrained")
        saved |= {"config": asked.config.to_dict(), "where": asked.where}
    dynaconv.schedule_temperature(network, 1.0)
    mean, std = description.get("mean"), description.get("std")
    arguments = {**saved, "backbone_kwargs": options}
    return Backbone(network.train(), arguments, mean and tuple(mean), std and tuple(std))


def _check_same(path: Path, asked: _Asked, saved: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another network; what was left open is taken from it."""
    wanted: dict[str, Any] = {"name": asked.name, "in_chans": asked.in_chans}
    if asked.where is not None:
        wanted["where"] = asked.where
    if asked.config is not None and getattr(asked.config, "params", None) is None:  # else the budget found was saved
        wanted["config"] = asked.config
    other = {key: value for key, value in wanted.items() if _plain(value) != _plain(saved[key])}
    if other:
        listed = "; ".join(f"{key}: {value!r} asked for, {saved[key]!r} saved" for key, value in other.items())
        raise DynaconvError(f"detector.weights='{path}' is of another network: {listed}; ask for what was saved")


def _plain(value: Any) -> Any:
    """Tuples as lists."""
    return list(value) if isinstance(value, tuple) else value


def _from_file(path: Path, asked: _Asked) -> nn.Module:
    """A network with a file's weights: of this library's names, of the method's authors', or static and converted."""
    state, _ = read_state_dict(path)
    try:
        return asked.loaded(state)
    except CheckpointError as error:
        problem = error
    with suppress(CheckpointError):
        return load_reference_checkpoint(asked.make(), state)
    if asked.config is not None:
        with suppress(CheckpointError):
            return dynaconv.convert(asked.loaded(state, False), asked.config, asked.where, init="pretrained")
    raise CheckpointError(f"detector.weights='{path}': {problem}") from problem
