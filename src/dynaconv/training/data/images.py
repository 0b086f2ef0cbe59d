"""The one place where image files are decoded: for training, evaluation and prediction alike.

Whatever the bytes are, :func:`load_image` gives an RGB image or raises :class:`~dynaconv.errors.ImageError`.
"""

from __future__ import annotations

import functools
import io
import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dynaconv.errors import ImageError, require

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Pillow's decoders that may run; others start foreign programs (EPS), or are nothing that people train on."""

ENDINGS = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2", ".avif"}
)
"""Endings of file names, in small letters, by which folders are searched; the format is read from the bytes."""


def load_image(source: str | Path | bytes | BinaryIO, name: str | None = None) -> Any:
    """Decode an image, the first frame if it moves.

    Transparency is dropped, CMYK and palettes are converted, 16 bits a channel become 8 by their upper half. EXIF's
    turning is left alone, as timm and torchvision do, with which published weights were trained.

    Args:
        source: path of a file, its bytes, or an open file.
        name: how to call it in an error; the path if None.

    Returns:
        A PIL image of mode RGB.

    Raises:
        ImageError: if there is no such file, it can not be opened, holds no image of :data:`FORMATS`, is damaged or cut
            short, has more pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` (89 million), or values beyond 16 bits.
    """
    return _read(source, name, _pixels)


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height of an image file, from its first bytes alone.

    Raises:
        ImageError: as :func:`load_image`, but for damage behind the first bytes.
    """
    return _read(path, None, lambda image: image.size)


def _read(source: str | Path | bytes | BinaryIO, name: str | None, take: Callable[[Any], Any]) -> Any:
    """What ``take`` makes of an opened image."""
    if isinstance(source, str | Path):
        name = str(source) if name is None else name
        try:
            if not stat.S_ISREG(os.stat(source).st_mode):  # noqa: PTH116  (a pipe or device would never end)
                raise ImageError(name, "it is a folder or device, not a file")
            with Path(source).open("rb") as file:
                return _open(file, name, take)
        except FileNotFoundError as error:
            raise ImageError(name, "there is no such file") from error
        except (OSError, ValueError) as error:
            if isinstance(error, ImageError):
                raise
            raise ImageError(name, _words(error)) from error
    if isinstance(source, bytes):
        source = io.BytesIO(source)
    return _open(source, name or "the image", take)


def _open(file: BinaryIO, name: str, take: Callable[[Any], Any]) -> Any:
    pillow = require("PIL.Image", "train")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on metadata that is damaged: the picture counts
        warnings.simplefilter("error", pillow.DecompressionBombWarning)
        try:
            with pillow.open(file, formats=_decoders()) as image:
                return take(image)
        except pillow.UnidentifiedImageError as error:
            empty = file.seekable() and file.seek(0, io.SEEK_END) == 0
            cause = "it is empty" if empty else f"none of {', '.join(FORMATS)}"
            raise ImageError(name, cause) from error
        except (pillow.DecompressionBombWarning, pillow.DecompressionBombError) as error:
            raise ImageError(name, f"more than {pillow.MAX_IMAGE_PIXELS:,} pixels") from error
        except Exception as error:  # damaged bytes lead decoders to any exception there is
            raise ImageError(name, _words(error)) from error


def _pixels(image: Any) -> Any:
    image.load()
    return _to_rgb(image)


def _to_rgb(image: Any) -> Any:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range; expected 8 or 16 bits a channel")
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion would make everything above 255 white.
        values = np.asarray(image)
        if values.size and not 0 <= values.min() <= values.max() <= 0xFFFF:
            raise ValueError("32-bit pixels have no known range; expected 8 or 16 bits a channel")
        image = require("PIL.Image", "train").fromarray((values >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


@functools.cache
def _decoders() -> tuple[str, ...]:
    """Those of :data:`FORMATS` that this build of Pillow has."""
    pillow = require("PIL.Image", "train")
    pillow.init()
    return tuple(name for name in FORMATS if name in pillow.OPEN)


def _words(error: Exception) -> str:
    """What an exception says, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
