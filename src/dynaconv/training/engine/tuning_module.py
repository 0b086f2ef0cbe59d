"""The LightningModule of a run that starts from a trained network: a teacher, and a pace for every role."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynaconv.training.config import Recipe
from dynaconv.training.engine.groups import parameter_groups
from dynaconv.training.engine.module import ClassificationModule
from dynaconv.training.engine.optimizer import make_optimizer
from dynaconv.training.engine.tuning import TunedStart


class TuningModule(ClassificationModule):
    """Fine-tunes a converted network.

    The loss is (1 - d) cross-entropy + d T^2 KL(teacher / T, student / T), with d = ``tune.distill`` and
    T = ``tune.distill_temperature`` (Hinton, Vinyals and Dean, arXiv 1503.02531, section 2).

    Args:
        start: network, roles of its parameters, teacher.
        recipe: with a ``tune``.
        num_classes: length of the logits.
    """

    def __init__(self, start: TunedStart, recipe: Recipe, num_classes: int) -> None:
        super().__init__(start.model, recipe, num_classes)
        assert recipe.tune is not None  # the caller's branch
        self.tune, self.roles = recipe.tune, start.roles
        # In a tuple, so that it is no submodule: neither saved nor trained with this module.
        self._teacher: tuple[nn.Module, ...] = () if start.teacher is None else (start.teacher,)

    @property
    def distill(self) -> float:
        """Share of the loss that the teacher has."""
        if not self._teacher:
            return 0.0
        return 0.5 if self.tune.distill is None else self.tune.distill

    def on_fit_start(self) -> None:
        """Bring the teacher to where the network is, and to its type."""
        for teacher in self._teacher:
            teacher.to(self.device, next(self.model.parameters()).dtype)

    def loss(self, images: Tensor, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """Cross-entropy, and how far the logits are from the teacher's."""
        loss = super().loss(images, logits, targets, smoothing)
        share = self.distill
        if not share:
            return loss
        with torch.no_grad():
            taught = self._teacher[0](images).float()
        heat = self.tune.distill_temperature
        student, teacher = ((z / heat).log_softmax(dim=1) for z in (logits, taught))
        distance = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return (1 - share) * loss + share * heat**2 * distance

    def configure_optimizers(self) -> Any:
        """A pace for every role; what was trained stands still for ``tune.freeze_epochs``."""
        groups = parameter_groups(self.model, self.roles, self.tune, self.recipe.optimizer)
        optimizer = make_optimizer(groups, self.recipe.optimizer)
        factor = self.learning_rate()
        frozen = round(self.tune.freeze_epochs * self.steps_per_epoch())

        def pace(role: str) -> Any:
            waits = frozen if role == "static" else 0
            return lambda step: 0.0 if step < waits else factor(step)

        factors = [pace(group["role"]) for group in optimizer.param_groups]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
