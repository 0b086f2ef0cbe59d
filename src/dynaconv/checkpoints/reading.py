"""Read a state dict from wherever people keep it, without running code that came with it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynaconv.checkpoints.tensors import read_tensors
from dynaconv.errors import CheckpointError

STATE_KEYS = ("model", "state_dict", "model_state_dict", "state_dict_ema", "model_ema", "ema", "params_ema", "params")
"""Where training scripts keep the network's state dict, in the order in which it is looked for."""


def read_state_dict(source: str | Path | Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], str | None]:
    """A state dict, given as one or as a file (safetensors, or a pickle, read with ``weights_only=True``).

    Returns:
        The state dict, and in which entry of a training checkpoint it was found, or None.

    Raises:
        CheckpointError: if there is no such file, or it holds something else.
    """
    if isinstance(source, Mapping):
        return _state_dict_of(source)
    path = Path(source)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint file at '{path}'")
    if path.suffix == ".safetensors":
        return read_tensors(path)[0], None
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # training scripts keep their flags beside
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"'{path}' was not opened: it is damaged, or holds more than tensors and unpickling it could run code; "
            f"save its state dict alone, or as safetensors ({error})"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"'{path}' holds a {type(content).__name__}; expected a state dict")
    return _state_dict_of(content)


def _state_dict_of(content: Mapping[str, Any], place: str | None = None) -> tuple[Mapping[str, Tensor], str | None]:
    """The state dict in a training checkpoint, or the mapping itself, and where it was."""
    for key in STATE_KEYS:
        if isinstance(content.get(key), Mapping):
            return _state_dict_of(content[key], key)
    return content, place
