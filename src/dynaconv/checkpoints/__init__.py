"""Checkpoints: the authors' files in, the project's own files in and out."""

from dynaconv.checkpoints.reference import load_reference_checkpoint, translate_reference_keys

__all__ = ["load_reference_checkpoint", "translate_reference_keys"]
