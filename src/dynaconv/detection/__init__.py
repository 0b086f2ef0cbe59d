"""Object detection and instance segmentation: torchvision's Faster and Mask R-CNN on any dynamic backbone.

Needs the extras ``train`` and ``detection``. Names are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from dynaconv.detection.config import CocoLoaderConfig, DetectionAugmentConfig, DetectionRecipe, DetectorConfig

_HOMES: dict[str, str] = {}

__all__ = [
    "CocoLoaderConfig",
    "DetectionAugmentConfig",
    "DetectionRecipe",
    "DetectorConfig",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
