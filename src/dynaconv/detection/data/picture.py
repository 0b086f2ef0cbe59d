"""A picture of annotated images: the quickest check of boxes, masks and labels."""

from __future__ import annotations

import logging
from pathlib import Path

from dynaconv.detection.data.annotations import CocoAnnotations
from dynaconv.detection.data.images import CocoImages
from dynaconv.detection.drawing import contact_sheet, draw_detections
from dynaconv.errors import DynaconvError, ImageError
from dynaconv.files import replacing

COLUMNS = 4
CELL = 320
"""Side of an image on the sheet, in pixels; smaller ones are enlarged to at most that."""
_logger = logging.getLogger(__name__)


def save_picture(annotations: CocoAnnotations, path: str | Path, count: int = 12) -> Path:
    """Draw some images of a split with their objects, always the same ones, beside each other.

    Args:
        annotations: checked.
        path: the PNG.
        count: of images; those that can not be read are left out.

    Raises:
        DynaconvError: if no image can be read.
        StorageError: if the system refuses to write.
    """
    images = CocoImages(annotations, masks=annotations.masks, limit=count)
    drawn = []
    for index in range(len(images)):
        try:
            image, target = images[index]
        except ImageError as error:
            _logger.warning("%s", error)
            continue
        objects = (target["boxes"], target["labels"].tolist(), None, target.get("masks"), annotations.classes)
        drawn.append(draw_detections(image, *objects, scale=max(1, CELL // max(image.size))))
    if not drawn:
        raise DynaconvError(f"none of {len(images)} images of {annotations.path} can be read; there is nothing to draw")
    sheet = contact_sheet(drawn, COLUMNS, cell=CELL).quantize(256)  # as good to look at, in a quarter of the bytes
    with replacing(Path(path)) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)
    return Path(path)
