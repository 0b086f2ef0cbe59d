"""Attention while a network is trained: figures and maps in TensorBoard, and an animation of how it is released."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dynaconv.analysis.attention import AttentionMaps, collect_attention
from dynaconv.analysis.attention.pictures import draw_sheet, scale_sheets, sheets
from dynaconv.analysis.figures import save_figure
from dynaconv.errors import DynaconvError
from dynaconv.files import replacing
from dynaconv.nn import attending_layers
from dynaconv.training._lightning import Callback, LightningModule, Trainer
from dynaconv.training.data.datamodule import ImageDataModule
from dynaconv.training.data.run_data import RunData
from dynaconv.training.engine.module import ClassificationModule
from dynaconv.training.engine.trained_module import TrainedModule, trained_module

FOLDER = "attention"
"""In the run's folder: a picture an epoch and sheet (a warehouse, a kind of ODConv's), and ``SHEET.gif`` of all."""
SAMPLE = 128
"""Validation images that maps are averages over."""
FRAME_MS, LAST_MS = 400, 2000
DPI = 80


class AttentionWatch(Callback):
    """Draws what layers attend to in some validation images, the same ones every time, every so many epochs.

    Of the network that is judged and saved, the moving average where there is one. TensorBoard gets a map a warehouse,
    and for each the effective number of cells, the share of attention on the assignment, and of negative weights; of
    attention to channels, filters and positions (ODConv) a map a kind, and how much it depends on the image. Pictures
    stay in the run's folder, so that a resumed run's animation is whole.

    Args:
        every: epochs between two pictures.
        folder: of the run.
        images: shape ``(N, C, H, W)``; None for the first validation batch, at most :data:`SAMPLE` images of it.
        batch_size: images that the network is given at once.
    """

    def __init__(self, every: int, folder: Path, images: Tensor | None = None, batch_size: int = SAMPLE) -> None:
        self.every, self.folder = every, folder / FOLDER
        self.images, self.batch_size = images, batch_size

    @classmethod
    def of_run(cls, module: TrainedModule, data: RunData, folder: Path) -> AttentionWatch:
        """The watch that a run's recipe asks for (``run.attention_maps``), of a random sample of its data.

        The network is tried on one image first, so that what can not be drawn is told before training.

        Args:
            module: as it is trained.
            data: set up.
            folder: of the run.

        Raises:
            DynaconvError: if it is no classifier, or there is nothing to draw of its attention.
        """
        recipe = module.recipe
        every = recipe.run.attention_maps
        if not isinstance(module, ClassificationModule) or not isinstance(data, ImageDataModule):
            raise DynaconvError(
                f"run.attention_maps={every} draws attention of classifiers; got {recipe.model} in a "
                f"{type(module).__name__}; leave run.attention_maps out"
            )
        if why := _nothing_to_draw(module, data):
            raise DynaconvError(
                f"run.attention_maps={every} has nothing to draw: the network (model={recipe.model}, "
                f"method={module.recipe.method}) {why}; expected one of KernelWarehouse, ODConv, DY-Conv or CondConv; "
                "leave run.attention_maps out for others"
            )
        sample = data.val_sample(SAMPLE)
        return cls(every, folder, None if sample is None else sample[0], data.loader.batch_size)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first batch where there are no images yet: maps of all epochs are of the same ones."""
        if self.images is None:
            self.images = batch[0][:SAMPLE].cpu()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, after the first epoch, the last, and every so many."""
        epoch, last = trainer.current_epoch + 1, trainer.current_epoch + 1 == trainer.max_epochs
        if not trainer.is_global_zero or self.images is None or not (last or epoch % self.every == 0 or epoch == 1):
            return
        network = trained_module(pl_module).evaluated
        images = self.images.to(next(network.parameters()).dtype)
        maps = collect_attention(network, images.split(self.batch_size))
        self._log(trainer, maps)
        for name in sheets(maps) | scale_sheets(maps):
            stem = _stem(name)
            path = save_figure(draw_sheet(maps, name), self.folder / f"{stem}-{epoch:04}.png", dpi=DPI)
            picture = np.asarray(Image.open(path).convert("RGB"))
            trainer.logger.experiment.add_image(f"attention/{name}", picture, trainer.global_step, dataformats="HWC")  # pyright: ignore

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the animations."""
        if not trainer.is_global_zero or not self.folder.is_dir():
            return
        frames: dict[str, list[Path]] = {}
        for path in sorted(self.folder.glob("*-*.png")):
            if found := re.fullmatch(r"(.+)-(\d+)", path.stem):
                frames.setdefault(found[1], []).append(path)
        for stem, paths in frames.items():
            animate(paths, self.folder / f"{stem}.gif")

    def _log(self, trainer: Trainer, maps: AttentionMaps) -> None:
        figures: dict[str, float] = {}
        for name, layers in maps.groups().items():
            figures[f"attention/effective_cells/{name}"] = maps.effective_cells(name)
            figures[f"attention/negative/{name}"] = sum(one.negative_share for one in layers) / len(layers)
            assigned = [one.on_assignment for one in layers if one.on_assignment is not None]
            if assigned:
                figures[f"attention/on_assignment/{name}"] = sum(assigned) / len(assigned)
        for name, layers in scale_sheets(maps).items():
            figures[f"attention/dependence/{name}"] = sum(one.dependence for one in layers) / len(layers)
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.global_step)


def animate(pictures: list[Path], path: Path) -> Path:
    """Write pictures of one size as a GIF that starts anew, the last one shown longer.

    Args:
        pictures: in order.
        path: the GIF.

    Raises:
        StorageError: if the system refuses.
    """
    frames = [Image.open(picture).convert("RGB").quantize(64) for picture in pictures]
    times = [*[FRAME_MS] * (len(frames) - 1), LAST_MS]
    with replacing(path) as temporary:
        frames[0].save(temporary, format="GIF", save_all=True, append_images=frames[1:], duration=times, loop=0)
    return path


def _nothing_to_draw(module: ClassificationModule, data: ImageDataModule) -> str | None:
    """Why no map of a network's attention can be drawn; None if one can."""
    if not attending_layers(module.model):
        return "has no layer that mixes kernels by attention"
    image = torch.zeros(1, data.in_chans, data.image_size, data.image_size)
    maps = collect_attention(module.model, [image])
    if not sheets(maps) | scale_sheets(maps):
        return f"attends to {', '.join(sorted({one.kind for one in maps.maps}))} alone, of which there are no maps"
    return None


def _stem(name: str) -> str:
    return re.sub(r"[^\w.]+", "_", name)
