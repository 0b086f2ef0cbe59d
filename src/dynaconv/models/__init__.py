"""The papers' networks: presets as data, and one function that builds them."""

from dynaconv.models.build import create_model, get_preset, list_models
from dynaconv.models.preset import PaperResult, Preset

__all__ = ["PaperResult", "Preset", "create_model", "get_preset", "list_models"]
