"""Masks in COCO's forms: polygons, and run lengths (RLE), compressed to text or not.

pycocotools draws and decodes them, in C that trusts its input: counts that do not add up to the image, or far-away
points, make it read or write where it should not. So nothing reaches it that was not checked here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dynaconv.errors import require

NUMBERS = {int, float}
Segmentation = list[list[float]] | dict[str, Any]


def check_segmentation(value: Any, height: int, width: int) -> tuple[Segmentation | None, list[str]]:
    """Keep what is usable of a mask.

    Args:
        value: ``segmentation`` of an annotation.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Returns:
        The mask, None if nothing is left, and the kinds of findings, see :mod:`dynaconv.detection.data.report`.
    """
    if value is None or value == [] or value == {}:
        return None, ["mask_missing"]
    if isinstance(value, dict):
        kind = _check_run_lengths(value, height, width)
        return (value, []) if kind is None else (None, [kind])
    if not isinstance(value, list):
        return None, ["mask_type"]
    kinds = [_check_polygon(polygon, height, width) for polygon in value]
    if not any(kinds):
        return value, []
    kept = [polygon for polygon, kind in zip(value, kinds, strict=True) if kind is None]
    return kept or None, [kind for kind in kinds if kind is not None]


def to_rle(segmentation: Segmentation, height: int, width: int) -> dict[str, Any]:
    """A checked mask as compressed run lengths; the union of its polygons.

    Args:
        segmentation: of :func:`check_segmentation`.
        height: of the image.
        width: of the image.
    """
    coco = require("pycocotools.mask", "detection")
    if isinstance(segmentation, list):
        return coco.merge(coco.frPyObjects(segmentation, height, width))
    if isinstance(segmentation["counts"], list):
        return coco.frPyObjects(segmentation, height, width)
    return segmentation


def to_pixels(segmentations: list[Segmentation], height: int, width: int) -> np.ndarray:
    """Checked masks as pixels, shape ``(N, height, width)``, uint8 0 and 1."""
    if not segmentations:
        return np.zeros((0, height, width), dtype=np.uint8)
    coco = require("pycocotools.mask", "detection")
    decoded = coco.decode([to_rle(segmentation, height, width) for segmentation in segmentations])
    return np.ascontiguousarray(decoded.transpose(2, 0, 1))


def _check_polygon(polygon: Any, height: int, width: int) -> str | None:
    """The kind of finding, None for a polygon that can be drawn."""
    if type(polygon) is not list or not set(map(type, polygon)) <= NUMBERS:
        return "mask_values"
    if len(polygon) < 6 or len(polygon) % 2:
        return "mask_short"
    # Up to a whole image beyond the edge: such points are cut off, further ones are mistakes. Not a number fails both.
    xs, ys = polygon[::2], polygon[1::2]
    near = -width <= min(xs) and max(xs) <= 2 * width and -height <= min(ys) and max(ys) <= 2 * height
    return None if near and sum(polygon) < float("inf") else "mask_values"


def _check_run_lengths(value: dict[str, Any], height: int, width: int) -> str | None:
    """The kind of finding, None for run lengths that add up to the image."""
    size, counts = value.get("size"), value.get("counts")
    if type(size) is not list or set(map(type, size)) != {int} or size != [height, width]:
        return "mask_size"
    if isinstance(counts, list):
        usable = set(map(type, counts)) <= {int} and min(counts, default=-1) >= 0
        return None if usable and sum(counts) == height * width else "mask_counts"
    if not isinstance(counts, str):
        return "mask_counts"
    lengths = _read_counts(counts)
    usable = lengths is not None and lengths.min() >= 0 and lengths.sum() == height * width
    return None if usable else "mask_counts"


def _read_counts(text: str) -> np.ndarray | None:
    """The run lengths in COCO's compressed text, None if it is broken.

    Characters hold five bits each from 48 on, the lowest first, and a sixth that says whether the number goes on. From
    the fourth on, numbers are differences to the one before the last.
    """
    if not text or not text.isascii():
        return None
    codes = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) - 48
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - starts + 1
    if digits.max() > 7:  # no image has that many pixels
        return None
    place = np.arange(len(codes)) - np.repeat(starts, digits)
    lengths = np.add.reduceat((codes & 31) << 5 * place, starts)
    lengths -= np.where(codes[ends] & 16, 1 << 5 * digits, 0)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths
