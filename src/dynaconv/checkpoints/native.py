"""Checkpoints of the project: weights as safetensors, everything else as JSON beside them. Nothing is unpickled.

``save_checkpoint("best", ...)`` writes ``best.safetensors``, in which the description stands too, with a checksum of it
all; then ``best.json``, the description once more, for people and programs. The first file alone is the checkpoint: it
is moved into place in one step, so a process that is killed between the two leaves a whole one. Saves of before
(formats 1 and 2) had the description in the second file alone.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dynaconv._version import __version__
from dynaconv.checkpoints.description import FORMAT, base_path, build, describe, files_of
from dynaconv.checkpoints.description import read_recipe as read_recipe
from dynaconv.checkpoints.tensors import read_tensors, write_tensors
from dynaconv.checkpoints.weights import load_or_explain
from dynaconv.convert import config_from_dict
from dynaconv.errors import CheckpointError
from dynaconv.files import write_text
from dynaconv.nn import check_linked


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
        StorageError: if the system refuses; what was there before stays.
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

    weights, description = files_of(base)
    write_tensors(weights, tensors, {"format": "pt", "id": identifier, "description": text})
    write_text(description, text)
    return weights


def load_checkpoint(
    path: str | Path, make: Callable[[Mapping[str, Any], str | Path], nn.Module] = build
) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild a network and load its weights, strictly.

    Args:
        path: the name given to :func:`save_checkpoint`, with or without a suffix.
        make: from what the checkpoint says, and its path for errors, to the network without its weights.

    Returns:
        The network in evaluation mode on the CPU, and the content of the JSON file.

    Raises:
        CheckpointError: if a file is missing, damaged or of another save, or if names or shapes of the weights
            are not those of the network the recipe describes.
    """
    weights, _ = files_of(base_path(path))
    # Tensors and description from one opening: a run may be replacing the file just now.
    tensors, metadata = read_tensors(weights) if weights.is_file() else ({}, {})
    recipe = describe(path, metadata)
    for name, kept in recipe.get("aliases", {}).items():
        if kept not in tensors:
            raise CheckpointError(f"'{name}' is to be the tensor '{kept}', which {weights} lacks")
        tensors[name] = tensors[kept]
    model = make(recipe, path)
    load_or_explain(model, tensors, f"the weights of {path} do not fit the model its recipe describes")
    return model.eval(), recipe


def _as_built(recipe: Mapping[str, Any], model: nn.Module) -> Mapping[str, Any]:
    """The recipe, with the config that was built: found for a number of parameters, free of an assignment, ..."""
    asked = recipe["model"].get("config") or {}
    owners = (getattr(module, "warehouses", None) for module in model.modules())
    built = next((config for owner in owners if (config := getattr(owner, "network_config", None))), None)
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
