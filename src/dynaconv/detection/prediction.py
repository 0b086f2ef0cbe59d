"""Objects in image files: found, listed, and drawn."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dynaconv.analysis.files import free_stem
from dynaconv.detection.checkpoints import load_detector
from dynaconv.detection.drawing import draw_detections
from dynaconv.detection.evaluation.encoding import MASK_THRESHOLD, encode_output
from dynaconv.errors import DynaconvError, ImageError, require
from dynaconv.files import replacing, write_text
from dynaconv.training.data.images import load_image
from dynaconv.training.devices import place

LIST_NAME = "detections"
"""Name of the file that lists what was found."""


@dataclass(frozen=True)
class Detection:
    """An object that was found.

    Args:
        category: name of its class.
        category_id: the class's number in the data set.
        score: 0 to 1.
        bbox: left, top, width and height, in pixels of the original image.
        segmentation: its mask as COCO's run lengths; None without masks.
    """

    category: str
    category_id: int
    score: float
    bbox: tuple[float, float, float, float]
    segmentation: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class DetectionPrediction:
    """What a detector sees in an image.

    Args:
        image: path of the file.
        width: of the image, in pixels.
        height: of the image, in pixels.
        detections: best first; none if the file could not be read.
        picture: path of the image with everything drawn, None if there is none.
        error: why the file could not be read.
    """

    image: str
    width: int = 0
    height: int = 0
    detections: tuple[Detection, ...] = ()
    picture: str | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain types; an object's keys are those of COCO's results, and its class's name."""
        if self.error is not None:
            return {"image": self.image, "error": self.error}
        found = [
            {name: value for name, value in asdict(detection).items() if value is not None}
            for detection in self.detections
        ]
        picture = {} if self.picture is None else {"picture": self.picture}
        return {"image": self.image, **picture, "width": self.width, "height": self.height, "detections": found}


def predict(
    checkpoint: str | Path,
    images: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    score: float = 0.5,
    masks: bool = True,
    pictures: bool = True,
    device: str = "cpu",
    progress_bar: bool = False,
) -> list[DetectionPrediction]:
    """Find objects in image files.

    Args:
        checkpoint: a saved detector, such as ``runs/<name>/<time>/best``.
        images: paths of image files, see :func:`dynaconv.training.data.images.load_image`.
        out: folder for ``NAME.png``, an image with everything drawn, and for ``detections.json``, the list of all; it
            is made. No file in it is replaced: names that are taken get a number. None writes nothing.
        score: detections below are left out.
        masks: keep and draw masks, if the detector finds them.
        pictures: draw, if there is a folder.
        device: where to run, such as ``cuda``.
        progress_bar: show one.

    Returns:
        One prediction an image, in the order given; a file that can not be read has an error instead of detections.

    Raises:
        CheckpointError: if the checkpoint can not be loaded.
        DynaconvError: if ``score`` is no share, or there is no such device.
        StorageError: if the system refuses to write.
    """
    if not 0 <= score <= 1:
        raise DynaconvError(f"score={score}; expected 0 to 1")
    detector, description = load_detector(checkpoint)
    place(detector, device)
    heads: Any = detector.roi_heads
    heads.score_thresh = score  # what is left out needs no mask either
    track = require("rich.progress", "train").track
    paths: Iterable[str | Path] = track(images, description="finding objects", disable=not progress_bar)
    predictions = []
    folder = None if out is None else Path(out)
    for prediction, picture in find_objects(
        detector,
        paths,
        classes=description["classes"],
        category_ids=description["category_ids"],
        score=score,
        masks=masks,
        draw=pictures and folder is not None,
    ):
        if picture is not None and folder is not None:
            path = folder / f"{free_stem(folder, Path(prediction.image).stem, ['png'])}.png"
            with replacing(path) as temporary:
                picture.save(temporary, format="PNG")
            prediction = replace(prediction, picture=str(path))
        predictions.append(prediction)
    if folder is not None:
        path = folder / f"{free_stem(folder, LIST_NAME, ['json'])}.json"
        write_text(path, json.dumps([prediction.to_dict() for prediction in predictions], indent=1))
    return predictions


def find_objects(
    detector: nn.Module,
    images: Iterable[str | Path],
    *,
    classes: Sequence[str],
    category_ids: Sequence[int],
    score: float = 0.5,
    masks: bool = True,
    draw: bool = True,
    scale: int = 1,
) -> Iterator[tuple[DetectionPrediction, Any]]:
    """Find objects in image files, one after the other.

    Args:
        detector: torchvision's, in evaluation mode.
        images: paths of image files.
        classes: names, that of label 1 first.
        category_ids: numbers of the classes in the data set.
        score: detections below are left out.
        masks: keep and draw masks, if the detector finds them.
        draw: draw what was found.
        scale: times as large is the drawing as the image, for small ones.

    Yields:
        A prediction, and the image with everything drawn, PIL; None if it could not be read or is not to be drawn.
    """
    device = next(detector.parameters()).device
    names = dict(zip(category_ids, classes, strict=True))
    to_tensor = require("torchvision.transforms.v2.functional", "detection").pil_to_tensor
    for path in images:
        try:
            image = load_image(path)
        except ImageError as error:
            yield DetectionPrediction(str(path), error=str(error)), None
            continue
        with torch.inference_mode():
            output = detector([to_tensor(image).to(device).float() / 255])[0]
        kept = output["scores"] >= score
        output = {name: values[kept].cpu() for name, values in output.items()}
        found = masks and "masks" in output
        entries = encode_output(0, output, category_ids, found)
        detections = tuple(
            Detection(
                names[entry["category_id"]],
                entry["category_id"],
                entry["score"],
                tuple(entry["bbox"]),
                entry.get("segmentation"),
            )
            for entry in entries
        )
        picture = None
        if draw:
            shown = output["masks"] > MASK_THRESHOLD if found else None
            labels = output["labels"].tolist()
            scores = output["scores"].tolist()
            picture = draw_detections(image, output["boxes"], labels, scores, shown, classes, scale=scale)
        yield DetectionPrediction(str(path), image.width, image.height, detections), picture
