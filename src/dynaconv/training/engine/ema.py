"""Moving average of the weights (timm's ModelEmaV3): what is evaluated and saved instead of the network in training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dynaconv.errors import require
from dynaconv.training._lightning import Callback, LightningModule, Trainer
from dynaconv.training.config import EmaConfig
from dynaconv.training.engine.trained_module import trained_module


class EmaCallback(Callback):
    """Keeps the average, updates it at every optimiser step, and hands it to validation and checkpoints.

    Weights and the running statistics of normalisation are averaged. Every other buffer (the temperature above all) is
    state, not an estimate, and copied. The average is part of the checkpoint a run resumes from.

    Args:
        config: decay and warm-up; ``decay`` must be given.
    """

    def __init__(self, config: EmaConfig) -> None:
        self.config = config
        self.updates = 0
        self.average: Any = None
        self._restored: dict[str, torch.Tensor] | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the network, on the device it is on by now, and take up a restored average."""
        ema = require("timm.utils", "train").ModelEmaV3
        module = trained_module(pl_module)
        self.average = ema(module.model, decay=self.config.decay, use_warmup=self.config.warmup)
        self.average.module.requires_grad_(False)
        if self._restored is not None:
            self.average.module.load_state_dict(self._restored)
            self._restored = None
        module.evaluate_instead(self.average.module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average after an optimiser step; iterations that only accumulate gradients change nothing."""
        if trainer.global_step > self.updates:
            self.updates = trainer.global_step
            model = trained_module(pl_module).model
            self.average.update(model, step=self.updates)
            copy_state_buffers(model, self.average.module)

    def state_dict(self) -> dict[str, Any]:
        """The average, and how many updates made it."""
        if self.average is None:
            return {}
        return {"updates": self.updates, "average": self.average.module.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the average until the network is on its device."""
        self.updates, self._restored = state_dict["updates"], state_dict["average"]


@torch.no_grad()
def copy_state_buffers(source: nn.Module, target: nn.Module) -> None:
    """Copy every buffer that is no running statistic of a normalisation layer.

    Args:
        source: network in training.
        target: a copy of it.
    """
    copies = dict(target.named_modules())
    for name, module in source.named_modules():
        if not isinstance(module, _BatchNorm):
            for key, buffer in module.named_buffers(recurse=False):
                copies[name].get_buffer(key).copy_(buffer)
