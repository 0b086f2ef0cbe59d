"""Small data sets in COCO's format, drawn from a seed: images of several shapes, every form of mask, a crowd."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as coco
from PIL import Image

CATEGORIES = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 90, "name": "cow"}]
"""Not in order, and with gaps: labels are dog 1, cat 2, cow 3."""


def make_content(images: int = 6, seed: int = 0) -> dict[str, Any]:
    """Images of three shapes with 0, 1, 2, 3, ... objects; masks are polygons and both kinds of RLE in turn."""
    draw = np.random.default_rng(seed)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": copy.deepcopy(CATEGORIES)}
    for number in range(images):
        height, width = [(30, 40), (40, 30), (36, 36)][number % 3]
        key = 100 + 3 * number
        content["images"].append({"id": key, "file_name": f"{number}.png", "height": height, "width": width})
        for index in range(number % 4):
            content["annotations"].append(
                make_object(len(content["annotations"]) + 1, key, (height, width), index, draw)
            )
    return content


def make_object(number: int, image: int, size: tuple[int, int], form: int, draw: np.random.Generator) -> dict[str, Any]:
    height, width = size
    x, y = draw.integers(0, width - 12), draw.integers(0, height - 12)
    w, h = draw.integers(6, 12, 2)
    corners = [[float(v) for v in (x, y, x + w, y, x + w, y + h, x, y + h)]]
    rle = coco.merge(coco.frPyObjects(corners, height, width))
    flat = coco.decode(rle).flatten(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    compressed = {"size": [height, width], "counts": rle["counts"].decode()}
    mask = [corners, compressed, {"size": [height, width], "counts": counts}][form % 3]
    return {
        "id": number, "image_id": image, "category_id": CATEGORIES[number % 3]["id"], "iscrowd": 0,
        "bbox": [float(v) for v in (x, y, w, h)], "area": float(w * h), "segmentation": mask,
    }  # fmt: skip


def write_set(root: Path, train: dict[str, Any] | None = None, val: dict[str, Any] | None = None) -> Path:
    """COCO's layout; a pixel's red is its column, green its row, blue the image's number."""
    for split, content in (("train", train or make_content()), ("val", val or make_content(5, seed=1))):
        folder = root / f"{split}2017"
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(content["images"]):
            rows, columns = np.mgrid[: image["height"], : image["width"]]
            pixels = np.stack([columns, rows, np.full_like(rows, number)], axis=-1).astype(np.uint8)
            Image.fromarray(pixels).save(folder / image["file_name"])
        write_json(root / "annotations" / f"instances_{split}2017.json", content)
    return root


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path
