"""Pictures: figures that need no window system, written in one move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dynaconv.errors import require
from dynaconv.files import replacing


def new_figure(width: float, height: float) -> Any:
    """A matplotlib Figure with a canvas of its own, not pyplot's: it shares no state with the caller's plots.

    Args:
        width: in inches.
        height: in inches.

    Raises:
        MissingExtraError: without matplotlib.
    """
    figure = require("matplotlib.figure", "train").Figure(figsize=(width, height), layout="constrained")
    require("matplotlib.backends.backend_agg", "train").FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | Path, dpi: int = 120) -> Path:
    """Write a figure as its name's ending says, ``.svg`` or else PNG; its folder is made.

    Args:
        figure: of :func:`new_figure`.
        path: the file.
        dpi: pixels an inch, of a PNG and of what is an image in an SVG.

    Returns:
        The path.

    Raises:
        StorageError: if the system refuses; what was there before stays.
    """
    with replacing(Path(path)) as temporary:
        figure.savefig(temporary, dpi=dpi, format="svg" if Path(path).suffix == ".svg" else "png")
    return Path(path)
