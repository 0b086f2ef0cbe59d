"""COCO's average precision and recall, by pycocotools: the code whose figures papers report.

pycocotools prints as it goes, and stumbles over what is empty or counts from 0; both are seen to here.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dynaconv.errors import require

Kind = Literal["bbox", "segm"]
"""What is compared: boxes, or masks."""

SUMMARY = (
    "ap",
    "ap50",
    "ap75",
    "ap_small",
    "ap_medium",
    "ap_large",
    "ar1",
    "ar10",
    "ar100",
    "ar_small",
    "ar_medium",
    "ar_large",
)
"""COCO's twelve figures, in the order of `COCOeval.stats`."""

NO_OBJECTS = -1
"""What pycocotools says where there is nothing to find."""


@dataclass(frozen=True)
class Measured:
    """What pycocotools found.

    Args:
        summary: COCO's twelve figures by the names of :data:`SUMMARY`, shares of 1; None where there is no object.
        class_ap: AP of each class, at ten thresholds of intersection over union (IoU), 0.5 to 0.95; None as above.
        class_ap50: the same at IoU 0.5.
        precision: at 101 recalls, 0 to 1, for each threshold, mean over the classes that have objects; shape
            ``(10, 101)``, None if no class has.
    """

    summary: Mapping[str, float | None]
    class_ap: tuple[float | None, ...]
    class_ap50: tuple[float | None, ...]
    precision: Any


def index_truth(content: Mapping[str, Any], image_ids: Sequence[int] | None = None) -> Any:
    """Annotations as pycocotools wants them: a `COCO`.

    Annotations are numbered anew, from 1: pycocotools takes a match with number 0 for none. Those without
    ``iscrowd`` are no crowd, those without ``area`` have their box's.

    Args:
        content: of a file in COCO's format; it is not changed.
        image_ids: only these images; all if None.
    """
    wanted = None if image_ids is None else set(image_ids)
    images = [image for image in content["images"] if wanted is None or image["id"] in wanted]
    known = {image["id"] for image in images}
    kept = [annotation for annotation in content["annotations"] if annotation["image_id"] in known]
    annotations = []
    for number, annotation in enumerate(kept, start=1):
        width, height = annotation["bbox"][2:]
        annotations.append({"iscrowd": 0, "area": width * height, **annotation, "id": number})
    coco = require("pycocotools.coco", "detection").COCO()
    coco.dataset = {"images": images, "annotations": annotations, "categories": list(content["categories"])}
    with _silence():
        coco.createIndex()
    return coco


def measure(truth: Any, results: Sequence[Mapping[str, Any]], kind: Kind, category_ids: Sequence[int]) -> Measured:
    """Compare results with the truth.

    Args:
        truth: of :func:`index_truth`. All its images are judged, those without results too.
        results: COCO's results entries, with ``bbox`` or ``segmentation``; other images' are an error of pycocotools.
        kind: bbox for boxes, segm for masks.
        category_ids: the classes, in the order of the answer.

    Cost: about 10 ms an image at 80 classes and 100 detections, on one core.
    """
    cocoeval = require("pycocotools.cocoeval", "detection")
    # A mask's size is its own area, not its box's: pycocotools takes the box's where there is one.
    own, other = ("bbox", "segmentation") if kind == "bbox" else ("segmentation", "bbox")
    entries = [{key: value for key, value in entry.items() if key != other} for entry in results if own in entry]
    with _silence():
        if entries:
            found = truth.loadRes(entries)
        else:
            found = type(truth)()
            found.dataset = {**truth.dataset, "annotations": []}
            found.createIndex()
        evaluation = cocoeval.COCOeval(truth, found, kind)
        evaluation.params.catIds = sorted(category_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # Axes: 10 thresholds of IoU, 101 recalls, classes, 4 ranges of size (0: all), 3 numbers of detections (2: 100).
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    places = {identifier: place for place, identifier in enumerate(sorted(category_ids))}
    by_class = [precision[:, :, places[identifier]] for identifier in category_ids]
    has_objects = (precision > NO_OBJECTS).all(axis=(0, 1))
    return Measured(
        summary={name: _share(value) for name, value in zip(SUMMARY, evaluation.stats, strict=True)},
        class_ap=tuple(_share(values.mean()) for values in by_class),
        class_ap50=tuple(_share(values[0].mean()) for values in by_class),
        precision=precision[:, :, has_objects].mean(axis=2) if has_objects.any() else None,
    )


def _share(value: Any) -> float | None:
    return None if value == NO_OBJECTS else float(value)


def _silence() -> contextlib.redirect_stdout[io.StringIO]:
    return contextlib.redirect_stdout(io.StringIO())
