"""What a checkpoint says of itself: read from its weights' file, compared with the JSON beside it, and built.

A description comes from a file that anybody may have written: it is checked before anything is made of it, and it may
name a network but no place from which weights or code would be fetched.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from dynaconv.checkpoints.tensors import read_metadata
from dynaconv.convert import config_from_dict
from dynaconv.errors import CheckpointError, DynaconvError, RunWarning

FORMAT = 3
"""Version of the layout. Before 3, the description was in the JSON file alone, and there was no checksum; before 2,
KernelWarehouse had the authors' normaliser alone."""
SELF_CONTAINED = 3
"""First format whose weights carry the description."""
LONGEST_BYTES = 64 * 2**20
"""Longer JSON files are not read."""
ARGUMENTS = {"name", "config", "where", "num_classes", "in_chans", "backbone_kwargs"}
ELSEWHERE = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "init"}
"""Arguments that say where a fresh network's weights come from. A checkpoint's are its own."""


def base_path(path: str | Path) -> Path:
    """The common name of a checkpoint's two files."""
    text = str(path)
    for suffix in (".safetensors", ".json"):
        text = text.removesuffix(suffix)
    return Path(text)


def files_of(base: Path) -> tuple[Path, Path]:
    """Weights and JSON of a checkpoint."""
    return base.with_name(base.name + ".safetensors"), base.with_name(base.name + ".json")


def is_checkpoint(path: str | Path) -> bool:
    """Whether there is a checkpoint of this library, and not a file of weights alone."""
    weights, description = files_of(base_path(path))
    if not weights.is_file():
        return False
    return description.is_file() or "description" in read_metadata(weights)


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's description alone.

    Raises:
        CheckpointError: if it is missing, damaged, of an unknown format, describes no model, or if the JSON file says
            something else than the weights it was saved with.
    """
    weights, _ = files_of(base_path(path))
    return describe(path, read_metadata(weights) if weights.is_file() else {})


def describe(path: str | Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The description of a checkpoint whose weights' metadata are read.

    Args:
        path: the pair's common name.
        metadata: of the file of weights.

    Raises:
        CheckpointError: as :func:`read_recipe`.
    """
    weights, beside = files_of(base_path(path))
    missing = [file.name for file in (weights, beside) if not file.is_file()]
    if not weights.is_file() or ("description" not in metadata and missing):
        raise CheckpointError(
            f"no checkpoint at {base_path(path)}: {' and '.join(missing)} not found in {weights.parent}; expected "
            "a pair NAME.safetensors and NAME.json, such as runs/<name>/<time>/best"
        )
    if "description" in metadata:
        recipe = _parse(metadata["description"], weights)
        if beside.is_file():
            _compare(recipe, weights, beside)
    else:
        recipe = _parse(_text(beside), beside)
    if recipe.get("id") != metadata.get("id") or ("description" not in metadata and recipe["format"] >= SELF_CONTAINED):
        raise CheckpointError(f"{weights.name} and {beside.name} are of two different saves; copy both from one")
    config = recipe["model"].get("config")
    if recipe["format"] == 1 and config and config.get("method", "kernel_warehouse") == "kernel_warehouse":
        recipe["model"]["config"] = {"normaliser": "paper", **config}
    return recipe


def build(recipe: Mapping[str, Any], source: str | Path) -> nn.Module:
    """The network that a description describes, without its weights.

    Args:
        recipe: of :func:`read_recipe`.
        source: what errors name.

    Raises:
        DynaconvError: if there is no such network.
    """
    if "detector" in recipe:
        raise CheckpointError(
            f"{source} holds a detector, no classification network; use `dynaconv detect eval` and `predict`, or "
            "dynaconv.detection.load_detector"
        )
    # The package's front, looked up at call time: networks are made in a room beside this one.
    create_model = importlib.import_module("dynaconv").create_model
    arguments = dict(recipe["model"])
    backbone = dict(arguments.pop("backbone_kwargs", None) or {})
    if odd := sorted((set(arguments) - ARGUMENTS) | (set(backbone) & (ARGUMENTS - {"backbone_kwargs"}))):
        raise CheckpointError(f"{source} asks for a model with {odd}; expected only {sorted(ARGUMENTS)}")
    config = arguments.pop("config", None)
    name = arguments.pop("name")
    backbone = {key: value for key, value in backbone.items() if key not in ELSEWHERE}
    made = config_from_dict(config) if config else None
    try:
        return create_model(name, config=made, **arguments, **backbone)
    except DynaconvError:
        raise
    except Exception as error:  # a description can ask timm for anything
        raise CheckpointError(
            f"{source} describes no network that can be built: {type(error).__name__}: {error}"
        ) from error


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LONGEST_BYTES:
            raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes; a description is far shorter")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    """A description from its text, with the parts that are relied on in their types."""
    try:
        recipe = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    found = recipe.get("format") if isinstance(recipe, dict) else type(recipe).__name__
    if not isinstance(recipe, dict) or type(found) is not int or not 1 <= found <= FORMAT:
        raise CheckpointError(f"{path} has format {found!r}; this version of dynaconv reads 1 to {FORMAT}")
    model = recipe.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        raise CheckpointError(f"{path} does not say which model it is; expected a mapping 'model' with a 'name'")
    for key, value in (("config", model.get("config")), ("backbone_kwargs", model.get("backbone_kwargs"))):
        if value is not None and not isinstance(value, dict):
            raise CheckpointError(f"{path}: model.{key}={value!r}; expected a mapping")
    aliases = recipe.get("aliases", {})
    if not isinstance(aliases, dict) or not all(isinstance(kept, str) for kept in aliases.values()):
        raise CheckpointError(f"{path}: aliases={aliases!r}; expected names of tensors by name")
    return recipe


def _compare(inside: Mapping[str, Any], weights: Path, beside: Path) -> None:
    """Refuse a JSON file that was changed; say that one of another save, or a damaged one, is not used."""
    try:
        other = _parse(_text(beside), beside)
    except CheckpointError as error:
        warnings.warn(RunWarning(f"{error}; the description in {weights.name} is used"), stacklevel=5)
        return
    if other.get("id") != inside.get("id"):
        text = f"{beside} is of another save than {weights.name}, whose own description is used"
        warnings.warn(RunWarning(text), stacklevel=5)
        return
    keys = [key for key in dict.fromkeys([*inside, *other]) if _plain(inside, key) != _plain(other, key)]
    if keys:
        raise CheckpointError(
            f"{beside} was changed after it was saved ({', '.join(keys)} differ from {weights.name}); take another "
            f"copy, or delete it, and the description in {weights.name} is used"
        )


def _plain(values: Mapping[str, Any], key: str) -> str | None:
    return json.dumps(values[key], sort_keys=True) if key in values else None
