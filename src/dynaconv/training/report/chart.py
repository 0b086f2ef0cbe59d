"""Where the lines of a chart go: points, ticks and their labels, in the units of an SVG's viewBox."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynaconv.errors import require
from dynaconv.training.report.curves import Panel

WIDTH, HEIGHT = 440, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 44
TICKS = 5


@dataclass(frozen=True)
class Line:
    """One series: its name, and runs of points that are not interrupted."""

    name: str
    strokes: tuple[tuple[tuple[float, float], ...], ...]


@dataclass(frozen=True)
class Tick:
    """A place on an axis and what stands there."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A panel, laid out.

    Args:
        title: of the panel.
        lines: series in order.
        x_ticks: epochs.
        y_ticks: values.
        xs: where each epoch is.
        texts: what is said of each epoch.
    """

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    xs: tuple[float, ...]
    texts: tuple[str, ...]


def lay_out(panel: Panel, epochs: Sequence[int]) -> Chart:
    """Lay out a panel.

    Args:
        panel: at least one value is there.
        epochs: one for each value.
    """
    known = [value for values in panel.series.values() for value in values if value is not None]
    y_at = _ticks(min(known), max(known))
    low, high = y_at[0], y_at[-1]
    first, last = min(epochs), max(epochs)

    def x(epoch: float) -> float:
        share = (epoch - first) / (last - first) if last > first else 0.5
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 2)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 2)

    lines = []
    for name, values in panel.series.items():
        strokes: list[list[tuple[float, float]]] = [[]]
        for epoch, value in zip(epochs, values, strict=True):
            if value is None:
                strokes.append([])
            else:
                strokes[-1].append((x(epoch), y(value)))
        lines.append(Line(name, tuple(tuple(stroke) for stroke in strokes if stroke)))
    whole = [tick for tick in _ticks(first, last) if first <= tick <= last and tick == int(tick)]
    return Chart(
        title=panel.title,
        lines=tuple(lines),
        x_ticks=tuple(Tick(x(tick), f"{tick:.0f}") for tick in whole),
        y_ticks=tuple(Tick(y(tick), _label(tick, panel.share)) for tick in y_at),
        xs=tuple(map(x, epochs)),
        texts=tuple(_say(panel, place, epoch) for place, epoch in enumerate(epochs)),
    )


def format_value(value: float, share: bool) -> str:
    """A value as people read it.

    Example:
        >>> format_value(0.97654, True), format_value(0.00123456, False)
        ('97.65 %', '0.001235')
    """
    return f"{100 * value:.2f} %" if share else f"{value:.4g}"


def _say(panel: Panel, place: int, epoch: int) -> str:
    parts = [
        f"{name} {format_value(value, panel.share)}" if len(panel.series) > 1 else format_value(value, panel.share)
        for name, values in panel.series.items()
        if (value := values[place]) is not None
    ]
    return f"epoch {epoch}: {', '.join(parts) or 'no value'}"


def _label(value: float, share: bool) -> str:
    return f"{100 * value:.4g} %" if share else f"{value:.4g}"


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers around a range."""
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    locator = require("matplotlib.ticker", "train").MaxNLocator(nbins=TICKS, steps=[1, 2, 2.5, 5, 10])
    return [float(tick) for tick in locator.tick_values(low, high)]
