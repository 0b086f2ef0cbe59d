"""Files that are whole or not there: written beside their place, forced to disk, and moved in one step.

Whatever ends the process, and whenever, a reader finds the old file or the new one. What a killed process leaves behind
are temporary files and folders, which :func:`clean_temporaries` takes away.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dynaconv.errors import StorageError

TEMPORARY = ".*.tmp"
"""What names of temporary files look like."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name in its folder, which is made, and move it into place.

    Args:
        path: where the file is to be.

    Yields:
        The temporary path. If the block fails, it is deleted, and the old file stays.

    Raises:
        StorageError: if the system refuses (full disk, no permission, ...).
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file of text, which ends with one line break.

    Raises:
        StorageError: if the system refuses.
    """
    with replacing(path) as temporary:
        temporary.write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to disk; where folders can not be synced, that is left out."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if folder or os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError:
        if not folder:
            raise
    finally:
        os.close(descriptor)


def clean_temporaries(folder: Path, pattern: str = TEMPORARY, seconds: float = 0.0) -> list[str]:
    """Delete temporary files and folders that a killed process left; returns their names.

    Args:
        folder: nobody else may be writing in it.
        pattern: of names; temporary ones of a single file, say.
        seconds: younger ones stay, since somebody else may be writing them after all.
    """
    names = []
    for path in folder.glob(pattern):
        with suppress(OSError):
            if seconds and time.time() - path.lstat().st_mtime < seconds:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            names.append(path.name)
    return names


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Let what the system refuses be a :class:`StorageError` that names the file.

    Args:
        path: what is written.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"{path} can not be written: {error.strerror or error}; what was saved before stays as it is. Look for "
            f"room and permission in {path.parent}"
        ) from error
