"""COCO's JSON files: read, checked entry by entry, and brought into a form that nothing later stumbles over.

A file that can not be used is an error in one line. Anything else that is wrong is left out or mended, and counted in
a :class:`~dynaconv.detection.data.report.Report`.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynaconv.detection.data.entries import clean_annotations, clean_categories, clean_images
from dynaconv.detection.data.report import Report
from dynaconv.errors import DynaconvError
from dynaconv.training.fields import shown


@dataclass(frozen=True)
class CocoAnnotations:
    """Images, objects and classes of a split.

    Args:
        path: the JSON file.
        images_folder: where the images lie.
        content: ``images`` (id, file_name, height, width), ``annotations`` (id, image_id, category_id, bbox, area,
            iscrowd, and segmentation with masks) and ``categories`` (id, name) in COCO's form, by themselves
            consistent. If ids of annotations are not whole numbers from 1 on, each once, all are numbered anew, as
            pycocotools needs it.
        masks: whether objects have masks.
        report: what was found wrong.
    """

    path: Path
    images_folder: Path
    content: dict[str, list[dict[str, Any]]]
    masks: bool
    report: Report

    @property
    def category_ids(self) -> tuple[int, ...]:
        """Ids of the classes in the order of the labels, which count from 1."""
        return tuple(category["id"] for category in self.content["categories"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels."""
        return tuple(category["name"] for category in self.content["categories"])


def read_annotations(path: str | Path, images_folder: str | Path, masks: bool | None) -> CocoAnnotations:
    """Read and check a file in COCO's format; images are not looked at.

    Args:
        path: the JSON file.
        images_folder: where its ``file_name`` begin.
        masks: objects need masks; otherwise masks are not read. If None, objects need masks if any has one.

    Raises:
        DynaconvError: if there is no such file, it is no JSON, not COCO's format, without usable images, categories or
            objects, or ids of images or categories are repeated.
    """
    path = Path(path)
    with without_collection():
        return _checked(path, Path(images_folder), _load(path), masks)


def _checked(path: Path, images_folder: Path, sections: dict[str, list[Any]], masks: bool | None) -> CocoAnnotations:
    report = Report(str(path))
    categories = clean_categories(sections["categories"], report)
    _require_some(categories, "category", report)
    images = clean_images(sections["images"], report)
    _require_some(images, "image", report)
    if masks is None:
        masks = any(isinstance(entry, dict) and entry.get("segmentation") for entry in sections["annotations"])
    annotations = clean_annotations(sections["annotations"], images, categories, masks, report)
    _require_some(annotations, "object with a mask" if masks else "object", report)
    content = {"images": images, "annotations": annotations, "categories": categories}
    return CocoAnnotations(path, images_folder, content, masks, report)


def _load(path: Path) -> dict[str, list[Any]]:
    """The three lists of a file."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DynaconvError(
            f"{path} can not be read: {error.strerror or error}; expected COCO's annotations"
        ) from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, numbers of thousands of digits, endless nesting
        raise DynaconvError(f"{path} holds no JSON ({shown(str(error))}); expected COCO's annotations") from error
    if not isinstance(content, dict):
        raise DynaconvError(
            f"{path} holds a {type(content).__name__}; expected a mapping with images, annotations and categories"
        )
    for name in ("images", "annotations", "categories"):
        entries = content.get(name)
        if not isinstance(entries, list) or not entries:
            found = "an empty list" if entries == [] else "none" if entries is None else f"a {type(entries).__name__}"
            raise DynaconvError(f"{path} needs a list '{name}' with entries, as COCO's files have it; found {found}")
    return content


@contextmanager
def without_collection() -> Iterator[None]:
    """Millions of small objects make Python look for circles among them, in vain, again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _require_some(entries: list[Any], name: str, report: Report) -> None:
    if not entries:
        advice = "; boxes alone are trained with --detector faster_rcnn" if "mask" in name else ""
        text = str(report).removeprefix(f"{report.name}: ")
        raise DynaconvError(f"{report.name} has no usable {name}; {text}{advice}")
