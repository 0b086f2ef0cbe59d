"""From bytes that may be anything to the numbers that the network was trained on, with Pillow and numpy alone.

It is what `dynaconv predict` does, without PyTorch: a test compares the probabilities.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Pillow's decoders that may run; others start foreign programs (EPS), or are nothing that people upload."""
READABLE = f"an image ({', '.join(FORMATS)})"
LUMA = np.array((0.299, 0.587, 0.114), np.float32).reshape(3, 1, 1)
FILTERS = {name.lower(): value for name, value in Image.Resampling.__members__.items()}
LONGEST = 16
"""Times its width that an image is kept long: 1 x 100,000 pixels, resized to a shorter side of 236, would be 16 GB."""


class Refused(Exception):
    """A request that can not be served: status, what was wrong, and what was expected."""

    def __init__(self, status: int, error: str, expected: str) -> None:
        super().__init__(error)
        self.status, self.error, self.expected = status, error, expected


@dataclass(frozen=True)
class Preprocessing:
    """What an image goes through before the network sees it; checkpoints hold it, and exported files as metadata."""

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    interpolation: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Raises ValueError if something is missing or makes no sense; further keys are passed over."""
        names = tuple(cls.__dataclass_fields__)
        if missing := [name for name in names if name not in values]:
            raise ValueError(f"{', '.join(missing)} not in {dict(values)}; expected {', '.join(names)}")
        try:
            made = cls(
                int(values["image_size"]),
                tuple(map(float, values["mean"])),
                tuple(map(float, values["std"])),
                float(values["crop_pct"]),
                str(values["interpolation"]),
            )
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{dict(values)}: {error}; expected numbers, lists of them as mean and std, and as image_size the side "
                "of a square, which images are cropped to"
            ) from error
        if (
            made.image_size < 1
            or len(made.mean) not in (1, 3)
            or len(made.std) != len(made.mean)
            or min(made.std) <= 0
            or not 0 < made.crop_pct <= 1
            or made.interpolation not in FILTERS
        ):
            raise ValueError(
                f"{made}; expected an image_size of at least 1, one mean and std above 0 for gray or three for colour, "
                f"0 < crop_pct <= 1, and an interpolation of {', '.join(FILTERS)}"
            )
        return made


def decode(data: bytes, max_pixels: int) -> tuple[Image.Image, str]:
    """Decode an image of any kind to RGB; the first frame if it moves. Returns it with the name of its format.

    Transparency is dropped, palettes and CMYK are converted, 16 bits a channel become 8 by their upper half, and EXIF's
    turning is left alone: so the networks were trained.

    Raises Refused: 400 if it is none or is damaged or cut short, 413 if it has more pixels.
    """
    if not data:
        raise Refused(400, "the upload is empty", READABLE)
    try:
        with Image.open(io.BytesIO(data), formats=find_decoders()) as image:  # reads the first bytes only
            width, height = image.size
            if width * height > max_pixels:
                raise Refused(413, f"{width} x {height} pixels are too many", f"at most {max_pixels:,} pixels")
            name = image.format or "unknown"
            image.load()
            return _to_rgb(image), name
    except Refused:
        raise
    except UnidentifiedImageError:
        raise Refused(400, "these bytes are no image that can be read", READABLE) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Refused(413, "the image has too many pixels", f"at most {max_pixels:,} pixels") from None
    except Exception as error:  # damaged bytes lead decoders to any exception there is
        cause = " ".join(str(error).split()) or type(error).__name__
        raise Refused(400, f"the image is damaged or cut short: {cause}", READABLE) from error


def prepare(image: Image.Image, wanted: Preprocessing) -> np.ndarray:
    """Resize the shorter side, crop the centre, normalise: torchvision's and timm's evaluation, to the pixel.

    Returns shape (channels, image_size, image_size), float32.
    """
    image = _cut_strip(image)
    shorter = math.floor(wanted.image_size / wanted.crop_pct)
    width, height = image.size
    size = (shorter, shorter * height // width) if width <= height else (shorter * width // height, shorter)
    if image.size != size:
        image = image.resize(size, FILTERS[wanted.interpolation])
    # Python rounds halves to even, and so does the original.
    left, top = (round((length - wanted.image_size) / 2) for length in size)
    image = image.crop((left, top, left + wanted.image_size, top + wanted.image_size))
    pixels = np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255)
    if len(wanted.mean) == 1:
        pixels = (pixels * LUMA).sum(0, keepdims=True)
    mean, std = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (wanted.mean, wanted.std))
    return (pixels - mean) / std


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; expected 8 or 16 bits a channel")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion would make everything above 255 white.
        values = np.asarray(image)
        if values.size and not 0 <= values.min() <= values.max() <= 0xFFFF:
            raise ValueError("32-bit pixels have no known range; expected 8 or 16 bits a channel")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _cut_strip(image: Image.Image) -> Image.Image:
    """The middle of an image longer than LONGEST times its width: the crop keeps no more."""
    width, height = image.size
    longest = LONGEST * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, width - longest) // 2, max(0, height - longest) // 2
    return image.crop((left, top, left + min(width, longest), top + min(height, longest)))


@functools.cache
def find_decoders() -> tuple[str, ...]:
    """Those of FORMATS that this build of Pillow has; it takes Pillow a moment, once."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
