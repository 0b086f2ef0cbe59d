"""Attention while a network is trained: figures and maps in TensorBoard, and an animation of how it is released."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from dynaconv.analysis.attention import AttentionMaps, collect_attention
from dynaconv.analysis.attention.pictures import draw_sheet, sheets
from dynaconv.analysis.figures import save_figure
from dynaconv.errors import DynaconvError
from dynaconv.files import replacing
from dynaconv.training._lightning import Callback, LightningModule, Trainer
from dynaconv.training.config import FULLY_SHARDED

FOLDER = "attention"
"""In the run's folder: a picture an epoch and warehouse, and ``WAREHOUSE.gif`` of them all."""
FRAME_MS, LAST_MS = 400, 2000
DPI = 80


class AttentionWatch(Callback):
    """Draws what layers attend to in the first validation batch, every so many epochs.

    TensorBoard gets a map a warehouse, and for each the effective number of cells, the share of attention on the
    assignment, and of negative weights. Pictures stay in the run's folder, so that a resumed run's animation is whole.

    Args:
        every: epochs between two pictures.
        folder: of the run.
    """

    def __init__(self, every: int, folder: Path) -> None:
        self.every, self.folder = every, folder / FOLDER
        self.images: Tensor | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what can not be watched."""
        if getattr(getattr(pl_module, "recipe", None), "run", None) is not None:
            strategy = pl_module.recipe.run.strategy  # pyright: ignore[reportAttributeAccessIssue]
            if strategy == FULLY_SHARDED:
                raise DynaconvError("run.attention_maps does not go with run.strategy=fsdp; leave one of them out")

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first batch: maps of all epochs are of the same images."""
        if batch_idx == 0 and self.images is None:
            images = batch[0] if isinstance(batch, (tuple, list)) else batch
            if not isinstance(images, Tensor):
                raise DynaconvError("run.attention_maps draws attention of classifiers; leave it out for detectors")
            self.images = images

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, after the first epoch, the last, and every so many."""
        epoch, last = trainer.current_epoch + 1, trainer.current_epoch + 1 == trainer.max_epochs
        if not trainer.is_global_zero or self.images is None or not (last or epoch % self.every == 0 or epoch == 1):
            return
        maps = collect_attention(pl_module.model, [self.images])  # pyright: ignore[reportArgumentType]
        self._log(trainer, maps)
        for name in sheets(maps):
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


def _stem(name: str) -> str:
    return re.sub(r"[^\w.]+", "_", name)
