"""The file a run resumes from: written whole, sealed with a checksum, the previous one kept beside it.

A sealed file is what ``torch.save`` writes, followed by a line with the SHA-256 of it; ``torch.load`` does not mind.
Its content says that it is sealed, so a seal that was cut off is missed. It is only read with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch

from dynaconv.errors import CheckpointError, StorageError
from dynaconv.files import replacing
from dynaconv.training._lightning import TorchCheckpointIO

RESUME_FILE, PREVIOUS_FILE = "last.ckpt", "previous.ckpt"
"""Lightning's checkpoint (network, average, optimiser, loops, loader, history), and the one before it."""
DAMAGED_FILE = "damaged.ckpt"
"""What a damaged file is called from then on."""
NOTE = "dynaconv"
"""Entry of the checkpoint that is this package's: that the file is sealed, and which run it is of."""
SEAL = re.compile(rb"\ndynaconv sha256 ([0-9a-f]{64})\n")
SEAL_BYTES = 82
BLOCK_BYTES = 2**20


class SealedCheckpointIO(TorchCheckpointIO):
    """How Lightning writes and reads ``last.ckpt``: in one move, with a checksum, keeping the previous one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; the file that was there becomes the previous one when the new one is known to be good."""
        path = Path(path)
        if not path.parent.is_dir():
            raise StorageError(f"{path.parent} is not there any more: the folder was moved or deleted during the run")
        checkpoint[NOTE] = {**checkpoint.get(NOTE, {}), "sealed": True}
        with replacing(path) as temporary:
            _write(checkpoint, temporary)
            if not _is_sealed(temporary):
                raise StorageError(f"{path} can not be written: what is on disk is not what was written")
            keep_previous(path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, with ``weights_only=True`` whatever is asked."""
        return read_sealed(Path(path))


def read_sealed(path: Path) -> dict[str, Any]:
    """Content of a file to resume from, on the CPU.

    Raises:
        CheckpointError: if it is missing, damaged, or something else.
    """
    try:
        sealed = _is_sealed(path)
        if not sealed:  # of before there were seals: its records have checksums, which torch does not look at
            with zipfile.ZipFile(path) as archive:
                if broken := archive.testzip():
                    raise CheckpointError(f"{path} is damaged: its record {broken} is not what was saved")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is not there") from error
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged, or no checkpoint of a run: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(content, dict) or not {"state_dict", "loops", "global_step"} <= content.keys():
        raise CheckpointError(f"{path} is no checkpoint of a run; expected last.ckpt of `dynaconv train`")
    note = content.get(NOTE, {})
    if not isinstance(note, dict) or (note.get("sealed") and not sealed):
        raise CheckpointError(f"{path} is damaged: its end, with the checksum, is missing")
    return content


def keep_previous(path: Path) -> None:
    """Let the file that is about to be replaced be the previous one; at every moment one of the names is there."""
    previous = path.with_name(PREVIOUS_FILE)
    if path.exists():
        link_or_copy(path, previous)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, in one move; where there are no hard links, a copy."""
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


class _Sealing:
    """A file that notes what is written to it, and why writing failed: torch tells the latter as a RuntimeError."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.total = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, block: Any) -> int:
        try:
            self.total.update(block)
            return self.file.write(block)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        with suppress(OSError):  # said when the file is closed
            self.file.flush()


def _write(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        sealing = _Sealing(file)
        try:
            torch.save(checkpoint, sealing)  # pyright: ignore[reportArgumentType]  (it needs no more than write)
        except RuntimeError as error:
            raise (sealing.error or error) from error
        file.write(b"\ndynaconv sha256 " + sealing.total.hexdigest().encode() + b"\n")


def _is_sealed(path: Path) -> bool:
    """Whether a file ends with a seal; a wrong one is an error."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END) - SEAL_BYTES
        if size < 0:
            return False
        file.seek(size)
        seal = SEAL.fullmatch(file.read())
        if seal is None:
            return False
        total = hashlib.sha256()
        file.seek(0)
        while size and (block := file.read(min(BLOCK_BYTES, size))):
            total.update(block)
            size -= len(block)
    if total.hexdigest().encode() != seal[1]:
        raise CheckpointError(f"{path} is damaged: its checksum is not that of its content")
    return True
