"""Object detection and instance segmentation: torchvision's Faster and Mask R-CNN on any dynamic backbone.

Needs the extras ``train`` and ``detection``. Names are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dynaconv.detection.config import CocoLoaderConfig, DetectionAugmentConfig, DetectionRecipe, DetectorConfig

if TYPE_CHECKING:
    from dynaconv.detection.evaluation.scorer import CocoScorer
    from dynaconv.detection.evaluation.scores import DetectionScores

_HOMES: dict[str, str] = {
    "CocoScorer": "evaluation.scorer",
    "DetectionScores": "evaluation.scores",
}

__all__ = [
    "CocoLoaderConfig",
    "CocoScorer",
    "DetectionAugmentConfig",
    "DetectionRecipe",
    "DetectionScores",
    "DetectorConfig",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
