"""The picture of a detector's scores: precision against recall, at each threshold of intersection over union."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dynaconv.analysis.figures import new_figure, save_figure
from dynaconv.detection.evaluation.scores import NAMES, DetectionScores
from dynaconv.errors import require

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""Of intersection over union, as COCO's."""


def save_curves(scores: DetectionScores, path: Path) -> Path:
    """Draw precision against recall, mean over the classes, for boxes and masks.

    Args:
        scores: of anything.
        path: the PNG, written in one move.

    Raises:
        MissingExtraError: without matplotlib.
        StorageError: if the system refuses.
    """
    colors = require("matplotlib", "train").colormaps["viridis"](np.linspace(0, 0.95, len(THRESHOLDS)))
    figure = new_figure(0.8 + 4.2 * len(scores.precision), 4.2)
    every_axes = figure.subplots(1, len(scores.precision), sharey=True, squeeze=False)[0]
    for axes, (kind, precision) in zip(every_axes, scores.precision.items(), strict=True):
        name = NAMES[kind]
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", title=_title(scores, name))
        axes.grid(alpha=0.3)
        if precision is None:
            continue
        recalls = np.linspace(0, 1, precision.shape[1])
        for threshold, color, values in zip(THRESHOLDS, colors, precision, strict=True):
            axes.plot(recalls, values, color=color, label=f"IoU {threshold:.2f}: {100 * values.mean():.1f}")
        axes.legend(fontsize=7, title="AP, %", title_fontsize=7)
    every_axes[0].set_ylabel("precision, mean over the classes")
    return save_figure(figure, path)


def _title(scores: DetectionScores, name: str) -> Any:
    ap = getattr(scores, f"{name}_ap")
    return f"{'boxes' if name == 'box' else 'masks'}: {'no objects' if ap is None else f'AP {100 * ap:.1f}'}"
