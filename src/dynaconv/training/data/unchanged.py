"""A run is resumed on the data that it began with: same classes, as many images."""

from __future__ import annotations

import json
from pathlib import Path

from dynaconv.errors import DynaconvError
from dynaconv.files import write_text
from dynaconv.training._lightning import rank_zero_only
from dynaconv.training.data.run_data import RunData

DATA_FILE = "data.json"
"""In a run's folder: what :meth:`RunData.summary` said at its start."""


@rank_zero_only
def note_data(images: RunData, folder: Path) -> None:
    """Write down what the data are, in the first of several processes alone."""
    write_text(folder / DATA_FILE, json.dumps(images.summary(), indent=1))


def check_unchanged(images: RunData, folder: Path) -> None:
    """Compare data with those that a run began with.

    Args:
        images: set up.
        folder: of the run; those of earlier versions say nothing of their data.

    Raises:
        DynaconvError: if classes or numbers of images differ, as a resumed run would then be another one.
    """
    path = folder / DATA_FILE
    if not path.is_file():
        return
    try:
        then = json.loads(path.read_text(encoding="utf-8"))
        changes = [
            f"{then[kind]:,} {word} images then, {count:,} now"
            for kind, word in (("train", "training"), ("val", "validation"))
            if then[kind] != (count := images.summary()[kind])
        ]
        before, now = list(then["classes"]), list(images.classes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DynaconvError(f"{path} can not be read ({error!r}); expected what the run wrote there") from error
    if gone := [name for name in before if name not in now]:
        changes.append(f"classes that are gone: {gone[:8]}")
    if new := [name for name in now if name not in before]:
        changes.append(f"classes that are new: {new[:8]}")
    if before != now and not gone and not new:
        changes.append("the classes' order")
    if changes:
        raise DynaconvError(
            f"{images.data} is not what the run in {folder} began with: {'; '.join(changes)}. Bring the data back, or "
            "begin a new run from its weights (dynaconv finetune)"
        )
