"""The LightningModule of image classification: loss and accuracy."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from dynaconv.training.config import Recipe
from dynaconv.training.data.augment import make_mixer
from dynaconv.training.engine.trained_module import TrainedModule

Batch = tuple[Tensor, Tensor]


class ClassificationModule(TrainedModule):
    """A network and how it is trained and judged.

    Logs ``loss`` at every iteration, and at every epoch ``train_loss``, ``train_top1``, ``val_loss``, ``val_top1`` and,
    with more than five classes, ``val_top5``; accuracies are shares of 1. Training accuracy is against the images' own
    labels, so mixup and cutmix lower it.

    Args:
        model: images ``(B, C, H, W)`` to logits ``(B, num_classes)``.
        recipe: optimiser, schedule, label smoothing, mixup and cutmix.
        num_classes: length of the logits.
    """

    recipe: Recipe

    def __init__(self, model: nn.Module, recipe: Recipe, num_classes: int) -> None:
        super().__init__(model, recipe)
        self.mixer = make_mixer(recipe.augment, num_classes)
        self.train_top1 = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.val_top1 = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.val_top5 = (
            MulticlassAccuracy(num_classes, top_k=5, average="micro", validate_args=False) if num_classes > 5 else None
        )

    @property
    def train_metrics(self) -> dict[str, Metric]:
        """Figures that an epoch of training adds up, by their names in the log."""
        return {**super().train_metrics, "train_top1": self.train_top1}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        images, labels = batch
        if self.mixer is None:
            targets, smoothing = labels, self.recipe.augment.label_smoothing
        else:
            self.mixer.set_epoch(self.current_epoch)
            (images, targets), smoothing = self.mixer(images, labels), 0.0
        images = images.contiguous(memory_format=self.layout)
        logits = self.model(images).float()
        loss = self.loss(images, logits, targets, smoothing)
        self.train_top1.update(logits.detach(), labels)
        self.log("train_top1", self.train_top1, prog_bar=True, on_step=False, on_epoch=True)
        return self.note_loss(loss, len(labels), batch_idx)

    def loss(self, images: Tensor, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """What training makes small.

        Args:
            images: the network's input, shape ``(B, C, H, W)``.
            logits: shape ``(B, classes)``.
            targets: labels ``(B,)``, or shares of all classes ``(B, classes)``.
            smoothing: share of the targets spread over all classes.
        """
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and accuracy of one batch, without label smoothing."""
        images, labels = batch
        logits = self.evaluated(images.contiguous(memory_format=self.layout)).float()
        loss = F.cross_entropy(logits, labels)
        # Lightning divides the images of all processes by the processes, rounding down; so nothing is lost.
        images_judged = len(labels) * self.trainer.world_size
        self.log("val_loss", loss, prog_bar=True, batch_size=images_judged, sync_dist=True)
        self.val_top1(logits, labels)
        self.log("val_top1", self.val_top1, prog_bar=True)
        if self.val_top5 is not None:
            self.val_top5(logits, labels)
            self.log("val_top5", self.val_top5)
