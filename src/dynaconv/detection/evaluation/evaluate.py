"""`evaluate` as a plain function: a saved detector on the validation images of a data set."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from dynaconv.detection.checkpoints import load_detector
from dynaconv.detection.config import VALIDATION_FILES, CocoLoaderConfig
from dynaconv.detection.data.datamodule import DetectionDataModule
from dynaconv.detection.evaluation.coco import Kind
from dynaconv.detection.evaluation.picture import save_curves
from dynaconv.detection.evaluation.results import results_path, write_results
from dynaconv.detection.evaluation.scorer import CocoScorer
from dynaconv.detection.evaluation.scores import DetectionScores
from dynaconv.errors import DynaconvError
from dynaconv.files import write_text
from dynaconv.training._lightning import LightningModule, quiet_lightning
from dynaconv.training.engine.trainer import make_judge

_logger = logging.getLogger(__name__)

SCORES_FILE = "scores.json"
CURVES_FILE = "precision-recall.png"


def evaluate(
    checkpoint: str | Path,
    data: str | None = None,
    *,
    loader: CocoLoaderConfig | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
    accelerator: str = "auto",
    precision: str = "32-true",
    progress_bar: bool = False,
) -> DetectionScores:
    """Judge a saved detector on the validation images of a data set.

    Args:
        checkpoint: a saved detector, such as ``runs/<name>/<time>/best``.
        data: folder of a data set in COCO's format; the one it was trained on if None.
        loader: files in the folder, ``val_batch_size``, workers; COCO's files and one image at a time if None.
        out: folder for what :func:`write_scores` writes; None writes nothing.
        limit: judge only the first images, rounded up to whole batches.
        accelerator: Lightning's.
        precision: Lightning's.
        progress_bar: show Lightning's progress bar.

    Raises:
        CheckpointError: if the checkpoint can not be loaded.
        DynaconvError: if the data can not be used, or have other classes than the detector; if ``out`` has results of
            before.
        StorageError: if the system refuses to write.
    """
    if limit is not None and limit < 1:
        raise DynaconvError(f"limit={limit}; expected at least 1 image, or None")
    if out is not None:
        refuse_results_of_before(Path(out))
    detector, description = load_detector(checkpoint)
    masks = description["detector"]["kind"] == "mask_rcnn"
    loader = loader or CocoLoaderConfig()
    if data is None:  # files with names of their own are known, too
        usual, own = CocoLoaderConfig(), description.get("files", {})
        files = {name: own[name] for name in VALIDATION_FILES if name in own}
        loader = replace(loader, **{n: v for n, v in files.items() if getattr(loader, n) == getattr(usual, n)})
    data = data or description.get("data")
    if data is None:
        raise DynaconvError(
            f"{checkpoint} does not say what it was trained on; expected data, a folder in COCO's format"
        )
    images = DetectionDataModule(data, loader, masks=masks)
    images.setup("validate")
    if list(images.classes) != list(description["classes"]):
        known = description["classes"]
        raise DynaconvError(
            f"{images.data} has {len(images.classes)} classes ({_shorten(images.classes)}) and {checkpoint} knows "
            f"{len(known)} ({_shorten(known)}); expected the same names in the same order"
        )
    scorer = judge(
        detector,
        images,
        masks=masks,
        limit=limit,
        accelerator=accelerator,
        precision=precision,
        progress_bar=progress_bar,
    )
    ledger = images.ledgers["val_unreadable"]
    if text := ledger.report():
        _logger.warning("%s", text)
    scores = replace(scorer.scores(), unreadable=len(ledger.faults))
    if out is not None:
        write_scores(scores, Path(out), scorer.results())
    return scores


def judge(
    detector: nn.Module,
    images: DetectionDataModule,
    *,
    masks: bool,
    limit: int | None = None,
    accelerator: str = "auto",
    precision: str = "32-true",
    progress_bar: bool = False,
) -> CocoScorer:
    """Let a detector find what there is on validation images that are set up.

    Args:
        detector: torchvision's; it is left in evaluation mode.
        images: set up.
        masks: judge masks, too.
        limit: as in :func:`evaluate`.
        accelerator: as in :func:`evaluate`.
        precision: as in :func:`evaluate`.
        progress_bar: as in :func:`evaluate`.

    Raises:
        DynaconvError: if Lightning refuses accelerator or precision.
    """
    scorer = CocoScorer(images.val_truth, images.category_ids, masks=masks)
    with quiet_lightning():
        batches = None if limit is None else -(-limit // images.loader.val_batch_size)
        trainer = make_judge(accelerator, precision, progress_bar, batches)
        trainer.validate(_Judged(detector, scorer), datamodule=images, verbose=False)
    return scorer


class _Judged(LightningModule):
    """A detector whose outputs go to a scorer."""

    def __init__(self, detector: nn.Module, scorer: CocoScorer) -> None:
        super().__init__()
        self.detector, self.scorer = detector, scorer

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, targets = batch
        self.scorer.add([target["image_id"] for target in targets], self.detector(images))


def write_scores(scores: DetectionScores, folder: Path, results: list[dict[str, Any]] | None = None) -> None:
    """Write ``scores.json``, ``precision-recall.png``, and COCO's results files of what was judged.

    Args:
        scores: all of them.
        folder: it is made.
        results: COCO's results entries; None writes no file of them.

    Raises:
        DynaconvError: if the folder has results of before.
        StorageError: if the system refuses.
    """
    refuse_results_of_before(folder)
    if results is not None:
        write_results(folder, results, list(scores.precision))
    save_curves(scores, folder / CURVES_FILE)
    write_text(folder / SCORES_FILE, json.dumps(scores.to_dict(), indent=1))


def refuse_results_of_before(folder: Path) -> None:
    """Say so before hours of work, if a folder's results would be replaced.

    Raises:
        DynaconvError: if the folder has any of the files.
    """
    kinds: tuple[Kind, ...] = ("bbox", "segm")
    names = [SCORES_FILE, CURVES_FILE, *(results_path(folder, kind).name for kind in kinds)]
    if taken := [name for name in names if (folder / name).exists()]:
        raise DynaconvError(f"{folder} has {', '.join(taken)} of before; choose another folder, or move them away")


def _shorten(names: Any) -> str:
    return ", ".join(list(names)[:4]) + (", ..." if len(names) > 4 else "")
