"""A small data set in COCO's layout from packaged images: handwritten digits on photographs, with exact masks.

Digits are those of ``mnist5k``, photographs the two that scikit-learn ships, as in ``scenes``; training and validation
see different digits and disjoint parts of the photographs. Strokes are thickened a little and brighter or darker than
what lies below them, so that a small detector can learn them, and their masks at 28x28 points, in minutes.
Every image is a function of (seed, split, number).
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dynaconv.errors import DynaconvError, require
from dynaconv.files import explained, sync
from dynaconv.training.data.augment import LUMA
from dynaconv.training.data.embedded import load_mnist5k
from dynaconv.training.data.scenes import read_photos
from dynaconv.training.fields import check_fields, require_that

SETTINGS_FILE = "digits.json"
VERSION = 1
"""Of the images that settings stand for."""
EMPTY_SHARE = 0.05
"""Images without digits."""
MOST_DIGITS = 8
SHORTER_SIDE = (0.6, 1.0)
"""Smallest and largest shorter side of an image, relative to its longer side."""
DIGIT_HEIGHT = (0.16, 0.75)
"""Smallest height of a digit relative to the image's longer side, largest relative to its shorter side."""
TURN_DEGREES = 15.0
SHEAR = 0.2
STRETCH = (0.8, 1.25)
"""Smallest and largest factor of a digit's width."""
CONTRAST = (0.35, 0.7)
"""Smallest and largest difference in brightness between a digit and what lies below it, of 1."""
TINT = 0.3
"""Largest deviation of a colour channel of the digit from its gray."""
LEAST_VISIBLE = 0.7
"""Share of a digit that later ones leave uncovered."""
MOST_SHARED = 0.25
"""Share of a digit's box that may lie in another's."""
ATTEMPTS = 20
"""Places tried for a digit before it is given up."""
CROP = (0.5, 1.5)
"""Smallest and largest side of the crop of a photograph, relative to the image's."""

Place = tuple[slice, slice]


@dataclass(frozen=True, kw_only=True)
class DigitsConfig:
    """What a set of digits depends on.

    Args:
        train: training images.
        val: validation images.
        size: longer side of the images, in pixels.
        seed: of everything random.
    """

    train: int = 1000
    val: int = 200
    size: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, "")
        require_that(self.train > 0, "train", self.train, "at least 1 image")
        require_that(self.val > 0, "val", self.val, "at least 1 image")
        require_that(64 <= self.size <= 2048, "size", self.size, "64 to 2048 pixels")
        require_that(self.seed >= 0, "seed", self.seed, "at least 0")


@dataclass(frozen=True)
class Digit:
    """A digit in an image.

    Args:
        label: 0 to 9.
        mask: what can be seen of it, shape ``(H, W)``, bool.
    """

    label: int
    mask: np.ndarray


@dataclass(frozen=True)
class DigitScenes:
    """The material of a split.

    Args:
        digits: shape ``(N, 28, 28)``, uint8.
        labels: shape ``(N,)``.
        photos: shape ``(P, H, W, 3)``, uint8.
    """

    digits: np.ndarray
    labels: np.ndarray
    photos: np.ndarray

    def draw(self, size: int, draw: np.random.Generator) -> tuple[np.ndarray, list[Digit]]:
        """Make an image.

        Args:
            size: longer side, in pixels.
            draw: everything random.

        Returns:
            Pixels ``(H, W, 3)`` uint8, and its digits.
        """
        shorter = round(size * draw.uniform(*SHORTER_SIDE))
        height, width = (size, shorter) if draw.random() < 0.5 else (shorter, size)
        pixels = self._ground(height, width, draw)
        count = 0 if draw.random() < EMPTY_SHARE else int(draw.integers(1, MOST_DIGITS + 1))
        placed: list[_Placed] = []
        for _ in range(count):
            number = int(draw.integers(len(self.digits)))
            lowest, highest = DIGIT_HEIGHT[0] * size, DIGIT_HEIGHT[1] * shorter
            ink = _shape(self.digits[number], lowest * (highest / lowest) ** draw.random(), width, draw)
            place = self._place(ink, placed, (height, width), draw)
            if place is None:
                continue
            alpha = np.zeros((height, width), dtype=np.uint8)
            alpha[place] = ink
            pixels, mask = _paint(pixels, alpha, draw), alpha >= 128
            placed = [before._replace(seen=before.seen & ~mask) for before in placed]
            placed.append(_Placed(int(self.labels[number]), mask, int(mask.sum()), place))
        return np.rint(pixels).astype(np.uint8), [Digit(digit.label, digit.seen) for digit in placed]

    def _ground(self, height: int, width: int, draw: np.random.Generator) -> np.ndarray:
        """A crop of a photograph, shape ``(height, width, 3)``, float64, 0 to 255."""
        photo = self.photos[draw.integers(len(self.photos))]
        scale = min(draw.uniform(*CROP), photo.shape[0] / height, photo.shape[1] / width)
        high, wide = max(1, int(scale * height)), max(1, int(scale * width))
        top, left = (int(draw.integers(most + 1)) for most in (photo.shape[0] - high, photo.shape[1] - wide))
        crop = photo[top : top + high, left : left + wide]
        if draw.random() < 0.5:
            crop = crop[:, ::-1]
        pillow = require("PIL.Image", "train")
        image = pillow.fromarray(np.ascontiguousarray(crop)).resize((width, height), pillow.Resampling.BICUBIC)
        return np.asarray(image, dtype=np.float64)

    def _place(
        self, ink: np.ndarray, placed: list[_Placed], size: tuple[int, int], draw: np.random.Generator
    ) -> Place | None:
        """A place where enough of the digits below stays visible; None if there seems to be none."""
        high, wide = ink.shape
        mask = ink >= 128
        for _ in range(ATTEMPTS):
            top, left = int(draw.integers(size[0] - high + 1)), int(draw.integers(size[1] - wide + 1))
            place = slice(top, top + high), slice(left, left + wide)
            if all(before.leaves_room(place, mask) for before in placed):
                return place
        return None


class _Placed(NamedTuple):
    label: int
    seen: np.ndarray
    whole: int
    place: Place

    def leaves_room(self, place: Place, mask: np.ndarray) -> bool:
        """Whether a further digit would cover little of this one, and of its box."""
        rows, columns = (
            max(0, min(a.stop, b.stop) - max(a.start, b.start)) for a, b in zip(self.place, place, strict=True)
        )
        smaller = min(_area(self.place), _area(place))
        uncovered = self.seen.sum() - (self.seen[place] & mask).sum()
        return rows * columns <= MOST_SHARED * smaller and uncovered >= LEAST_VISIBLE * self.whole


def _area(place: Place) -> int:
    return (place[0].stop - place[0].start) * (place[1].stop - place[1].start)


def _shape(digit: np.ndarray, height: float, most_width: int, draw: np.random.Generator) -> np.ndarray:
    """A digit, thickened, turned, sheared and scaled: how much ink lies on every pixel, 0 to 255.

    Args:
        digit: shape ``(28, 28)``.
        height: wanted, in pixels.
        most_width: in pixels.
        draw: everything random.
    """
    pillow, filters = require("PIL.Image", "train"), require("PIL.ImageFilter", "train")
    side = 4 * digit.shape[0]
    image = pillow.fromarray(digit).resize((side, side), pillow.Resampling.BICUBIC)
    image = image.filter(filters.MaxFilter(3))  # half a pixel of the 28, at every edge a quarter
    angle, shear = np.deg2rad(draw.uniform(-TURN_DEGREES, TURN_DEGREES)), draw.uniform(-SHEAR, SHEAR)
    cos, sin, middle = np.cos(angle), np.sin(angle), side / 2
    a, b, c, d = cos, shear * cos - sin, sin, shear * sin + cos
    offsets = (middle - a * middle - b * middle, middle - c * middle - d * middle)
    image = image.transform(
        (side, side), pillow.Transform.AFFINE, (a, b, offsets[0], c, d, offsets[1]), pillow.Resampling.BICUBIC
    )
    ink = np.asarray(image)
    rows, columns = (np.flatnonzero((ink >= 128).any(axis)) for axis in (1, 0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    wide = height * (box[2] - box[0]) / (box[3] - box[1]) * draw.uniform(*STRETCH)
    size = (min(most_width, max(4, round(wide))), round(height))
    return np.asarray(image.resize(size, pillow.Resampling.BICUBIC, box=tuple(map(float, box))))


def _paint(pixels: np.ndarray, alpha: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Lay ink of one colour, brighter or darker than what lies below, on an image of 0 to 255."""
    share = alpha[..., None] / 255
    below = (pixels * share).sum((0, 1)) / share.sum() / 255
    luma = below @ np.array(LUMA)
    contrast = draw.uniform(*CONTRAST)
    gray = luma + contrast if luma < 0.5 else luma - contrast
    tint = draw.uniform(-TINT, TINT, 3)
    colour = np.clip(gray + tint - tint @ np.array(LUMA), 0, 1)
    return pixels + share * (255 * colour - pixels)


def digit_scenes() -> dict[str, DigitScenes]:
    """The material of ``train`` and ``val``, which share nothing."""
    source = load_mnist5k()
    return {
        split: DigitScenes(images.images[:, 0].numpy(), images.labels.numpy(), photos)
        for split, images, photos in zip(("train", "val"), (source.train, source.val), read_photos(), strict=True)
    }


def make_digits(folder: str | Path, config: DigitsConfig, advance: Callable[[], None] = lambda: None) -> bool:
    """Write a set: ``train2017/``, ``val2017/``, ``annotations/`` and ``digits.json``; all of it or nothing.

    Args:
        folder: must not be there yet, or be empty, or hold the same set.
        config: what the set is.
        advance: called after every image.

    Returns:
        Whether it was made; False if it was there already.

    Raises:
        DynaconvError: if the folder holds something else.
        StorageError: if the system refuses to write.
    """
    folder = Path(folder).expanduser()
    if _is_there(folder, config):
        return False
    temporary = folder.absolute().with_name(f".{folder.absolute().name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with explained(folder):
            temporary.mkdir(parents=True)
            for index, (split, scenes) in enumerate(digit_scenes().items()):
                _write_split(temporary, split, index, scenes, config, advance)
            (temporary / SETTINGS_FILE).write_text(json.dumps(_settings(config), indent=1) + "\n", encoding="utf-8")
            sync(temporary)
            temporary.replace(folder)
    except OSError:
        if folder.is_dir() and _is_there(folder, config):  # another process was faster
            return False
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def _settings(config: DigitsConfig) -> dict[str, Any]:
    return {"version": VERSION, **asdict(config)}


def _is_there(folder: Path, config: DigitsConfig) -> bool:
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DynaconvError(f"{folder} holds something else than digits; expected a new or an empty folder") from None
    if found != _settings(config):
        raise DynaconvError(
            f"{folder} holds digits of other settings, {json.dumps(found)} instead of {json.dumps(_settings(config))}; "
            "take another folder, or delete this one"
        )
    return True


def _write_split(
    root: Path, split: str, index: int, scenes: DigitScenes, config: DigitsConfig, advance: Callable[[], None]
) -> None:
    pillow = require("PIL.Image", "train")
    folder = root / f"{split}2017"
    folder.mkdir()
    content: dict[str, Any] = {
        "info": {"description": "handwritten digits on photographs, by dynaconv", **_settings(config)},
        "images": [],
        "annotations": [],
        "categories": [{"id": digit + 1, "name": str(digit), "supercategory": "digit"} for digit in range(10)],
    }
    for number in range(1, getattr(config, split) + 1):
        pixels, digits = scenes.draw(config.size, np.random.default_rng([config.seed, index, number]))
        name = f"{number:012}.jpg"
        pillow.fromarray(pixels).save(folder / name, quality=92)
        height, width = pixels.shape[:2]
        content["images"].append({"id": number, "file_name": name, "height": height, "width": width})
        for digit in digits:
            key = len(content["annotations"]) + 1
            content["annotations"].append({"id": key, "image_id": number, **_annotation(digit)})
        advance()
    path = root / "annotations" / f"instances_{split}2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


def _annotation(digit: Digit) -> dict[str, Any]:
    coco = require("pycocotools.mask", "detection")
    rle = coco.encode(np.asfortranarray(digit.mask.astype(np.uint8)))
    return {
        "category_id": digit.label + 1,
        "segmentation": {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")},
        "bbox": [float(value) for value in coco.toBbox(rle)],
        "area": int(coco.area(rle)),
        "iscrowd": 0,
    }
