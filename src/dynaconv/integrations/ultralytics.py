"""Converted networks in ultralytics' own trainers. ultralytics is AGPL-3.0; nothing of it is here, or imported.

ultralytics builds the network that it trains anew from its YAML, whatever was done to ``YOLO(...).model`` before. So it
is the trainer that converts::

    class Trainer(ConvertingTrainer, DetectionTrainer):
        dynamic = dynaconv.KernelWarehouseConfig()

    YOLO("yolo11n.pt").train(data="coco8.yaml", trainer=Trainer)
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

import dynaconv
from dynaconv import MethodConfig
from dynaconv.convert import Where


class ConvertingTrainer:
    """Mixin, before one of ultralytics' trainers: converts the network, and lets the temperature fall.

    Trained weights are loaded first, and the converted network starts from them; weights of a network that is converted
    already, such as those of a run that is resumed, are loaded afterwards. The moving average gets every temperature,
    too. Where several processes train, the class stands in a file of its own that each of them can import.

    Attributes:
        dynamic: config of the method.
        where: which layers, as in :func:`dynaconv.plan`.
        init: how to start, as in :func:`dynaconv.convert`.
        temperature_epochs: length of the temperature's schedule; None for a tenth of the epochs.
    """

    dynamic: ClassVar[MethodConfig]
    where: ClassVar[Where | None] = None
    init: ClassVar[Any] = "auto"
    temperature_epochs: ClassVar[float | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.add_callback("on_train_epoch_start", set_temperatures)  # pyright: ignore[reportAttributeAccessIssue]

    def get_model(self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True) -> nn.Module:
        """The network that is trained: ultralytics' own, converted."""
        build = super().get_model  # pyright: ignore[reportAttributeAccessIssue]
        where: Any = type(self).where  # a function stays one
        if weights is None or not any(True for _ in dynaconv.dynamic_layers(weights)):
            return dynaconv.convert(build(cfg, weights, verbose), self.dynamic, where, self.init)
        model = dynaconv.convert(build(cfg, None, verbose), self.dynamic, where, "scratch")
        model.load(weights)  # pyright: ignore[reportCallIssue]
        return model


def set_temperatures(trainer: Any) -> None:
    """Before an epoch: the temperature of its middle, for the network and its moving average."""
    length = trainer.epochs / 10 if trainer.temperature_epochs is None else trainer.temperature_epochs
    middle = trainer.epoch + 0.5
    progress = 1.0 if length <= middle else middle / length
    for model in (trainer.model, trainer.ema and trainer.ema.ema):
        if model:
            dynaconv.schedule_temperature(model, progress)
