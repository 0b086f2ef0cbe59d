"""A small network for digits, saved as a run saves it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import dynaconv
from dynaconv.checkpoints.native import save_checkpoint
from dynaconv.training import ImageDataModule, LoaderConfig
from tests.nn.cases import animate
from tests.training.tiny import BACKBONE


def save_network(
    path: Path, method: Mapping[str, Any] | None, loader: LoaderConfig
) -> tuple[nn.Module, ImageDataModule]:
    """Save a network of a method, or a static one, that was never trained; the network, and its data, set up."""
    torch.manual_seed(0)
    config = None if method is None else dynaconv.config_from_dict(method)
    model = dynaconv.create_model("resnet18", config=config, num_classes=10, in_chans=1, **BACKBONE)
    arguments = {"name": "resnet18", "config": method, "where": None, "num_classes": 10, "in_chans": 1}
    data = ImageDataModule("digits", loader)
    data.setup()
    recipe = {"model": {**arguments, "backbone_kwargs": BACKBONE}, "data": "digits", **data.preprocessing()}
    save_checkpoint(path, animate(model), recipe, {"epoch": 3, "metrics": {"val_top1": 0.5}})
    return model, data
