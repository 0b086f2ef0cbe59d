"""A picture of annotated images: the quickest check of boxes, masks and labels."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynaconv.analysis.figures import new_figure, save_figure
from dynaconv.detection.data.annotations import CocoAnnotations
from dynaconv.detection.data.images import CocoImages
from dynaconv.detection.data.loading import vary
from dynaconv.errors import DynaconvError, ImageError, require

COLUMNS = 4
_logger = logging.getLogger(__name__)


def draw_objects(image: Any, target: dict[str, Any], classes: tuple[str, ...]) -> Tensor:
    """Draw the objects of an image: boxes with names, and masks where there are some.

    Args:
        image: PIL, of mode RGB.
        target: see :class:`CocoImages`.
        classes: names in the order of the labels.

    Returns:
        Shape ``(3, H, W)``, uint8.
    """
    utils, palette = require("torchvision.utils", "detection"), require("matplotlib", "train").colormaps["tab10"]
    pixels = (vary(image, target)[0] * 255).round().to(torch.uint8)
    labels = target["labels"].tolist()
    colours = [tuple(round(255 * value) for value in palette((label - 1) % 10)[:3]) for label in labels]
    if not labels:
        return pixels
    if "masks" in target:
        pixels = utils.draw_segmentation_masks(pixels, target["masks"].bool(), alpha=0.6, colors=colours)
    names = [classes[label - 1] for label in labels]
    return utils.draw_bounding_boxes(pixels, target["boxes"], names, colours, width=1 + max(pixels.shape) // 400)


def save_picture(annotations: CocoAnnotations, path: str | Path, *, masks: bool, count: int = 12) -> Path:
    """Draw some images of a split, always the same ones, beside each other.

    Args:
        annotations: checked.
        path: the PNG.
        masks: draw masks, too.
        count: of images; those that can not be read are left out.

    Raises:
        DynaconvError: if no image can be read.
    """
    images = CocoImages(annotations, masks=masks, limit=count)
    drawn = []
    for index in range(len(images)):
        try:
            drawn.append(draw_objects(*images[index], annotations.classes))
        except ImageError as error:
            _logger.warning("%s", error)
    if not drawn:
        raise DynaconvError(f"none of {len(images)} images of {annotations.path} can be read; there is nothing to draw")
    rows = math.ceil(len(drawn) / COLUMNS)
    figure = new_figure(3 * COLUMNS, 3 * rows)
    for place, pixels in enumerate(drawn, start=1):
        axes = figure.add_subplot(rows, COLUMNS, place)
        axes.imshow(pixels.permute(1, 2, 0).numpy())
        axes.axis("off")
    return save_figure(figure, path)
