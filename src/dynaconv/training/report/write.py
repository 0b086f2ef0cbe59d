"""`report` as a plain function: a page about a saved network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynaconv.checkpoints.description import base_path
from dynaconv.errors import DynaconvError
from dynaconv.files import write_text
from dynaconv.training.config import LoaderConfig
from dynaconv.training.evaluation import Counting
from dynaconv.training.report.gather import gather
from dynaconv.training.report.page import render


def report(
    checkpoint: str | Path,
    data: str | None = None,
    *,
    out: str | Path | None = None,
    loader: LoaderConfig | None = None,
    device: str = "cpu",
    limit: int | None = None,
    classes: Sequence[int | str] | None = None,
    speed: bool = True,
    counting: Counting | None = None,
) -> Path:
    """Write a page about a saved network: what it is, costs, how fast it is, what it gets right, what it attends to.

    The page is one HTML file that needs no other and loads nothing from anywhere.

    Args:
        checkpoint: name of the pair of files, such as ``runs/<name>/<time>/best``.
        data: a source of validation images; the one it was trained on if None.
        out: the page; ``<checkpoint>-report.html`` if None.
        loader: batch size, workers.
        device: where to run, such as ``cuda``.
        limit: validation images at most, the first ones; all if None.
        classes: names or numbers of those whose average attention can be chosen; the first ten if None.
        speed: whether to time forward passes.
        counting: a progress bar: is given a text and a number of steps, and gives what to call after each.

    Returns:
        The page.

    Raises:
        CheckpointError: if the checkpoint can not be loaded.
        DynaconvError: if the data have other classes, there is no image, device, limit or a class is not known, or
            ``out`` is a folder.
        StorageError: if the system refuses to write; what was there before stays.
    """
    page = Path(out) if out is not None else Path(f"{base_path(checkpoint)}-report.html")
    if page.is_dir():  # said before the work, not after
        raise DynaconvError(f"{page} is a folder; expected a file to write, such as {page / 'report.html'}")
    figures = gather(
        checkpoint,
        data,
        loader=loader,
        device=device,
        limit=limit,
        classes=classes,
        speed=speed,
        counting=counting,
    )
    write_text(page, render(figures))
    return page
