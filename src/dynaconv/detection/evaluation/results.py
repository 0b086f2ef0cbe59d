"""COCO's results files: written whole, and checked before they are judged."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynaconv.detection.data.annotations import read_annotations
from dynaconv.detection.data.masks import check_segmentation
from dynaconv.detection.evaluation.coco import Kind
from dynaconv.detection.evaluation.scorer import score_results
from dynaconv.detection.evaluation.scores import DetectionScores
from dynaconv.errors import DynaconvError
from dynaconv.files import write_text
from dynaconv.training.fields import shown

_logger = logging.getLogger(__name__)

KEYS: dict[Kind, str] = {"bbox": "bbox", "segm": "segmentation"}
"""Where a results entry has its box, and its mask."""


def results_path(folder: Path, kind: Kind) -> Path:
    """Where results of boxes, or of masks, are written."""
    return folder / f"results-{kind}.json"


def write_results(folder: Path, results: Sequence[Mapping[str, Any]], kinds: Iterable[Kind]) -> list[Path]:
    """Write ``results-bbox.json`` and ``results-segm.json``, which pycocotools' `loadRes` and COCO's server take.

    Two files, because pycocotools would take a mask's size from a box beside it.

    Args:
        folder: it is made.
        results: COCO's results entries.
        kinds: which to write.

    Raises:
        StorageError: if the system refuses; what was there before stays.
    """
    paths = []
    for kind in kinds:
        keys = ("image_id", "category_id", "score", KEYS[kind])
        lines = (json.dumps({key: entry[key] for key in keys}, separators=(",", ":")) for entry in results)
        paths.append(results_path(folder, kind))
        write_text(paths[-1], "[" + ",\n".join(lines) + "]")
    return paths


def score_files(results: str | Path, truth: str | Path) -> DetectionScores:
    """Judge a file of results, of any program.

    Args:
        results: a file in COCO's results format: boxes, masks or both.
        truth: annotations in COCO's format. All their images are judged; all that are without results are missed.

    Raises:
        DynaconvError: if a file can not be read, or an entry can not be judged; it is named.
    """
    results = Path(results)
    try:
        entries = json.loads(results.read_bytes())
    except OSError as error:
        raise DynaconvError(f"{results} can not be read: {error.strerror or error}; expected COCO's results") from error
    except (ValueError, RecursionError) as error:
        raise DynaconvError(f"{results} holds no JSON ({shown(str(error))}); expected COCO's results") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        found = type(entries).__name__ if not isinstance(entries, list) else "list of other things than mappings"
        raise DynaconvError(
            f"{results} holds a {found}; expected a list of entries with image_id, category_id, score, and bbox or "
            "segmentation (annotations go to the truth)"
        )
    kinds: tuple[Kind, ...] = tuple(kind for kind, key in KEYS.items() if any(key in entry for entry in entries))
    if entries and not kinds:
        raise DynaconvError(f"{results}: no entry has a bbox or a segmentation; there is nothing to judge")
    annotations = read_annotations(truth, Path(truth).parent, masks="segm" in kinds)
    if annotations.report.faults:
        _logger.warning("%s", annotations.report)
    content = annotations.content
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    for number, entry in enumerate(entries):
        if wrong := _fault(entry, kinds, sizes, categories):
            raise DynaconvError(f"{results}: entry {number} has {wrong}")
    return score_results(content, entries, kinds or ("bbox",))


def _fault(
    entry: Mapping[str, Any], kinds: Iterable[Kind], sizes: Mapping[int, tuple[int, int]], categories: set[int]
) -> str | None:
    """What is wrong with an entry, and what was expected; None if nothing is."""
    image, category, score = (entry.get(key) for key in ("image_id", "category_id", "score"))
    if type(image) is not int or image not in sizes:
        return f"image_id={shown(image)}; expected one of the {len(sizes):,} images of the truth"
    if type(category) is not int or category not in categories:
        known = ", ".join(map(str, sorted(categories)[:8])) + ", ..." * (len(categories) > 8)
        return f"category_id={shown(category)}; expected one of the truth's: {known}"
    if not _is_number(score):
        return f"score={shown(score)}; expected a number"
    if "bbox" in kinds:
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)) or min(box[2:]) < 0:
            return f"bbox={shown(box)}; expected left, top, width and height in pixels, as the other entries"
    if "segm" in kinds:
        mask, (height, width) = entry.get("segmentation"), sizes[image]
        if not isinstance(mask, dict) or not isinstance(mask.get("counts"), str):
            return f"segmentation={shown(mask)}; expected compressed run lengths, size and counts, as the other entries"
        if check_segmentation(mask, height, width)[0] is None:
            return f"segmentation={shown(mask)}; expected run lengths that add up to size [{height}, {width}]"
    return None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
