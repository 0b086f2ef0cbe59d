"""Checkpoints of the project: weights as safetensors, everything else as JSON beside them. Nothing is unpickled.

``save_checkpoint("best", ...)`` writes ``best.safetensors`` and ``best.json``. Both are first written under
temporary names and then moved, and both carry the same identifier, so a torn pair is noticed instead of loaded.
"""

from __future__ import annotations

import importlib
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dynaconv._version import __version__
from dynaconv.checkpoints.weights import load_or_explain
from dynaconv.convert import config_from_dict
from dynaconv.errors import CheckpointError
from dynaconv.nn import check_linked

FORMAT = 2
"""Version of the layout of the JSON file. Before 2, KernelWarehouse had the authors' normaliser alone."""


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    recipe: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
    *,
    state: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write ``<path>.safetensors`` and ``<path>.json``.

    Args:
        path: the pair's common name; a suffix ``.safetensors`` or ``.json`` is ignored. The folder is made.
        model: the network whose ``state_dict`` is saved; tensors that share memory are saved once.
        recipe: what is needed to rebuild and use the network, plain types only. ``recipe["model"]`` holds the
            arguments of :func:`dynaconv.create_model` (``name``, ``config`` as a dictionary or ``None``,
            ``where``, ``num_classes``, ``in_chans``, ``backbone_kwargs``). A config that asks for a number of
            parameters is written as the budget and cells that were found for this network.
        extra: more plain values for the JSON file (metrics, epoch); a key of ``recipe`` may not be repeated.
        state: the network's ``state_dict``, where it is not at hand: of a network that is divided among processes.

    Returns:
        The path of the weights.

    Raises:
        CheckpointError: if ``recipe`` has no model, a key is given twice, or a value is no plain type.
        LostWarehouseError: if the network does not own the cells that its layers share.
    """
    base = base_path(path)
    if "model" not in recipe:
        raise CheckpointError(f"recipe has the keys {sorted(recipe)} and no 'model'; expected create_model's arguments")
    if twice := sorted(set(recipe) & set(extra or {})):
        raise CheckpointError(f"{twice} are both in recipe and in extra; give each key once")
    check_linked(model)
    tensors, aliases = _own_memory(model.state_dict() if state is None else state)
    identifier = uuid.uuid4().hex
    header = {"format": FORMAT, "dynaconv": __version__, "id": identifier, "aliases": aliases}
    try:
        text = json.dumps({**header, **_as_built(recipe, model), **(extra or {})}, indent=2, allow_nan=True)
    except TypeError as error:
        raise CheckpointError(f"recipe or extra holds a value that JSON can not: {error}; give plain types") from error

    weights, description = _files(base)
    base.parent.mkdir(parents=True, exist_ok=True)
    new_weights, new_description = (base.parent / f".{base.name}.{identifier}.{kind}" for kind in ("weights", "json"))
    try:
        new_description.write_text(text + "\n", encoding="utf-8")
        save_file(tensors, new_weights, metadata={"format": "pt", "id": identifier})
        new_weights.chmod(new_description.stat().st_mode)  # safetensors makes files only their owner can read
        new_weights.replace(weights)
        new_description.replace(description)
    finally:
        new_weights.unlink(missing_ok=True)
        new_description.unlink(missing_ok=True)
    return weights


def load_checkpoint(path: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a network and load its weights, strictly.

    Args:
        path: the name given to :func:`save_checkpoint`, with or without a suffix.

    Returns:
        The network in evaluation mode on the CPU, and the content of the JSON file.

    Raises:
        CheckpointError: if a file is missing, damaged or of another save, or if names or shapes of the weights
            are not those of the network the recipe describes.
    """
    recipe = read_recipe(path)
    tensors = _read_weights(path, recipe)
    model = _build(recipe)
    load_or_explain(model, tensors, f"the weights of {path} do not fit the model its recipe describes")
    return model.eval(), recipe


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Read the JSON file of a checkpoint alone.

    Raises:
        CheckpointError: if it is missing, no JSON, of an unknown format, or describes no model.
    """
    weights, description = _files(base_path(path))
    if missing := [file.name for file in (weights, description) if not file.is_file()]:
        raise CheckpointError(
            f"no checkpoint at {base_path(path)}: {' and '.join(missing)} not found in {weights.parent}; expected "
            "a pair NAME.safetensors and NAME.json, such as runs/<name>/<time>/best"
        )
    try:
        recipe = json.loads(description.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{description} is damaged: {error}") from error
    if not isinstance(recipe, dict) or recipe.get("format") not in range(1, FORMAT + 1):
        found = recipe.get("format") if isinstance(recipe, dict) else type(recipe).__name__
        raise CheckpointError(f"{description} has format {found!r}; this version of dynaconv reads 1 to {FORMAT}")
    if not isinstance(recipe.get("model"), dict) or "name" not in recipe["model"]:
        raise CheckpointError(f"{description} does not say which model it is; expected a mapping 'model' with a 'name'")
    config = recipe["model"].get("config")
    if recipe["format"] == 1 and config and config.get("method", "kernel_warehouse") == "kernel_warehouse":
        recipe["model"]["config"] = {"normaliser": "paper", **config}
    return recipe


def base_path(path: str | Path) -> Path:
    """The common name of a checkpoint's two files."""
    text = str(path)
    for suffix in (".safetensors", ".json"):
        text = text.removesuffix(suffix)
    return Path(text)


def _files(base: Path) -> tuple[Path, Path]:
    return base.with_name(base.name + ".safetensors"), base.with_name(base.name + ".json")


def _as_built(recipe: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
    """The recipe, with the config that was built: found for a number of parameters, free of an assignment, ..."""
    asked = recipe["model"].get("config") or {}
    built = getattr(getattr(model, "warehouses", None), "network_config", None)
    if not asked or built is None or config_from_dict(asked) == built:
        return recipe
    return {**recipe, "model": {**recipe["model"], "config": built.to_dict()}}


def _own_memory(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors that share no memory, and dropped name -> kept name for those that were the same tensor."""
    kept: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name, tensor in state.items():
        view = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and view in kept:
            aliases[name] = kept[view]
            continue
        kept[view] = name
        storage = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.detach().clone() if storage in storages else tensor.detach()
        tensors[name] = tensors[name].contiguous()
        storages.add(storage)
    return tensors, aliases


def _read_weights(path: str | Path, recipe: Mapping[str, Any]) -> dict[str, Tensor]:
    weights, description = _files(base_path(path))
    try:
        with safe_open(weights, framework="pt") as file:
            found = (file.metadata() or {}).get("id")
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise CheckpointError(f"{weights} is damaged or no safetensors file: {error}") from error
    if found != recipe.get("id"):
        raise CheckpointError(f"{weights.name} and {description.name} are of two different saves; copy both from one")
    for name, kept in recipe.get("aliases", {}).items():
        if kept not in tensors:
            raise CheckpointError(f"{description} says that '{name}' is the tensor '{kept}', which {weights} lacks")
        tensors[name] = tensors[kept]
    return tensors


def _build(recipe: Mapping[str, Any]) -> nn.Module:
    # The package's front, looked up at call time: networks are made in a room beside this one.
    create_model = importlib.import_module("dynaconv").create_model
    arguments = dict(recipe["model"])
    backbone = arguments.pop("backbone_kwargs", None) or {}
    config = arguments.pop("config", None)
    name = arguments.pop("name")
    return create_model(name, config=config_from_dict(config) if config else None, **arguments, **backbone)
