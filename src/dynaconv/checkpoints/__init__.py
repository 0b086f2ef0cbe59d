"""Checkpoints: the authors' files in, the project's own files in and out."""

from dynaconv.checkpoints.native import load_checkpoint, read_recipe, save_checkpoint
from dynaconv.checkpoints.reference import load_reference_checkpoint, translate_reference_keys
from dynaconv.checkpoints.report import WeightsReport, compare_weights
from dynaconv.checkpoints.weights import load_weights

__all__ = [
    "WeightsReport",
    "compare_weights",
    "load_checkpoint",
    "load_reference_checkpoint",
    "load_weights",
    "read_recipe",
    "save_checkpoint",
    "translate_reference_keys",
]
