"""What a training run is: one frozen dataclass a concern, gathered in a `Recipe` that YAML can hold.

No torch here: the command line reads these classes to build its flags, and must start quickly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from dynaconv.training.fields import build, check_fields, plain
from dynaconv.training.fields import require_that as _require
from dynaconv.training.schedule import OptimizerConfig, ScheduleConfig

FULLY_SHARDED = "fsdp"
"""The strategy that divides weights, gradients and moments among devices."""


@dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How images are read and batched.

    Args:
        image_size: side of the square the network sees, in pixels; 32 for embedded images, 224 otherwise.
        batch_size: images per iteration and device.
        in_chans: 1 (gray) or 3; 1 for embedded images, 3 otherwise.
        num_classes: only for timm datasets that do not say how many classes they have.
        train_split: name of the training split (timm datasets).
        val_split: name of the validation split (timm datasets).
        root: folder of a timm dataset.
        download: let a timm dataset download itself into `root`.
        workers: processes that decode images; embedded images are in memory and need none.
        crop_pct: share of the resized image kept by the centre crop at evaluation; 1 for embedded images, else 0.95.
        interpolation: how images are resized at evaluation.
        drop_last: drop the incomplete last batch of a training epoch. Every epoch is shuffled anew, so no image is
            dropped twice in a row but by chance; batches keep one size and never hold a single image.
        limit: use only this many training images, for a quick try.
        max_bad: largest share of an epoch's images that may be unreadable, rounded up to whole images. Others take
            their place in training, validation leaves them out, and both are counted and named.
        shuffle_buffer: streams only: images, not decoded, among which a worker draws the next one; its memory.
    """

    image_size: int | None = None
    batch_size: int = 64
    in_chans: int | None = None
    num_classes: int | None = None
    train_split: str = "train"
    val_split: str = "validation"
    root: str | None = None
    download: bool = False
    workers: int = 2
    crop_pct: float | None = None
    interpolation: str = "bicubic"
    drop_last: bool = True
    limit: int | None = None
    max_bad: float = 0.01
    shuffle_buffer: int = 2048

    def __post_init__(self) -> None:
        check_fields(self, "loader")
        _require(
            self.image_size is None or self.image_size > 0,
            "loader.image_size",
            self.image_size,
            "pixels, > 0",
        )
        _require(self.batch_size > 0, "loader.batch_size", self.batch_size, "at least 1")
        _require(self.in_chans in (None, 1, 3), "loader.in_chans", self.in_chans, "1 or 3")
        _require(self.workers >= 0, "loader.workers", self.workers, "at least 0")
        _require(
            self.crop_pct is None or 0 < self.crop_pct <= 1,
            "loader.crop_pct",
            self.crop_pct,
            "0 < share <= 1",
        )
        _require(self.limit is None or self.limit > 0, "loader.limit", self.limit, "at least 1 image")
        _require(0 <= self.max_bad <= 1, "loader.max_bad", self.max_bad, "a share, 0 to 1")
        _require(self.shuffle_buffer > 0, "loader.shuffle_buffer", self.shuffle_buffer, "at least 1 image")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training images and labels are varied.

    Args:
        shift: embedded images: largest translation, share of the side.
        rotate_degrees: embedded images: largest rotation.
        zoom: embedded images: largest relative change of scale.
        crop_scale: files: area kept by the random crop, smallest and largest share.
        crop_interpolation: files: how the random crop is resized: bilinear, bicubic, or random for either.
        flip: probability of a horizontal flip; 0 for embedded images (digits have a hand), 0.5 for files.
        color_jitter: files: strength of the colour jitter; without effect where RandAugment is on.
        rand_augment: timm's RandAugment string, such as rand-m9-mstd0.5-inc1 (the papers'). Works on any data.
        erasing: probability of random erasing (paper: 0.25 on the long schedule).
        mixup: alpha of mixup, 0 turns it off (paper: 0.8 on the long schedule).
        mixup_epochs: epochs in which mixup's alpha rises from 0, once an epoch.
        cutmix: alpha of cutmix, 0 turns it off (paper: 1.0 on the long schedule).
        label_smoothing: share of the target spread over all classes.
    """

    shift: float = 0.1
    rotate_degrees: float = 10.0
    zoom: float = 0.1
    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_interpolation: str = "random"
    flip: float | None = None
    color_jitter: float = 0.4
    rand_augment: str | None = None
    erasing: float = 0.0
    mixup: float = 0.0
    mixup_epochs: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        check_fields(self, "augment")
        for name in ("shift", "zoom", "erasing", "label_smoothing"):
            value = getattr(self, name)
            _require(
                0 <= value < 1 or (name == "erasing" and value == 1),
                f"augment.{name}",
                value,
                "0 <= value < 1",
            )
        _require(self.flip is None or 0 <= self.flip <= 1, "augment.flip", self.flip, "a probability")
        _require(
            self.crop_interpolation in ("random", "bilinear", "bicubic"),
            "augment.crop_interpolation",
            self.crop_interpolation,
            "random, bilinear or bicubic",
        )
        low, high = self.crop_scale
        _require(0 < low <= high <= 1, "augment.crop_scale", self.crop_scale, "0 < smallest <= largest <= 1")
        for name in ("rotate_degrees", "color_jitter", "mixup", "mixup_epochs", "cutmix"):
            _require(getattr(self, name) >= 0, f"augment.{name}", getattr(self, name), "at least 0")


@dataclass(frozen=True, kw_only=True)
class EmaConfig:
    """Moving average of the weights; where on, it is what is evaluated and saved as best and last.

    Args:
        decay: share of the average kept at each optimiser step (0.9999 for long runs), null for no average.
        warmup: let the decay rise from 0, so that a short run is not an average of its random start.
    """

    decay: float | None = None
    warmup: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "ema")
        _require(self.decay is None or 0 <= self.decay < 1, "ema.decay", self.decay, "0 <= decay < 1, or null")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How the run is carried out.

    Args:
        seed: every random draw is a function of it, the epoch and the iteration.
        precision: Lightning's: 32-true, bf16-mixed, 16-mixed, ...
        accumulate: iterations per optimiser step; null for what optimizer.global_batch needs, or 1.
        accelerator: auto, cpu, gpu, ...
        devices: number of devices (of each machine), or auto.
        num_nodes: machines; `torchrun` or SLURM starts the processes there.
        strategy: Lightning's: auto, ddp, ...; fsdp is PyTorch's FSDP2, which also divides weights, gradients and
            the optimiser's moments among the devices (no moving average, no fine-tuning).
        checkpoint_every: also save last.ckpt every so many optimiser steps, null for once an epoch.
        channels_last: keep tensors in channels_last layout, faster on most hardware.
        sync_batchnorm: take batch statistics over all processes, not over each one's own images, on any device.
        compile: compile the network with torch.compile; true for its default backend, or the name of one.
        checkpoint_activations: compute activations inside blocks again in the backward pass and do not keep them: less
            memory for about a third more time.
        attention_maps: draw every so many epochs what layers attend to in 128 validation images, drawn at random and
            the same ones each time (of streams: the first batch), in TensorBoard and, with an animation, in attention/
            of the run's folder; 0 for never. For classifiers that mix kernels by attention.
    """

    seed: int = 0
    precision: str = "32-true"
    accumulate: int | None = None
    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    checkpoint_every: int | None = None
    channels_last: bool = False
    sync_batchnorm: bool = False
    compile: bool | str = False
    checkpoint_activations: bool = False
    attention_maps: int = 0

    def __post_init__(self) -> None:
        check_fields(self, "run")
        _require(self.attention_maps >= 0, "run.attention_maps", self.attention_maps, "at least 1 epoch, or 0")
        _require(
            not (self.attention_maps and self.strategy == FULLY_SHARDED),
            "run.attention_maps",
            self.attention_maps,
            f"0 beside run.strategy={FULLY_SHARDED!r}, where no process has a whole network",
        )
        _require(self.num_nodes > 0, "run.num_nodes", self.num_nodes, "at least 1 machine")
        _require(
            not (self.compile and self.checkpoint_activations),
            "run.checkpoint_activations",
            True,
            "false beside run.compile, which chooses by itself what to compute again",
        )
        _require(
            self.strategy != FULLY_SHARDED or self.precision in ("32-true", "bf16-mixed", "bf16-true"),
            "run.precision",
            self.precision,
            "32-true, bf16-mixed or bf16-true beside run.strategy='fsdp'",
        )
        _require(0 <= self.seed < 2**32, "run.seed", self.seed, "0 to 2^32 - 1")
        every, accumulate = self.checkpoint_every, self.accumulate
        _require(accumulate is None or accumulate > 0, "run.accumulate", accumulate, "at least 1, or null")
        _require(every is None or every > 0, "run.checkpoint_every", every, "at least 1, or null")


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """How a run starts from a trained network and goes on from it.

    Args:
        source: the trained network: a checkpoint of `dynaconv train` (runs/NAME/TIME/best, which knows its model), a
            file of weights of `model` (.safetensors, .pth), or timm, which downloads its own weights of `model`.
        noise: by how much equal kernels differ at the start, relative to the trained ones; their sum stays exact.
        calibration: training batches by which what cannot be exact (KernelWarehouse, budget below 1) is fitted to its
            inputs, and running statistics of normalisations to the fit; 0 for neither.
        static_lr: learning rate of layers that were not converted, relative to optimizer.lr.
        kernel_lr: of cells and kernels.
        branch_lr: of attention branches and gates. A fresh classifier has optimizer.lr.
        freeze_epochs: layers that were not converted stand still for so long.
        distill: share of the loss that compares with the trained network before it was converted; null for a half
            where its classes are the data's, and none where they are not.
        distill_temperature: divisor of both networks' logits in that comparison.
    """

    source: str
    noise: float = 0.1
    calibration: int = 8
    static_lr: float = 1.0
    kernel_lr: float = 1.0
    branch_lr: float = 1.0
    freeze_epochs: float = 0.0
    distill: float | None = None
    distill_temperature: float = 2.0

    def __post_init__(self) -> None:
        check_fields(self, "tune")
        for name in ("noise", "calibration", "static_lr", "kernel_lr", "branch_lr", "freeze_epochs"):
            _require(getattr(self, name) >= 0, f"tune.{name}", getattr(self, name), "at least 0")
        _require(self.distill is None or 0 <= self.distill <= 1, "tune.distill", self.distill, "0 to 1, or null")
        _require(self.distill_temperature > 0, "tune.distill_temperature", self.distill_temperature, "above 0")


@dataclass(frozen=True, kw_only=True)
class RunRecipe:
    """What recipes of every kind of run have: the fields named here, and the way to plain types and back."""

    if TYPE_CHECKING:  # fields of the recipes themselves, each in its own place among others
        model: str
        data: str
        loader: Any
        optimizer: OptimizerConfig
        schedule: ScheduleConfig
        ema: EmaConfig
        run: RunConfig

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for YAML or JSON."""
        return plain(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`; fields that are missing keep their defaults.

        Raises:
            DynaconvError: on unknown fields, or values outside their domain.
        """
        return build(cls, values, "recipe")


@dataclass(frozen=True, kw_only=True)
class Recipe(RunRecipe):
    """A whole training run: what is trained on what, and how.

    Args:
        model: a preset (`dynaconv models`) or any timm backbone.
        method: with a backbone: the dynamic convolution's config as a mapping, such as {budget: 0.5} or
            {params: 4M}; null for the plain backbone, or for the preset's own config.
        where: with a backbone: patterns of the layers to convert, null for the method's own choice.
        backbone: further arguments of the backbone, such as {drop_path_rate: 0.1}.
        data: digits, mnist5k, scenes, folder:PATH (train/ and val/ with a folder a class), wds:PATH (shards of
            WebDataset), or timm:NAME.
        loader: reading and batching.
        augment: augmentation.
        optimizer: optimiser.
        schedule: learning rate and temperature over time.
        ema: moving average of the weights.
        run: seed, precision, devices.
        tune: start from a trained network (`dynaconv finetune`); null starts from scratch.
    """

    model: str = "kw1x_resnet18"
    method: Mapping[str, Any] | None = None
    where: str | list[str] | None = None
    backbone: Mapping[str, Any] = field(default_factory=dict)
    data: str = "digits"
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ema: EmaConfig = field(default_factory=EmaConfig)
    run: RunConfig = field(default_factory=RunConfig)
    tune: TuneConfig | None = None

    def __post_init__(self) -> None:
        check_fields(self, "")
        if self.run.strategy == FULLY_SHARDED:
            _require(self.ema.decay is None, "ema.decay", self.ema.decay, "null beside run.strategy='fsdp'")
            _require(self.tune is None, "run.strategy", FULLY_SHARDED, "ddp or auto for fine-tuning")
        if self.tune is not None:
            still, epochs = self.tune.freeze_epochs, self.schedule.epochs
            _require(still <= epochs, "tune.freeze_epochs", still, f"at most schedule.epochs, {epochs}")
        if self.loader.batch_size == 1 and (self.augment.mixup or self.augment.cutmix):
            _require(
                False, "loader.batch_size", 1, "at least 2 beside augment.mixup and cutmix, which mix images of a batch"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for YAML or JSON; ``tune`` only where there is one."""
        values = super().to_dict()
        return values if self.tune is not None else {k: v for k, v in values.items() if k != "tune"}
