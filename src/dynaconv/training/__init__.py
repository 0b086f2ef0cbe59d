"""Training on Lightning: recipes, data, callbacks, and plain functions `fit`, `resume`, `evaluate`, `predict`.

Needs the extra ``train``. Names are imported when first used: a recipe alone needs neither timm nor Lightning.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dynaconv.training.config import (
    AugmentConfig,
    EmaConfig,
    LoaderConfig,
    OptimizerConfig,
    Recipe,
    RunConfig,
    ScheduleConfig,
    TuneConfig,
)

if TYPE_CHECKING:
    from dynaconv.training.comparison.compare import results_of, run_compare
    from dynaconv.training.comparison.contenders import Contender
    from dynaconv.training.comparison.results import CompareResult
    from dynaconv.training.data.datamodule import ImageDataModule
    from dynaconv.training.engine.callbacks import TemperatureCallback
    from dynaconv.training.engine.ema import EmaCallback
    from dynaconv.training.engine.module import ClassificationModule
    from dynaconv.training.evaluation import evaluate
    from dynaconv.training.prediction import Prediction, predict
    from dynaconv.training.runs.fitting import FitResult, fit, resume

_HOMES = {
    "ClassificationModule": "engine.module",
    "CompareResult": "comparison.results",
    "Contender": "comparison.contenders",
    "EmaCallback": "engine.ema",
    "FitResult": "runs.fitting",
    "ImageDataModule": "data.datamodule",
    "Prediction": "prediction",
    "TemperatureCallback": "engine.callbacks",
    "evaluate": "evaluation",
    "fit": "runs.fitting",
    "predict": "prediction",
    "results_of": "comparison.compare",
    "resume": "runs.fitting",
    "run_compare": "comparison.compare",
}

__all__ = [
    "AugmentConfig",
    "ClassificationModule",
    "CompareResult",
    "Contender",
    "EmaCallback",
    "EmaConfig",
    "FitResult",
    "ImageDataModule",
    "LoaderConfig",
    "OptimizerConfig",
    "Prediction",
    "Recipe",
    "RunConfig",
    "ScheduleConfig",
    "TemperatureCallback",
    "TuneConfig",
    "evaluate",
    "fit",
    "predict",
    "results_of",
    "resume",
    "run_compare",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
