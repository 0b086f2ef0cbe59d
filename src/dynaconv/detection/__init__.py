"""Object detection and instance segmentation: torchvision's Faster and Mask R-CNN on any dynamic backbone.

Needs the extras ``train`` and ``detection``. Names are imported when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dynaconv.detection.config import CocoLoaderConfig, DetectionAugmentConfig, DetectionRecipe, DetectorConfig

if TYPE_CHECKING:
    from dynaconv.detection.checkpoints import load_detector
    from dynaconv.detection.data.annotations import CocoAnnotations, read_annotations
    from dynaconv.detection.data.datamodule import DetectionDataModule
    from dynaconv.detection.data.digits import DigitsConfig, make_digits
    from dynaconv.detection.drawing import contact_sheet, draw_detections
    from dynaconv.detection.evaluation.evaluate import evaluate
    from dynaconv.detection.evaluation.results import score_files
    from dynaconv.detection.evaluation.scorer import CocoScorer
    from dynaconv.detection.evaluation.scores import DetectionScores
    from dynaconv.detection.models.detector import build_detector, create_detector
    from dynaconv.detection.models.sources import Backbone, open_backbone
    from dynaconv.detection.module import DetectionModule
    from dynaconv.detection.prediction import Detection, DetectionPrediction, predict
    from dynaconv.detection.runs import fit, fit_or_resume, resume

_HOMES = {
    "Backbone": "models.sources",
    "CocoAnnotations": "data.annotations",
    "CocoScorer": "evaluation.scorer",
    "Detection": "prediction",
    "DetectionDataModule": "data.datamodule",
    "DetectionModule": "module",
    "DetectionPrediction": "prediction",
    "DetectionScores": "evaluation.scores",
    "DigitsConfig": "data.digits",
    "build_detector": "models.detector",
    "contact_sheet": "drawing",
    "create_detector": "models.detector",
    "draw_detections": "drawing",
    "evaluate": "evaluation.evaluate",
    "fit": "runs",
    "fit_or_resume": "runs",
    "load_detector": "checkpoints",
    "make_digits": "data.digits",
    "open_backbone": "models.sources",
    "predict": "prediction",
    "read_annotations": "data.annotations",
    "resume": "runs",
    "score_files": "evaluation.results",
}

__all__ = [
    "Backbone",
    "CocoAnnotations",
    "CocoLoaderConfig",
    "CocoScorer",
    "Detection",
    "DetectionAugmentConfig",
    "DetectionDataModule",
    "DetectionModule",
    "DetectionPrediction",
    "DetectionRecipe",
    "DetectionScores",
    "DetectorConfig",
    "DigitsConfig",
    "build_detector",
    "contact_sheet",
    "create_detector",
    "draw_detections",
    "evaluate",
    "fit",
    "fit_or_resume",
    "load_detector",
    "make_digits",
    "open_backbone",
    "predict",
    "read_annotations",
    "resume",
    "score_files",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
