"""Checkpoints: the authors' files in, the project's own files in and out."""

from dynaconv.checkpoints.native import load_checkpoint, read_recipe, save_checkpoint
from dynaconv.checkpoints.reference import load_reference_checkpoint, translate_reference_keys

__all__ = [
    "load_checkpoint",
    "load_reference_checkpoint",
    "read_recipe",
    "save_checkpoint",
    "translate_reference_keys",
]
