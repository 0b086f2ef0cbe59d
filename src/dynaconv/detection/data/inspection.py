"""A closer look at a data set than training takes: every image's size, every mask's pixels, and what lies on disk."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dynaconv.detection.data.annotations import CocoAnnotations
from dynaconv.detection.data.images import size_differs
from dynaconv.detection.data.masks import Segmentation, to_rle
from dynaconv.errors import ImageError, require
from dynaconv.training.data.folder import files_below
from dynaconv.training.data.images import ENDINGS, image_size, load_image

BOX_TOLERANCE = 2.0
"""Pixels by which an edge of a box may differ from its mask's, and"""
BOX_SHARE = 0.1
"""the share of the mask's side that it may differ by; the larger of the two counts."""
SIZES = {"small": 32**2, "medium": 96**2, "large": float("inf")}
"""COCO's sizes of objects: areas in square pixels below which they are so called."""


def check_images(annotations: CocoAnnotations, advance: Callable[[], None], *, decode: bool = False) -> None:
    """Add to the report which images are missing, can not be read, or have another size than the annotations say.

    Args:
        annotations: of a split.
        advance: called after every image.
        decode: decode images wholly, which finds damage behind their first bytes; otherwise only their size is read.
    """
    report = annotations.report
    for image in annotations.content["images"]:
        path, expected = annotations.images_folder / image["file_name"], (image["width"], image["height"])
        try:
            size = load_image(path).size if decode else image_size(path)
            if size != expected:
                report.note("image_size", image["file_name"], size_differs(size, expected))
        except ImageError as error:
            missing = isinstance(error.__cause__, FileNotFoundError)
            report.note(
                "image_missing" if missing else "image_unreadable", image["file_name"], "" if missing else error.cause
            )
        advance()


def check_unlisted(splits: Sequence[CocoAnnotations]) -> None:
    """Add to the reports which image files no split names; splits may share a folder.

    Raises:
        DynaconvError: if a folder can not be read.
    """
    folders: defaultdict[Path, list[CocoAnnotations]] = defaultdict(list)
    for split in splits:
        folders[split.images_folder.resolve()].append(split)
    for folder, sharing in folders.items():
        named = {os.path.normpath(image["file_name"]) for part in sharing for image in part.content["images"]}
        for path in files_below(folder):
            name = os.path.relpath(path, folder)
            if name not in named and os.path.splitext(name)[1].lower() in ENDINGS:  # noqa: PTH122
                sharing[0].report.note("image_unlisted", name)


def check_masks(annotations: CocoAnnotations, advance: Callable[[], None]) -> None:
    """Add to the report which masks have no pixel, or another box than their object.

    Args:
        annotations: of a split; without masks nothing happens.
        advance: called after every object.
    """
    if not annotations.masks:
        return
    coco = require("pycocotools.mask", "detection")
    images = {image["id"]: image for image in annotations.content["images"]}
    for entry in annotations.content["annotations"]:
        image = images[entry["image_id"]]
        rle = to_rle(entry["segmentation"], image["height"], image["width"])
        x, y, w, h = coco.toBbox(rle).tolist()
        if not w or not h:
            annotations.report.note("mask_empty", entry["id"], image["file_name"])
        elif not _fits(entry["bbox"], (x, y, w, h)) and not _fits(entry["bbox"], _extent(entry["segmentation"])):
            detail = f"{image['file_name']}: box {entry['bbox']}, mask's {[x, y, w, h]}"
            annotations.report.note("mask_box", entry["id"], detail)
        advance()


def summarise(annotations: CocoAnnotations) -> dict[str, Any]:
    """Numbers of a split in plain types: images, objects by class and by COCO's sizes, crowds."""
    entries = [entry for entry in annotations.content["annotations"] if not entry["iscrowd"]]
    names = dict(zip(annotations.category_ids, annotations.classes, strict=True))
    classes = Counter(entry["category_id"] for entry in entries)
    sizes = Counter(next(name for name, most in SIZES.items() if entry["area"] < most) for entry in entries)
    return {
        "images": len(annotations.content["images"]),
        "objects": len(entries),
        "crowds": len(annotations.content["annotations"]) - len(entries),
        "masks": annotations.masks,
        "sizes": {name: sizes[name] for name in SIZES},
        "classes": {name: classes[key] for key, name in names.items()},
    }


def _extent(segmentation: Segmentation) -> tuple[float, float, float, float]:
    """The box of polygons' points, where a thin tip covers no pixel; of run lengths nothing."""
    if isinstance(segmentation, dict):
        return 0, 0, 0, 0
    xs, ys = ([value for polygon in segmentation for value in polygon[axis::2]] for axis in (0, 1))
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _fits(box: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the edges of two boxes ``[x, y, width, height]`` are about the same."""
    for axis in (0, 1):
        room = max(BOX_TOLERANCE, BOX_SHARE * other[axis + 2])
        ends = box[axis] + box[axis + 2], other[axis] + other[axis + 2]
        if abs(box[axis] - other[axis]) > room or abs(ends[0] - ends[1]) > room:
            return False
    return True
