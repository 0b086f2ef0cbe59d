"""Images with their objects, by number: decoded and checked when they are asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dynaconv.detection.data.annotations import CocoAnnotations, without_collection
from dynaconv.detection.data.entries import clip_box
from dynaconv.detection.data.masks import to_pixels
from dynaconv.errors import DynaconvError, ImageError
from dynaconv.training.data.embedded import SPLIT_SEED
from dynaconv.training.data.images import load_image


class _Record(NamedTuple):
    """What is kept of an image, in JSON's types alone."""

    name: str
    image_id: int
    height: int
    width: int
    boxes: list[tuple[float, float, float, float]]
    labels: list[int]
    masks: list[Any]


class CocoImages:
    """A split's images by number: PIL image of mode RGB and target.

    A target is ``boxes`` (N, 4) float32 (left, top, right, bottom), ``labels`` (N,) int64 from 1, ``image_id`` int,
    ``size`` (height, width), and with masks ``masks`` (N, height, width) uint8. Crowds are left out.

    Args:
        annotations: checked.
        masks: give masks.
        empty: keep images without objects.
        limit: keep only this many images, always the same ones for a number.

    Raises:
        DynaconvError: if no image is left.
    """

    def __init__(
        self, annotations: CocoAnnotations, *, masks: bool, empty: bool = True, limit: int | None = None
    ) -> None:
        self.folder, self.masks = annotations.images_folder, masks
        with without_collection():
            records = _records(annotations, masks)
        if not empty:
            records = [record for record in records if record.labels]
        if limit is not None:
            chosen = np.random.default_rng(SPLIT_SEED).permutation(len(records))[:limit]
            records = [records[i] for i in sorted(chosen.tolist())]
        if not records:
            raise DynaconvError(f"{annotations.path} has no image with objects to train on; expected at least one")
        self.wide = np.array([record.width >= record.height for record in records])
        # One block of bytes: a forked worker that touched millions of small objects would copy their memory.
        packed = [json.dumps(record, separators=(",", ":")).encode() for record in records]
        self._ends = np.cumsum([len(part) for part in packed])
        self._packed = np.frombuffer(b"".join(packed), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    def record(self, index: int) -> _Record:
        """What is kept of an image."""
        begin = self._ends[index - 1] if index else 0
        return _Record(*json.loads(self._packed[begin : self._ends[index]].tobytes()))

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        """An image and its target.

        Raises:
            ImageError: if the file can not be read, or has another size than the annotations say.
        """
        record = self.record(index)
        path = Path(self.folder) / record.name
        image = load_image(path)
        if image.size != (record.width, record.height):
            raise ImageError(str(path), size_differs(image.size, (record.width, record.height)))
        boxes = torch.tensor(record.boxes, dtype=torch.float32).view(-1, 4)
        labels = torch.tensor(record.labels, dtype=torch.int64)
        target: dict[str, Any] = {"boxes": boxes, "labels": labels}
        if self.masks:
            masks = torch.from_numpy(to_pixels(record.masks, record.height, record.width))
            drawn = masks.flatten(1).any(1).bool()  # a thin polygon may hold no pixel's centre
            target = {"boxes": boxes[drawn], "labels": labels[drawn], "masks": masks[drawn]}
        return image, target | {"image_id": record.image_id, "size": (record.height, record.width)}


def size_differs(found: tuple[int, int], expected: tuple[int, int]) -> str:
    """What to say of an image whose size is not the one in the annotations.

    Args:
        found: width and height of the file.
        expected: those of the annotations.
    """
    text = "it is {}x{} pixels, and {}x{} in the annotations".format(*found, *expected)
    return text + "; turned by EXIF?" * (found == expected[::-1])


def _records(annotations: CocoAnnotations, masks: bool) -> list[_Record]:
    labels = {category: number for number, category in enumerate(annotations.category_ids, start=1)}
    records = {
        image["id"]: _Record(image["file_name"], image["id"], image["height"], image["width"], [], [], [])
        for image in annotations.content["images"]
    }
    for entry in annotations.content["annotations"]:
        if entry["iscrowd"]:
            continue
        record = records[entry["image_id"]]
        record.boxes.append(clip_box(entry["bbox"], record.height, record.width))
        record.labels.append(labels[entry["category_id"]])
        if masks:
            record.masks.append(entry["segmentation"])
    return list(records.values())
