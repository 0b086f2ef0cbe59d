"""Register the presets with timm: after ``import dynaconv.integrations.timm``, ``timm.create_model`` knows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from dynaconv.errors import require
from dynaconv.models import create_model, list_models

_registry = require("timm.models", "train")


def _entry_point(name: str) -> Callable[..., nn.Module]:
    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        # timm hands down arguments about pretrained weights, of which presets have none.
        for argument in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            kwargs.pop(argument, None)
        return create_model(name, pretrained=pretrained, **kwargs)

    build.__name__ = build.__qualname__ = name
    build.__module__ = __name__
    build.__doc__ = f"The preset ``{name}`` of dynaconv."
    return build


def _register() -> None:
    for name in list_models():
        entry = _entry_point(name)
        globals()[name] = entry
        if not _registry.is_model(name):
            _registry.register_model(entry)


_register()
