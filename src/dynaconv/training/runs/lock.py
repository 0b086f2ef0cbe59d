"""A lock file, so that several processes can share a folder of runs: made exclusively, with the owner's process in it.

A lock whose process is gone is taken over. Processes of other machines can not be asked: whoever holds a lock touches
its file all the time, and one that nobody has touched for long is taken over.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

TORN_SECONDS = 10.0
"""A lock without readable content is being written, unless it is older than this."""
BEAT_SECONDS = 30.0
"""How often a lock's file is touched by its holder."""
SILENT_SECONDS = 600.0
"""A lock of another machine that was not touched for so long belongs to nobody. Clocks may differ by some minutes."""


@contextmanager
def try_lock(path: Path, *, here: bool = False) -> Iterator[bool]:
    """Hold a lock for as long as the block runs, if no living process has it.

    Args:
        path: the lock file; its folder is made.
        here: only another process that lives on this machine has it; other locks are taken over at once.

    Yields:
        Whether it was got; where not, nothing is held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    got = _create(path, token) or (_remove_stale(path, here) and _create(path, token))
    released = threading.Event()
    if got and not here:
        threading.Thread(target=_touch_until, args=(released, path), daemon=True).start()
    try:
        yield got
    finally:
        released.set()
        with suppress(OSError):  # the folder is gone
            if got and (_read(path) or {}).get("token") == token:
                path.unlink(missing_ok=True)


@contextmanager
def wait_lock(path: Path, poll_seconds: float = 1.0) -> Iterator[None]:
    """Hold a lock for as long as the block runs, and wait for it if need be."""
    while True:
        with try_lock(path) as got:
            if got:
                yield
                return
        time.sleep(poll_seconds)


def owner(path: Path) -> str | None:
    """Who holds a lock, as text for people; None if nobody alive does."""
    content = _read(path)
    if content is None or not _alive(path, content):
        return None
    return f"process {content['pid']} on {content['host']}" if content else "a process that is just starting"


def _touch_until(released: threading.Event, path: Path) -> None:
    while not released.wait(BEAT_SECONDS):
        with suppress(OSError):  # gone, or not to be reached just now
            os.utime(path)


def _create(path: Path, token: str) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    pid = os.getpid()
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"pid": pid, "born": _born(pid), "host": socket.gethostname(), "token": token}, file)
    except OSError:  # a full disk
        path.unlink(missing_ok=True)
        raise
    return True


def _remove_stale(path: Path, here: bool) -> bool:
    """Put a dead process's lock away; False if it is alive."""
    seen = _read(path)
    if seen is None:
        return True
    if _alive(path, seen) and not (here and seen and (_asked_by_age(seen) or seen["pid"] == os.getpid())):
        return False
    # Moved, not deleted: if another process was faster, what is moved is its new lock, which goes back.
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return True
    if _read(aside) == seen:
        aside.unlink()
        return True
    aside.rename(path)
    return False


def _read(path: Path) -> dict[str, Any] | None:
    """Content of a lock: None if there is no file, empty if it can not be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return content if isinstance(content, dict) and {"pid", "host", "token"} <= content.keys() else {}


def _alive(path: Path, content: dict[str, Any]) -> bool:
    if not content:
        return _age(path) < TORN_SECONDS
    if _asked_by_age(content):
        return _age(path) < SILENT_SECONDS
    try:
        os.kill(content["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _born(content["pid"]) == content.get("born")


def _asked_by_age(content: dict[str, Any]) -> bool:
    """Whether the process itself can not be asked: on another machine, or where signal 0 is no question."""
    return content["host"] != socket.gethostname() or os.name == "nt"


def _age(path: Path) -> float:
    """Seconds since a lock was touched; endless where it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _born(pid: int) -> str | None:
    """When a process started, so that another one with the same number is told apart; None where /proc is missing.

    Empty for one that is dead and not waited for by its parent: signals reach it.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return None
