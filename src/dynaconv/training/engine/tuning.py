"""Starting a run from a trained network: read it, convert it as it is, fit what is new to the data, keep it as teacher.

No implementation detail of a method is in here: converting is :func:`dynaconv.convert` with trained kernels.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import dynaconv
from dynaconv.checkpoints.description import is_checkpoint
from dynaconv.checkpoints.native import load_checkpoint
from dynaconv.checkpoints.reading import read_state_dict
from dynaconv.checkpoints.report import align_names
from dynaconv.checkpoints.weights import load_weights
from dynaconv.convert import draft_plan, recalibrate_norms
from dynaconv.errors import DynaconvError
from dynaconv.training.config import LoaderConfig, Recipe, TuneConfig
from dynaconv.training.data.datamodule import ImageDataModule
from dynaconv.training.data.embedded import EMBEDDED
from dynaconv.training.data.sampling import seeded
from dynaconv.training.engine.groups import Role, roles
from dynaconv.training.evaluation import validate

TIMM = "timm"


@dataclass(frozen=True)
class Source:
    """A trained network.

    Args:
        model: in evaluation mode.
        arguments: of :func:`dynaconv.create_model` that make it, as plain types.
        preprocessing: how its images were prepared; None if that is not known.
        classes: names of its classes; None if they are not known.
    """

    model: nn.Module
    arguments: dict[str, Any]
    preprocessing: Mapping[str, Any] | None = None
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class TunedStart:
    """What a run begins with.

    Args:
        model: the converted network.
        arguments: of :func:`dynaconv.create_model` that make it, as plain types.
        roles: what every parameter is, by name.
        teacher: the network before it was converted, to learn from; None if its classes are others.
        summary: figures of the start, ready for JSON.
    """

    model: nn.Module
    arguments: dict[str, Any]
    roles: dict[str, Role]
    teacher: nn.Module | None
    summary: dict[str, Any]


def open_source_network(recipe: Recipe) -> Source:
    """The trained network that a recipe starts from.

    Raises:
        CheckpointError: if its weights can not be read or do not fit.
        DynaconvError: if ``tune.source`` is none of the known kinds.
    """
    tune = recipe.tune
    assert tune is not None  # the caller's branch
    path = Path(tune.source).expanduser()
    if is_checkpoint(path):
        model, description = load_checkpoint(path)
        return Source(model, dict(description["model"]), description, tuple(description["classes"]))
    channels = recipe.loader.in_chans or 3
    arguments = {"name": recipe.model, "backbone_kwargs": dict(recipe.backbone), "in_chans": channels}
    if tune.source == TIMM:
        model = dynaconv.create_model(recipe.model, in_chans=channels, pretrained=True, **arguments["backbone_kwargs"])
        return _published(model, arguments)
    if not path.is_file():
        raise DynaconvError(
            f"tune.source={tune.source!r} is no file and no checkpoint; expected runs/NAME/TIME/best of `dynaconv "
            f"train`, a file of weights of '{recipe.model}' (.safetensors, .pth), or {TIMM!r} to download timm's"
        )
    state, _ = read_state_dict(path)
    network = fitting_network(recipe.model, state, in_chans=channels, **arguments["backbone_kwargs"])
    return _published(network, arguments)


def _published(model: nn.Module, arguments: dict[str, Any]) -> Source:
    """A network of timm's, with what timm knows of how its images were prepared."""
    known = getattr(model, "pretrained_cfg", None) or {}
    preprocessing = None
    if "mean" in known and arguments["in_chans"] == len(known["mean"]):
        preprocessing = {name: known[name] for name in ("mean", "std", "crop_pct", "interpolation") if name in known}
        preprocessing["image_size"] = known["input_size"][-1]
    return Source(model.eval(), {**arguments, "num_classes": getattr(model, "num_classes", 1000)}, preprocessing)


def fitting_network(name: str, state: Mapping[str, Tensor], **options: Any) -> nn.Module:
    """A network with as many classes as a state dict's classifier, and its weights.

    Args:
        name: of :func:`dynaconv.create_model`.
        state: of such a network; 1000 classes are taken if its classifier has no bias to count.
        options: further arguments of :func:`dynaconv.create_model`.

    Raises:
        CheckpointError: if it does not fit.
    """
    model = dynaconv.create_model(name, **options)
    names, _ = align_names(list(model.state_dict()), list(state))
    heads = [f"{head}.bias" for head, _ in _classifier(model)]
    classes = [len(state[given]) for given, own in names.items() if own in heads]
    if classes and classes[0] != getattr(model, "num_classes", None):
        model = dynaconv.create_model(name, num_classes=classes[0], **options)
    load_weights(model, state)
    return model


def _classifier(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names and modules of a timm network's classifier."""
    given = getattr(model, "get_classifier", lambda: None)()
    heads = given if isinstance(given, list | tuple) else [given]
    return [(name, module) for name, module in model.named_modules() if any(module is head for head in heads)]


def settle(recipe: Recipe, source: Source) -> Recipe:
    """The recipe with what follows from the source: its place, backbone, channels and size of images."""
    tune, loader, arguments = recipe.tune, recipe.loader, source.arguments
    assert tune is not None  # the caller's branch
    if tune.source != TIMM:  # a run may be resumed from another folder
        tune = replace(tune, source=str(Path(tune.source).expanduser().resolve()))
    if loader.in_chans is None:
        loader = replace(loader, in_chans=arguments["in_chans"])
    elif loader.in_chans != arguments["in_chans"]:
        raise DynaconvError(
            f"loader.in_chans={loader.in_chans}; the trained network takes {arguments['in_chans']} channels"
        )
    follows = source.classes is not None or recipe.data not in EMBEDDED
    if source.preprocessing is not None and loader.image_size is None and follows:
        loader = replace(loader, image_size=source.preprocessing["image_size"])
    backbone = dict(arguments.get("backbone_kwargs") or {})
    return replace(recipe, model=arguments["name"], backbone=backbone, loader=loader, tune=tune)


def prepare_as(images: ImageDataModule, source: Source) -> None:
    """Prepare images as the trained network's were; embedded sets keep their own statistics under published weights."""
    known, loader = source.preprocessing, images.loader
    opened = images.source
    if known is None or (source.classes is None and opened is not None and opened.in_memory):
        return
    images.mean, images.std = tuple(known["mean"]), tuple(known["std"])
    if loader.crop_pct is None and "crop_pct" in known:
        images.crop_pct = known["crop_pct"]
    if loader.interpolation == LoaderConfig().interpolation and "interpolation" in known:
        images.interpolation = known["interpolation"]


def start_from(recipe: Recipe, source: Source, images: ImageDataModule, judged: bool = True) -> TunedStart:
    """Give a trained network the data's classes, convert it, and fit what conversion lost.

    Args:
        recipe: settled, see :func:`settle`.
        source: the trained network; it is used up.
        images: set up.
        judged: find the accuracy of the trained and of the converted network, for the summary.
    """
    tune = recipe.tune
    assert tune is not None  # the caller's branch
    model, classes = source.model, tuple(images.classes)
    known = source.classes == classes or (source.classes is None and source.arguments["num_classes"] == len(classes))
    if recipe.method is not None and any(True for _ in dynaconv.dynamic_layers(model)):
        raise DynaconvError(
            f"tune.source={tune.source!r} is dynamic already; expected a static network to convert, or no method"
        )
    fresh_head = () if known else _renew_classifier(model, len(classes), recipe.run.seed)
    # Without a method the trained network would be its own teacher: only where that is asked for.
    taught = known and tune.distill != 0 and (recipe.method is not None or tune.distill is not None)
    teacher = copy.deepcopy(model).eval().requires_grad_(False) if taught else None
    summary: dict[str, Any] = {
        "source": tune.source,
        "parameters_before": sum(p.numel() for p in model.parameters()),
        "teacher": taught,
        "source_top1": judge(model, recipe, images) if judged and known else None,
    }
    if recipe.method is not None:
        _convert(model, recipe, tune, images)
        report = dynaconv.warm_start_report(model)
        if not report.exact and tune.calibration:
            recalibrate_norms(model, _batches(images, tune.calibration))
        summary |= {"exact": report.exact, "errors": report.weighted_errors or report.errors}
    summary |= {
        "parameters": sum(p.numel() for p in model.parameters()),
        "converted_top1": judge(model, recipe, images) if judged and known else None,
    }
    arguments = {
        **source.arguments,
        "num_classes": len(classes),
        "backbone_kwargs": dict(recipe.backbone),
    }
    if recipe.method is not None:
        arguments |= {"config": dynaconv.config_from_dict(recipe.method).to_dict(), "where": recipe.where}
    return TunedStart(model.train(), arguments, roles(model, fresh_head), teacher, summary)


def _renew_classifier(model: nn.Module, num_classes: int, seed: int) -> tuple[str, ...]:
    """A fresh classifier for other classes; returns the names of its modules."""
    if not hasattr(model, "reset_classifier"):
        raise DynaconvError(f"{type(model).__name__} has no reset_classifier(); expected a network of timm")
    with seeded(seed):
        model.reset_classifier(num_classes)  # pyright: ignore[reportCallIssue]
    return tuple(name for name, _ in _classifier(model))


def _convert(model: nn.Module, recipe: Recipe, tune: TuneConfig, images: ImageDataModule) -> None:
    assert recipe.method is not None  # the caller's branch
    config = dynaconv.config_from_dict(recipe.method)
    planned = draft_plan(model, config, recipe.where)
    lossy = any(house.config.budget < 1 for house in getattr(planned, "warehouses", ()))
    calibration = _batches(images, tune.calibration) if lossy and tune.calibration else None
    start = dynaconv.Pretrained(noise=tune.noise, calibration=calibration, seed=recipe.run.seed)
    with seeded(recipe.run.seed):
        dynaconv.convert(model, planned, init=start)
    dynaconv.schedule_temperature(model, 1.0)


def _batches(images: ImageDataModule, count: int) -> list[Tensor]:
    """Images of the first training batches, the same at every call."""
    return [batch[0] for batch in islice(images.train_dataloader(), count)]


def judge(model: nn.Module, recipe: Recipe, images: ImageDataModule) -> float:
    """Accuracy on the validation images, a share of 1; of a copy: Lightning moves networks, and changes their type."""
    return validate(copy.deepcopy(model), images, recipe.run)["val_top1"]
