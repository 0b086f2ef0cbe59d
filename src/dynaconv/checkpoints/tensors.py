"""Files of tensors with a checksum inside: safetensors whose metadata hold the SHA-256 of everything else in them."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dynaconv.errors import CheckpointError, StorageError
from dynaconv.files import replacing

CHECKSUM = "sha256"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and texts in one move.

    Args:
        path: the file.
        tensors: contiguous, none sharing memory with another.
        metadata: texts by name.

    Raises:
        StorageError: if the system refuses.
    """
    sealed = {**metadata, CHECKSUM: checksum(tensors, metadata)}
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(dict(tensors), temporary, metadata=sealed)
        except SafetensorError as error:  # what it makes of the system's errors
            raise StorageError(f"{path} can not be written: {error}; what was saved before stays as it is") from error
        temporary.chmod(mode)  # safetensors makes files only their owner can read


def read_metadata(path: Path) -> dict[str, str]:
    """The texts of a file of tensors; its tensors are not read.

    Raises:
        CheckpointError: if it is damaged, or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' is damaged or no safetensors file: {error}") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and texts of a file, compared with its checksum if it has one.

    Raises:
        CheckpointError: if it is damaged, or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"'{path}' is damaged or no safetensors file: {error}") from error
    if CHECKSUM in metadata:
        expected = metadata.pop(CHECKSUM)
        if checksum(tensors, metadata) != expected:
            raise CheckpointError(f"'{path}' is damaged: its checksum is not that of its content; take another save")
    return tensors, metadata


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, and over texts, as hexadecimal digits."""
    total = hashlib.sha256()
    for name, text in sorted(metadata.items()):
        total.update(repr((name, text)).encode())
    for name, tensor in sorted(tensors.items()):
        total.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        flat = tensor.detach().cpu().contiguous()
        size = flat.numel() * flat.element_size()
        if size:
            total.update((ctypes.c_char * size).from_address(flat.data_ptr()))
    return total.hexdigest()
