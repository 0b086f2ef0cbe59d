"""What a detection run is: the detector, its data and how it is trained, as frozen dataclasses that YAML can hold.

No torch here: the command line reads these classes to build its flags, and must start quickly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dynaconv.training.config import EmaConfig, OptimizerConfig, RunConfig, RunRecipe, ScheduleConfig
from dynaconv.training.fields import check_fields
from dynaconv.training.fields import require_that as _require


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """A detector of torchvision's on a backbone with a feature pyramid.

    Args:
        kind: faster_rcnn (boxes) or mask_rcnn (boxes and masks).
        weights: where a trained backbone comes from: a checkpoint of `dynaconv train` (runs/NAME/TIME/best), a file
            of weights of the model (.safetensors, .pth; the authors' own, too), or timm, which downloads its own;
            null for a random start.
        norms: the backbone's batch normalisation: train (as in classification), eval (statistics stand still, weights
            and biases learn; the papers' choice beside trained weights) or frozen (everything stands still).
        freeze_stages: stages of the backbone that stand still, from the first; the stem stands still with any.
        image_size: shorter side of an image that the network sees, in pixels.
        max_size: largest longer side, in pixels; it comes before image_size.
        pyramid_channels: channels of every level of the feature pyramid.
        box_channels: width of the two linear layers behind a box.
        mask_channels: channels of the mask branch.
        anchor_size: side of the anchors on the finest of the five levels, in pixels; it doubles from level to level.
        proposals: most boxes that the region proposals hand on, an image.
        box_samples: of these, how many the box and mask branches learn from, an image; a quarter may hold objects.
        score_threshold: detections below are dropped.
        nms_threshold: of overlapping boxes of one class (intersection over union), the better one stays.
        detections: most detections an image.
    """

    kind: Literal["faster_rcnn", "mask_rcnn"] = "mask_rcnn"
    weights: str | None = None
    norms: Literal["train", "eval", "frozen"] = "train"
    freeze_stages: int = 0
    image_size: int = 800
    max_size: int = 1333
    pyramid_channels: int = 256
    box_channels: int = 1024
    mask_channels: int = 256
    anchor_size: int = 32
    proposals: int = 1000
    box_samples: int = 512
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections: int = 100

    def __post_init__(self) -> None:
        check_fields(self, "detector")
        _require(self.kind in ("faster_rcnn", "mask_rcnn"), "detector.kind", self.kind, "faster_rcnn or mask_rcnn")
        _require(self.norms in ("train", "eval", "frozen"), "detector.norms", self.norms, "train, eval or frozen")
        _require(0 <= self.freeze_stages <= 4, "detector.freeze_stages", self.freeze_stages, "0 to 4")
        for name, kind in type(self).__annotations__.items():
            if kind == "int" and name != "freeze_stages":
                _require(getattr(self, name) > 0, f"detector.{name}", getattr(self, name), "at least 1")
        most = f"at least detector.image_size, {self.image_size}"
        _require(self.max_size >= self.image_size, "detector.max_size", self.max_size, most)
        for name in ("score_threshold", "nms_threshold"):
            _require(0 <= getattr(self, name) <= 1, f"detector.{name}", getattr(self, name), "0 to 1")

    @property
    def masks(self) -> bool:
        """Whether it finds masks beside boxes."""
        return self.kind == "mask_rcnn"


VALIDATION_FILES = ("val_images", "val_annotations")
"""Fields that say where a data set's validation images lie; saved detectors know them."""


@dataclass(frozen=True, kw_only=True)
class CocoLoaderConfig:
    """Where images and annotations lie, and how they are batched. Paths are relative to the data's folder.

    Args:
        batch_size: images per iteration and device, in training.
        val_batch_size: the same in validation. Smaller images are padded to the largest of a batch, which changes a
            little what is found: figures are comparable at 1.
        workers: processes that decode images.
        train_images: folder of the training images.
        train_annotations: COCO's JSON file of them.
        val_images: folder of the validation images.
        val_annotations: COCO's JSON file of them.
        empty_images: train on images without objects, too; COCO's usual recipes leave them out.
        group_shapes: batch wide images with wide ones and tall with tall, so that little is padded.
        limit: use only this many training images, for a quick try.
        max_bad: largest share of an epoch's images that may be unreadable, rounded up to whole images. Others take
            their place in training, validation leaves them out, and both are counted and named.
    """

    batch_size: int = 2
    val_batch_size: int = 1
    workers: int = 2
    train_images: str = "train2017"
    train_annotations: str = "annotations/instances_train2017.json"
    val_images: str = "val2017"
    val_annotations: str = "annotations/instances_val2017.json"
    empty_images: bool = False
    group_shapes: bool = True
    limit: int | None = None
    max_bad: float = 0.01

    def __post_init__(self) -> None:
        check_fields(self, "loader")
        for name in ("batch_size", "val_batch_size"):
            _require(getattr(self, name) > 0, f"loader.{name}", getattr(self, name), "at least 1")
        _require(self.workers >= 0, "loader.workers", self.workers, "at least 0")
        _require(self.limit is None or self.limit > 0, "loader.limit", self.limit, "at least 1 image")
        _require(0 <= self.max_bad <= 1, "loader.max_bad", self.max_bad, "a share, 0 to 1")


@dataclass(frozen=True, kw_only=True)
class DetectionAugmentConfig:
    """How training images are varied.

    Args:
        flip: probability of a horizontal flip.
        crop: probability that an image is resized to a shorter side of 400, 500 or 600 pixels, and then cut to a random
            window of 384 to 600 pixels a side (after DETR, arXiv 2005.12872).
        sizes: shorter sides in pixels, one of which is drawn for every training image (multi-scale); empty for
            detector.image_size alone.
    """

    flip: float = 0.5
    crop: float = 0.0
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self, "augment")
        for name in ("flip", "crop"):
            _require(0 <= getattr(self, name) <= 1, f"augment.{name}", getattr(self, name), "a probability")
        _require(all(size > 0 for size in self.sizes), "augment.sizes", self.sizes, "pixels, > 0")


@dataclass(frozen=True, kw_only=True)
class DetectionRecipe(RunRecipe):
    """A whole detection run: which detector is trained on what, and how.

    Args:
        model: the backbone: a preset (`dynaconv models`) or any timm backbone with stages.
        method: with a timm backbone: the dynamic convolution's config as a mapping, such as {budget: 0.5}; null for
            the plain backbone, or for the preset's own config.
        where: with a timm backbone: patterns of the layers to convert, null for the method's own choice.
        backbone: further arguments of the backbone, such as {drop_path_rate: 0.4}.
        detector: what stands on the backbone.
        data: folder of a data set in COCO's format.
        loader: files and batching.
        augment: augmentation.
        optimizer: optimiser.
        schedule: learning rate and temperature over time.
        ema: moving average of the weights.
        run: seed, precision, devices.
    """

    model: str = "kw1x_resnet50"
    method: Mapping[str, Any] | None = None
    where: str | list[str] | None = None
    backbone: Mapping[str, Any] = field(default_factory=dict)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    data: str = "coco"
    loader: CocoLoaderConfig = field(default_factory=CocoLoaderConfig)
    augment: DetectionAugmentConfig = field(default_factory=DetectionAugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-4))
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(epochs=12, kind="step", steps=(8, 11), warmup_epochs=0.07)
    )
    ema: EmaConfig = field(default_factory=EmaConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        check_fields(self, "")
        sharded = self.run.strategy == "fsdp"
        _require(not sharded, "run.strategy", self.run.strategy, "ddp or auto for detectors")
