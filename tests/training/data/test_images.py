"""One function decodes images: it gives RGB or an ImageError, whatever the bytes."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dynaconv.errors import DynaconvError, ImageError
from dynaconv.training.config import AugmentConfig
from dynaconv.training.data.augment import eval_transform, train_transform
from dynaconv.training.data.images import load_image

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def frames(kind: str) -> bytes:
    first, second = (Image.fromarray(PIXELS // part) for part in (1, 2))
    return encode(first, kind, save_all=True, append_images=[second], loop=0)


KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
REAL = {kind: encode(Image.fromarray(PIXELS), kind) for kind in KINDS}
REAL |= {"moving GIF": frames("GIF"), "moving WEBP": frames("WEBP"), "TIFF pages": frames("TIFF")}
HEADERS = [
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF\x40\0\0\0WEBPVP8", b"II*\0", b"MM\0*", b"BM", b"P6 ",
    b"P2 ", b"\0\0\0\x0cjP  \r\n\x87\n", b"\0\0\0\x20ftypavif",
]  # fmt: skip


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it is huge, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", REAL)
def test_formats(kind):
    image = load_image(REAL[kind])
    assert (image.mode, image.size) == ("RGB", (7, 9))
    if kind in ("PNG", "BMP", "TIFF", "PPM", "JPEG2000"):
        assert (np.asarray(image) == PIXELS).all()


def test_sixteen_bits_keep_their_upper_half():
    gray = PIXELS[..., 0].astype(np.uint16) * 256 + (255 - PIXELS[..., 0])  # the lower half is another
    for image in (Image.fromarray(gray), Image.fromarray(gray.astype(np.int32))):
        kind = "PNG" if image.mode.startswith("I;16") else "TIFF"
        found = np.asarray(load_image(encode(image, kind)))
        assert (found == PIXELS[..., :1]).all()


def test_palettes_and_transparency_and_cmyk():
    palette = Image.fromarray(PIXELS).quantize(8)
    plain = load_image(encode(palette, "PNG"))
    clear = load_image(encode(palette, "PNG", transparency=bytes([0, 128, 255])))
    assert (np.asarray(plain) == np.asarray(clear)).all()  # and no warning
    rgba = Image.fromarray(np.dstack([PIXELS, np.zeros((9, 7), np.uint8)]))
    assert (np.asarray(load_image(encode(rgba, "PNG"))) == PIXELS).all()
    white = Image.new("CMYK", (8, 8), (0, 0, 0, 0))
    assert np.asarray(load_image(encode(white, "JPEG"))).min() > 250


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (30000, 1), (2, 9000)])
def test_odd_shapes_are_images(size):
    image = load_image(encode(Image.new("RGB", size, (10, 20, 30)), "PNG"))
    mean, std = (0.5,) * 3, (0.5,) * 3
    for transform in (
        eval_transform(32, mean, std, 0.9, "bicubic"),
        train_transform(AugmentConfig(rand_augment="rand-m9-mstd0.5-inc1"), 32, mean, std),
        train_transform(AugmentConfig(), 32, mean, std),
    ):
        assert transform(image).shape == (3, 32, 32)


def test_only_strips_are_cut_before_evaluation():
    ordinary = eval_transform(8, (0.0,), (1.0,), 1.0, "bilinear")
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).repeat(20)[None].repeat(10, 0))  # 10 x 5120
    middle = ramp.crop((2555, 0, 2565, 10)).resize((8, 8), Image.Resampling.BILINEAR).convert("RGB")
    assert abs(ordinary(ramp).mean() - np.asarray(middle).mean() / 255) < 0.01


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "it is empty"),
        (b"no image", "none of JPEG, PNG, "),
        (REAL["JPEG"][:200], "Truncated File Read"),
        (REAL["PNG"][:60], ""),
        (bomb(60000, 60000), "more than 89,478,485 pixels"),
        (bomb(10000, 9000), "more than 89,478,485 pixels"),
        (encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating-point pixels"),
        (encode(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"), "32-bit pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of JPEG"),
    ],
)
def test_what_is_no_image(data, cause):
    with pytest.raises(ImageError, match=rf"^it can not be read as an image: .*{cause}"):
        load_image(data, "it")


def test_paths_that_are_none(tmp_path):
    with pytest.raises(ImageError, match=r"none.png can not be read as an image: there is no such file"):
        load_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="a folder or device"):
        load_image(str(tmp_path))
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    with pytest.raises(ImageError, match="a folder or device"):
        load_image(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("link.png")
    with pytest.raises(ImageError, match=r"Too many levels of symbolic links"):
        load_image(tmp_path / "link.png")
    with pytest.raises(ImageError, match="null"):
        load_image("a\0b")


def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(REAL["PNG"])
    path.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # root may read everything
            os.seteuid(65534)
        with pytest.raises(ImageError, match="Permission denied"):
            load_image(path)
    finally:
        os.seteuid(user)


def is_told(data: bytes) -> None:
    try:
        image = load_image(data)
    except ImageError as error:
        text = str(error)
        assert text.startswith("the image can not be read as an image: ")
        assert "\n" not in text
    else:
        assert image.mode == "RGB"
        assert image.size[0] * image.size[1] <= Image.MAX_IMAGE_PIXELS


FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@FUZZ
@given(st.binary(max_size=400))
def test_any_bytes(data):
    is_told(data)


@FUZZ
@given(st.sampled_from(sorted(REAL)), st.data())
def test_damaged_images(kind, data):
    """Cut short, overwritten anywhere, above all in the header, or with bytes put in or taken out."""
    whole = bytearray(REAL[kind])
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.one_of(st.integers(0, min(64, len(whole) - 1)), st.integers(0, len(whole) - 1)))
        new = data.draw(st.binary(max_size=8))
        whole[at : at + data.draw(st.sampled_from([0, len(new), len(new), 9]))] = new
        whole = whole or bytearray(1)
    is_told(bytes(whole[: data.draw(st.integers(0, len(whole)))] if data.draw(st.booleans()) else whole))


@FUZZ
@given(st.sampled_from(HEADERS), st.binary(max_size=200))
def test_any_bytes_behind_a_header(header, data):
    is_told(header + data)


def test_errors_are_the_librarys():
    assert issubclass(ImageError, DynaconvError)
    import pickle

    error = pickle.loads(pickle.dumps(ImageError("a", "b")))
    assert (error.name, error.cause, str(error)) == ("a", "b", "a can not be read as an image: b")
