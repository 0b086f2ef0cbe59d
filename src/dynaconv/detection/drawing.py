"""Boxes, names and masks on images, readable on dark and on bright pixels; several images as one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dynaconv.errors import DynaconvError, require

Color = tuple[int, int, int]

PALETTE: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Colours that people with any colour vision tell apart (Okabe and Ito, 2008), but for black."""
SHADES = (0.0, 0.5, -0.45)
"""With more classes the palette comes again, mixed with white or black by these shares."""
MASK_OPACITY = 0.45
SMALLEST_TEXT = 10
"""Height of the letters in pixels; on large images they grow along."""
TEXT_SHARE = 1 / 45
"""Height of the letters, of the image's longer side."""
PADDING = 2
"""Around a name, in pixels."""
WHITE: Color = (255, 255, 255)
BLACK: Color = (0, 0, 0)


def class_color(label: int) -> Color:
    """The colour of a class.

    Args:
        label: of the class, from 1 on.
    """
    turn, place = divmod(label - 1, len(PALETTE))
    share = SHADES[turn % len(SHADES)]
    other = 255 if share > 0 else 0
    red, green, blue = (round(value + abs(share) * (other - value)) for value in PALETTE[place])
    return red, green, blue


def draw_detections(
    image: Any,
    boxes: Any,
    labels: Sequence[int],
    scores: Sequence[float] | None = None,
    masks: Any = None,
    classes: Sequence[str] = (),
    *,
    scale: int = 1,
) -> Any:
    """Draw what was found in an image, or what is to be found.

    Args:
        image: PIL, any mode; it is not changed.
        boxes: x1, y1, x2, y2 in pixels, shape ``(N, 4)``, a tensor, an array or lists.
        labels: class of each box, from 1 on; it chooses the colour.
        scores: of each box, 0 to 1; names stand alone if None.
        masks: booleans, shape ``(N, H, W)`` (with ``(N, 1, H, W)``, too), or None.
        classes: names, that of label 1 first; classes without one are called by their number.
        scale: whole number by which the image is enlarged before, so that names are readable on small ones.

    Returns:
        A PIL image of mode RGB; without boxes the plain image.

    Raises:
        DynaconvError: if the numbers of boxes, labels, scores and masks differ, or masks have another size.
    """
    boxes, masks = np.asarray(boxes, dtype=float).reshape(-1, 4), _as_masks(masks)
    labels = [int(label) for label in labels]
    counts = {"labels": len(labels)}
    counts |= {} if scores is None else {"scores": len(scores)}
    counts |= {} if masks is None else {"masks": len(masks)}
    if any(count != len(boxes) for count in counts.values()):
        listed = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise DynaconvError(f"{len(boxes)} boxes came with {listed}; expected one of each for every box")
    picture = image.convert("RGB")
    if masks is not None and len(masks) and masks.shape[1:] != (picture.height, picture.width):
        raise DynaconvError(
            f"masks are {masks.shape[2]}x{masks.shape[1]} pixels and the image {picture.width}x{picture.height}; "
            "expected masks of the image's size"
        )
    if scale != 1:
        picture = picture.resize((picture.width * scale, picture.height * scale))
        boxes = boxes * scale
        masks = None if masks is None else masks.repeat(scale, axis=1).repeat(scale, axis=2)
    if not len(boxes):
        return picture
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(-areas, kind="stable").tolist()  # small objects lie on top of large ones
    size = max(SMALLEST_TEXT, round(TEXT_SHARE * max(picture.size)))
    if masks is not None:
        picture = _paint_masks(picture, [(masks[i], class_color(labels[i])) for i in order])
    pen = require("PIL.ImageDraw", "train").Draw(picture)
    width = max(1, round(size / 6))
    for i in order:
        _outline(pen, boxes[i], class_color(labels[i]), width)
    texts = [_text(label, classes, None if scores is None else scores[i]) for i, label in enumerate(labels)]
    best_first = range(len(labels)) if scores is None else np.argsort([-float(s) for s in scores], kind="stable")
    _write(pen, picture.size, [(texts[i], boxes[i], class_color(labels[i])) for i in best_first], size)
    return picture


def contact_sheet(images: Sequence[Any], columns: int, titles: Sequence[str] = (), *, cell: int = 480) -> Any:
    """Several images side by side, each with a title above.

    Args:
        images: PIL, row by row.
        columns: of the sheet.
        titles: one an image, or none.
        cell: longest side of an image on the sheet, in pixels; larger ones are made smaller.

    Raises:
        DynaconvError: without images, or with another number of titles.
    """
    if not images or columns < 1 or (titles and len(titles) != len(images)):
        raise DynaconvError(
            f"{len(images)} images, {columns} columns, {len(titles)} titles; expected at least one image and column, "
            "and a title for every image or none"
        )
    new = require("PIL.Image", "train").new
    shown = [image.convert("RGB") for image in images]
    for image in shown:
        image.thumbnail((cell, cell))
    font, gap, head = _font(16), 8, 24 if titles else 0
    width, height = max(image.width for image in shown), max(image.height for image in shown)
    columns, rows = min(columns, len(shown)), -(-len(shown) // columns)
    sheet = new("RGB", (gap + columns * (width + gap), gap + rows * (head + height + gap)), WHITE)
    pen = require("PIL.ImageDraw", "train").Draw(sheet)
    for number, image in enumerate(shown):
        row, column = divmod(number, columns)
        left, top = gap + column * (width + gap), gap + row * (head + height + gap)
        if titles:
            pen.text((left + width / 2, top + head / 2), titles[number], fill=BLACK, font=font, anchor="mm")
        sheet.paste(image, (left + (width - image.width) // 2, top + head))
    return sheet


def _as_masks(masks: Any) -> np.ndarray | None:
    if masks is None:
        return None
    array = np.asarray(masks)
    return (array[:, 0] if array.ndim == 4 else array).astype(bool)


def _paint_masks(picture: Any, painted: Sequence[tuple[np.ndarray, Color]]) -> Any:
    """Tint the pixels of masks, and trace their rims."""
    pixels = np.asarray(picture, dtype=np.float32).copy()
    for mask, color in painted:
        pixels[mask] += MASK_OPACITY * (np.asarray(color, dtype=np.float32) - pixels[mask])
    for mask, color in painted:
        pixels[_rim(mask)] = color
    return require("PIL.Image", "train").fromarray(pixels.round().astype(np.uint8))


def _rim(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask that have a neighbour outside of it."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def _outline(pen: Any, box: np.ndarray, color: Color, width: int) -> None:
    """A rectangle in the class's colour, between two thin lines that show on pixels of the same colour."""
    x1, y1, x2, y2 = (math.floor(value) for value in box)
    x2, y2 = max(x1, x2), max(y1, y2)
    halo = _contrast(color)
    pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=halo, width=width + 2)
    pen.rectangle((x1, y1, x2, y2), outline=color, width=width)


def _write(pen: Any, size: tuple[int, int], names: Sequence[tuple[str, np.ndarray, Color]], height: int) -> None:
    """Write names where they cover no other name, if there is such a place, the first names first."""
    font = _font(height)
    taken: list[tuple[float, float, float, float]] = []
    for text, box, color in names:
        left, top, right, bottom = font.getbbox(text)
        wide, high = right - left + 2 * PADDING, bottom - top + 2 * PADDING
        places = [_inside(place, wide, high, size) for place in _places(box, wide, high)]
        # A place that covers nothing; else the one that covers least.
        place = min(places, key=lambda place: sum(_overlap(place, other) for other in taken))
        taken.append(place)
        pen.rectangle(place, fill=color)
        pen.text((place[0] + PADDING - left, place[1] + PADDING - top), text, fill=_contrast(color), font=font)


def _places(box: np.ndarray, wide: float, high: float) -> list[tuple[float, float]]:
    """Corners where a name may begin, the best first: above the box, in it, below it, at its right side."""
    x1, y1, x2, y2 = (float(value) for value in box)
    return [(x1, y1 - high), (x1, y1), (x1, y2), (x2 - wide, y1 - high), (x2 - wide, y2), (x1, y2 - high), (x2, y1)]


def _inside(
    place: tuple[float, float], wide: float, high: float, size: tuple[int, int]
) -> tuple[float, float, float, float]:
    x, y = (
        max(0.0, min(value, limit - 1 - extent)) for value, extent, limit in zip(place, (wide, high), size, strict=True)
    )
    return x, y, x + wide, y + high


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def _text(label: int, classes: Sequence[str], score: float | None) -> str:
    name = classes[label - 1] if 1 <= label <= len(classes) else str(label)
    return name if score is None else f"{name}  {float(score):.0%}"


def _contrast(color: Color) -> Color:
    """Black or white, whichever is read more easily on the colour."""
    red, green, blue = color
    return BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else WHITE


def _font(height: int) -> Any:
    return require("PIL.ImageFont", "train").load_default(height)
