"""A folder of a run belongs to one process at a time, or to the first of several that are one run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dynaconv.errors import DynaconvError
from dynaconv.files import explained
from dynaconv.training.runs.lock import owner, try_lock
from dynaconv.training.runs.saving import holds_run

CLAIM_FILE = "training.lock"


@contextmanager
def claimed(folder: Path, new: bool) -> Iterator[None]:
    """Keep other processes of this machine out of a run's folder while the block runs.

    Runs are named by the second, so that two may begin under one name. Machines are not kept apart: a job that is
    queued again elsewhere goes on at once, though nobody can tell whether the node that had it before is gone.

    Args:
        folder: of the run; it is made.
        new: whether the run begins; the folder may then hold none.

    Raises:
        DynaconvError: if another process has the folder, or has left a run in it meanwhile.
        StorageError: if the system refuses.
    """
    path = folder / CLAIM_FILE
    with ExitStack() as stack:
        with explained(folder):
            got = stack.enter_context(try_lock(path, here=True))
        if not got:
            who = owner(path) or "another process"
            raise DynaconvError(
                f"{who} trains in {folder}; wait for its end, choose another folder, or delete {CLAIM_FILE} there if "
                "that process is no training"
            )
        if new and holds_run(folder):
            raise DynaconvError(f"{folder} holds a run of another process by now; resume it, or choose another folder")
        yield
