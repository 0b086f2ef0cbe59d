"""Processes of their own that cost no imports: a server process imports everything once and forks them.

So a run that is killed and resumed costs a second, and so do two processes that are one run.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PRELOADED = ["lightning.pytorch", "timm", "torchvision.transforms.v2", "sklearn.datasets", "dynaconv.training"]
PRELOADED += ["torch.utils.tensorboard", "matplotlib.backends.backend_agg", "torch._dynamo", "torch.distributed.fsdp"]
SECONDS = 480
"""No process of a test takes longer, however busy the machine is."""


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Start a function of a module in a process of its own, on one thread and without warnings."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_call, args=(target, arguments))  # pyright: ignore[reportAttributeAccessIssue]
    process.start()
    return process


def finish(process: BaseProcess, seconds: float = SECONDS) -> int:
    """Exit code of a process; of a killed one the signal, negative."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"no end after {seconds:.0f} s")
    return process.exitcode


def run_together(
    target: Callable[..., None],
    calls: Sequence[Sequence[Any]],
    folder: Path,
    settings: Sequence[Mapping[str, str]] | None = None,
    seconds: float = SECONDS,
) -> list[str]:
    """Call a function in several processes at once; what each wrote to its outputs.

    Args:
        target: the function.
        calls: its arguments in every process.
        folder: what they write is kept there.
        settings: further variables of every process's environment.
        seconds: they may take.

    Raises:
        AssertionError: if one fails, with what it wrote; the others are ended.
    """
    files = [folder / f"process{number}.txt" for number in range(len(calls))]
    every = settings or [{}] * len(calls)
    started = [
        start(written, file, further, target, *call) for file, further, call in zip(files, every, calls, strict=True)
    ]
    try:
        deadline = time.monotonic() + seconds
        while any(process.is_alive() for process in started) and not any(process.exitcode for process in started):
            assert time.monotonic() < deadline, "\n".join(file.read_text() for file in files)
            time.sleep(0.02)
    finally:
        for process in started:
            if process.exitcode != 0:
                process.join(1)
                process.kill()
                process.join()
    for process, file in zip(started, files, strict=True):
        assert process.exitcode == 0, file.read_text()
    return [file.read_text() for file in files]


def written(file: Path, settings: Mapping[str, str], target: Callable[..., None], *arguments: Any) -> None:
    """Call a function whose outputs go to a file, under further variables of the environment."""
    redirect(file)
    os.environ.update(settings)
    target(*arguments)


def redirect(file: Path | str = os.devnull) -> None:
    """Let outputs of this process go to a file, and none to the terminal of the tests."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())


def _call(target: Callable[..., None], arguments: Sequence[Any]) -> None:
    import warnings

    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    target(*arguments)
