"""The LightningModule of detection: torchvision's losses, COCO's scores."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from dynaconv.detection.config import DetectionRecipe
from dynaconv.detection.data.annotations import CocoAnnotations
from dynaconv.detection.evaluation.scorer import CocoScorer
from dynaconv.training.engine.trained_module import TrainedModule

LOSSES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask")
"""torchvision's names: of the region proposals, of the boxes, of the masks."""

Batch = tuple[list[Tensor], list[dict[str, Any]]]


class DetectionModule(TrainedModule):
    """A detector and how it is trained and judged.

    The loss is the sum of torchvision's, each of which is logged at every epoch too (``train_loss_mask``, ...), beside
    COCO's scores of the validation images (``val_box_ap``, ``val_mask_ap50``, ...; shares of 1).

    Args:
        detector: images and targets to losses, images to detections.
        recipe: optimiser, schedule, kind of detector.
        truth: annotations of the validation images.
        category_ids: the data set's number of each label.
    """

    recipe: DetectionRecipe

    def __init__(
        self, detector: nn.Module, recipe: DetectionRecipe, truth: CocoAnnotations, category_ids: tuple[int, ...]
    ) -> None:
        super().__init__(detector, recipe)
        self.truth, self.category_ids = truth, category_ids
        names = [name for name in LOSSES if recipe.detector.masks or name != "loss_mask"]
        self.part_losses = nn.ModuleDict({name: MeanMetric(nan_strategy=float("nan")) for name in names})
        self.scorer = self._fresh_scorer()

    @property
    def train_metrics(self) -> dict[str, Metric]:
        """Figures that an epoch of training adds up, by their names in the log."""
        return {**super().train_metrics, **{f"train_{name}": self._part(name) for name in self.part_losses}}

    @property
    def recomputed(self) -> nn.Module:
        """The network that the backbone is."""
        return self.model.get_submodule("backbone.body")

    @property
    def compiled(self) -> nn.Module:
        """The backbone: what follows has another shape with every image."""
        return self.model.get_submodule("backbone")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        images, targets = batch
        detector = self.recipe.detector
        self._resize_to(self.model, self.recipe.augment.sizes or (detector.image_size,))
        losses = self.model(images, targets)
        for name, loss in losses.items():
            metric = self._part(name)
            metric.update(loss.detach(), len(images))
            self.log(f"train_{name}", metric, on_step=False, on_epoch=True, batch_size=len(images))
        total = sum(losses.values())
        assert isinstance(total, Tensor)  # there is a loss at least
        return self.note_loss(total, len(images), batch_idx)

    def on_validation_epoch_start(self) -> None:
        """Forget what was found before; images have the detector's own size."""
        self.scorer = self._fresh_scorer()
        self._resize_to(self.evaluated, (self.recipe.detector.image_size,))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """What is found in one batch."""
        images, targets = batch
        self.scorer.add([target["image_id"] for target in targets], self.evaluated(images))

    def on_validation_epoch_end(self) -> None:
        """Judge what all processes found, in the first of them."""
        self.scorer.gather()
        scores = self.scorer.scores().metrics() if self.trainer.is_global_zero else None
        scores = self.trainer.strategy.broadcast(scores)
        assert scores is not None  # the first process has them
        for name, value in scores.items():
            self.log(name, value, prog_bar=name in ("val_box_ap", "val_mask_ap"), sync_dist=True)

    def _part(self, loss: str) -> Metric:
        return cast(Metric, self.part_losses[loss])

    @staticmethod
    def _resize_to(detector: nn.Module, sizes: tuple[int, ...]) -> None:
        """Let a detector draw its images' shorter side from sizes in pixels; in evaluation it would take the last."""
        transform: Any = detector.get_submodule("transform")
        transform.min_size = sizes

    def _fresh_scorer(self) -> CocoScorer:
        return CocoScorer(self.truth, self.category_ids, self.recipe.detector.masks)
