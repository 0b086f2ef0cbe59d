"""Names for files and folders of results: never used before."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dynaconv.analysis.environment import utc_now


def timed_stem(folder: Path, prefix: str, kinds: Iterable[str]) -> str:
    """A name for results of now, ``PREFIX-TIME``, that none of the files has yet.

    Args:
        folder: where they will be.
        prefix: what the name begins with.
        kinds: their endings, without the dot.
    """
    return free_stem(folder, f"{prefix}-{utc_now():%Y%m%dT%H%M%SZ}", kinds)


def free_stem(folder: Path, name: str, kinds: Iterable[str]) -> str:
    """The name itself, or with a number, such that there is no file of any kind yet.

    Args:
        folder: where they will be.
        name: the name wished for.
        kinds: their endings, without the dot.
    """
    kinds = tuple(kinds)
    stem, number = name, 1
    while any((folder / f"{stem}.{kind}").exists() for kind in kinds):
        number += 1
        stem = f"{name}-{number}"
    return stem


def free_folder(path: Path) -> Path:
    """The path itself, or with a number behind it, such that nothing is there yet.

    Args:
        path: the folder wished for; it is not made.
    """
    free, number = path, 1
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free
