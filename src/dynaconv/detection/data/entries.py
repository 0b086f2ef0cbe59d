"""The entries of a COCO file, one by one: what is usable is kept, what is not is counted.

Written for millions of entries: types are compared, not tried.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from dynaconv.detection.data.masks import NUMBERS, check_segmentation
from dynaconv.detection.data.report import Report
from dynaconv.errors import DynaconvError
from dynaconv.training.fields import shown

Entry = dict[str, Any]
LARGEST_SIDE = 65_535
"""Of an image, in pixels: JPEG's."""
LARGEST_ID = 2**63 - 1
OUTWARD = frozenset("/\\:\0")
"""A name without these is one of a file, or of the folder or the one above."""
FARTHEST = 1e6
"""No box's number is larger, in pixels."""
SMALLEST_SIDE = 0.01
"""Of a box, in pixels: still a box in single precision, at any place of an image."""


def clean_categories(entries: list[Any], report: Report) -> list[Entry]:
    """Categories by rising id, each with a name of its own.

    Raises:
        DynaconvError: if an id is repeated.
    """
    found: dict[int, Any] = {}
    for number, entry in enumerate(entries):
        if type(entry) is not dict or not _is_id(entry.get("id")):
            report.note("category_entry", f"categories[{number}]", shown(entry))
        elif entry["id"] in found:
            raise DynaconvError(f"{report.name} has two categories with the id {entry['id']}; ids must be unique")
        else:
            found[entry["id"]] = entry.get("name")
    names = Counter(name for name in found.values() if isinstance(name, str))
    kept = []
    for key, name in sorted(found.items()):
        if not isinstance(name, str) or not name.strip() or names[name] > 1:
            report.note("category_name", key, shown(name))
            name = str(key) if not isinstance(name, str) or not name.strip() else f"{name} ({key})"
        kept.append({"id": key, "name": name})
    for before, after in pairwise(kept):
        if after["id"] > before["id"] + 1:
            report.note("category_gap", f"{before['id']} to {after['id']}")
    return kept


def clean_images(entries: list[Any], report: Report) -> list[Entry]:
    """Images with a size, whose files can only lie within their folder.

    Raises:
        DynaconvError: if an id is repeated.
    """
    kept, ids, names = [], set(), set()
    for number, entry in enumerate(entries):
        if type(entry) is not dict or not _is_id(entry.get("id")):
            report.note("image_entry", f"images[{number}]", shown(entry))
            continue
        key, name, *sides = _fields(entry, "id", "file_name", "height", "width")
        if key in ids:
            raise DynaconvError(f"{report.name} has two images with the id {key}; ids must be unique")
        ids.add(key)
        if type(name) is not str or not all(type(s) in NUMBERS and s % 1 == 0 and 0 < s <= LARGEST_SIDE for s in sides):
            expected = "expected a name, and whole numbers of pixels"
            report.note("image_entry", key, f"file_name={shown(name)}, height and width {shown(sides)}; {expected}")
            continue
        if not stays_inside(name):
            report.note("image_path", key, shown(name))
            continue
        if name in names:
            report.note("image_repeated", name)
        names.add(name)
        kept.append({"id": key, "file_name": name, "height": int(sides[0]), "width": int(sides[1])})
    return kept


def stays_inside(name: str) -> bool:
    """Whether a file name can only mean something below its folder, on any system."""
    if OUTWARD.isdisjoint(name):
        return name not in ("", ".", "..")
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    leaves = posix.is_absolute() or windows.drive or windows.root or ".." in posix.parts or ".." in windows.parts
    return bool(posix.parts) and not leaves and "\0" not in name


def clean_annotations(
    entries: list[Any], images: list[Entry], categories: list[Entry], masks: bool, report: Report
) -> list[Entry]:
    """Objects with a usable box, and mask if wanted, of known images and categories.

    Args:
        entries: of the file.
        images: that are known.
        categories: that are known.
        masks: objects need masks.
        report: takes the findings.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    known = {category["id"] for category in categories}
    kept: list[Entry] = []
    ids: set[int] = set()
    numbered = True
    note = report.note
    for number, entry in enumerate(entries):
        if type(entry) is not dict:
            note("object_entry", f"annotations[{number}]", shown(entry))
            continue
        key, image, category, crowd, area = _fields(entry, "id", "image_id", "category_id", "iscrowd", "area")
        if not _is_id(key) or key in ids:
            note("object_id", f"annotations[{number}]", f"id={shown(key)}")
            numbered = False
        else:
            ids.add(key)
            numbered = numbered and key > 0
        name = f"annotations[{number}]" if type(key) is not int else key
        if not (
            _is_id(image) and _is_id(category) and (crowd is None or (type(crowd) in (int, bool) and 0 <= crowd <= 1))
        ):
            note(
                "object_entry", name, f"image_id={shown(image)}, category_id={shown(category)}, iscrowd={shown(crowd)}"
            )
            continue
        if image not in sizes:
            note("object_image", name, f"image_id={image}")
            continue
        if category not in known:
            note("object_category", name, f"category_id={category}")
            continue
        height, width = sizes[image]
        box = _clean_box(entry.get("bbox"), height, width, name, report)
        if box is None:
            continue
        cleaned = {"id": key, "image_id": image, "category_id": category, "bbox": box}
        if masks:
            mask, kinds = check_segmentation(entry.get("segmentation"), height, width)
            for kind in kinds:
                note(kind, name)
            if mask is None:
                continue
            cleaned["segmentation"] = mask
        if type(area) not in NUMBERS or not 0 < area < FARTHEST**2:
            note("object_area", name, shown(area))
            area = box[2] * box[3]
        cleaned["area"], cleaned["iscrowd"] = area, int(crowd or 0)
        if crowd:
            note("crowd", name)
        kept.append(cleaned)
    if not numbered:  # pycocotools takes an object with the number 0 for none, and one of two with the same for both
        for number, cleaned in enumerate(kept, start=1):
            cleaned["id"] = number
    _note_empty(kept, images, categories, report)
    return kept


def _clean_box(box: Any, height: int, width: int, name: object, report: Report) -> list[float] | None:
    """A box ``[x, y, width, height]`` that lies within the image, but for a pixel; None if there is none."""
    if type(box) is not list or len(box) != 4 or not set(map(type, box)) <= NUMBERS:
        report.note("box_values", name, shown(box))
        return None
    x, y, w, h = box
    if not (-FARTHEST <= x <= FARTHEST and -FARTHEST <= y <= FARTHEST and abs(w) <= FARTHEST and abs(h) <= FARTHEST):
        report.note("box_values", name, shown(box))
        return None
    if w < SMALLEST_SIDE or h < SMALLEST_SIDE:
        report.note("box_empty", name, shown(box))
        return None
    if x >= 0 and y >= 0 and x + w <= width and y + h <= height:
        return box
    left, top, right, bottom = clip_box(box, height, width)
    if right - left < SMALLEST_SIDE or bottom - top < SMALLEST_SIDE:
        report.note("box_outside", name, f"{shown(box)} in {width}x{height}")
        return None
    if x >= -1 and y >= -1 and x + w <= width + 1 and y + h <= height + 1:
        return box  # scores are those of the file as it is
    report.note("box_clipped", name, f"{shown(box)} in {width}x{height}")
    return [left, top, right - left, bottom - top]


def clip_box(box: list[float], height: int, width: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a box ``[x, y, width, height]`` within an image."""
    x, y, w, h = box
    return max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)


def _note_empty(annotations: list[Entry], images: list[Entry], categories: list[Entry], report: Report) -> None:
    """Count images and categories without objects."""
    seen = {entry["image_id"] for entry in annotations if not entry["iscrowd"]}
    for image in images:
        if image["id"] not in seen:
            report.note("image_empty", image["file_name"])
    used = {entry["category_id"] for entry in annotations}
    for category in categories:
        if category["id"] not in used:
            report.note("category_empty", category["name"])


def _fields(entry: dict[str, Any], *names: str) -> list[Any]:
    return [entry.get(name) for name in names]


def _is_id(value: Any) -> bool:
    return type(value) is int and -LARGEST_ID <= value <= LARGEST_ID
