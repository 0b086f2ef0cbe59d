"""The service sees an image as `dynaconv predict` does, whatever its bytes are."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dynaconv.errors import ImageError
from dynaconv.training.data.augment import eval_transform
from dynaconv.training.data.images import FORMATS, load_image
from tests.examples.serving import PREPROCESSING, encoded, picture, serve

decode, prepare, Refused, Preprocessing = (
    getattr(serve.images, name) for name in ("decode", "prepare", "Refused", "Preprocessing")
)
ENOUGH = 10_000_000
JPEG, PNG = encoded(picture(), "JPEG"), encoded(picture())
PROGRESSIVE = encoded(picture(40, 40), "JPEG", progressive=True)


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    return encoded(picture(), "JPEG", exif=exif)


def with_text(text: bytes) -> bytes:
    chunk = b"tEXt" + text
    return PNG[:33] + struct.pack(">I", len(text)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + PNG[33:]


KINDS = {
    "jpeg": JPEG,
    "progressive": PROGRESSIVE,
    "cmyk": encoded(picture(mode="CMYK"), "JPEG"),
    "turned by exif": rotated(),
    "png": PNG,
    "gray": encoded(picture(mode="L")),
    "one bit": encoded(picture(mode="1")),
    "alpha": encoded(picture(mode="RGBA")),
    "gray and alpha": encoded(picture(mode="LA")),
    "palette": encoded(picture(mode="P")),
    "palette with transparency": encoded(picture(mode="P"), transparency=bytes(range(256))),
    "16 bit": encoded(Image.fromarray(np.arange(240, dtype=np.uint16).reshape(12, 20) * 270)),
    "1 x 1": encoded(picture(1, 1)),
    "1 x 600": encoded(picture(1, 600)),
    "webp": encoded(picture(), "WEBP"),
    "bmp": encoded(picture(), "BMP"),
    "tiff": encoded(picture(), "TIFF"),
    "gif that moves": encoded(picture(), "GIF", save_all=True, append_images=[picture(seed=1), picture(seed=2)]),
    "with text": with_text(b"Comment\0<script>"),
}


def outcome(data: bytes) -> np.ndarray | None:
    """Pixels, or None if it is refused, after a comparison with what training reads."""
    try:
        ours = np.asarray(decode(data, ENOUGH)[0])
    except Refused as refused:
        ours = None if refused.status in (400, 413) else pytest.fail(f"{refused.status}")
    try:
        theirs = np.asarray(load_image(data))
    except ImageError:
        theirs = None
    assert (ours is None) == (theirs is None)
    assert ours is None or np.array_equal(ours, theirs)
    return ours


def test_formats_are_those_of_training():
    assert serve.images.FORMATS == FORMATS


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_read_as_in_training(kind):
    pixels = outcome(KINDS[kind])
    assert pixels is not None
    assert pixels.shape[2] == 3
    assert pixels.std() > 1 or kind == "1 x 1"


def test_decisions():
    assert outcome(KINDS["turned by exif"]).shape == (12, 20, 3), "EXIF's turning is left alone"
    sixteen = outcome(KINDS["16 bit"])
    assert sixteen.max() == (239 * 270) >> 8, "the upper half of 16 bits"
    first = encoded(picture(), "GIF")
    assert np.array_equal(outcome(KINDS["gif that moves"]), outcome(first)), "the first frame"


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE, PNG], ids=["jpeg", "progressive", "png"])
def test_every_truncation_is_refused_or_lacks_nothing_of_the_picture(data):
    whole = outcome(data)
    for length in range(len(data)):
        pixels = outcome(data[:length])
        assert pixels is None or (np.array_equal(pixels, whole) and length > len(data) - 24)


@pytest.mark.filterwarnings("ignore::Warning")
@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damage_of_any_kind_is_an_answer_and_never_a_fault(data):
    kind = KINDS[data.draw(st.sampled_from(sorted(KINDS)))]
    damaged = bytearray(kind)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    outcome(bytes(damaged))
    outcome(data.draw(st.binary(max_size=200)))


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        (b"", 400, "empty"),
        (b"no image at all", 400, "no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 400, "no image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400, "no image"),
        (JPEG[: len(JPEG) // 2], 400, "damaged or cut short"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), 400, "floating-point"),
        (encoded(Image.fromarray(np.full((4, 4), 1 << 20, np.int32)), "TIFF"), 400, "32-bit"),
        (encoded(Image.new("1", (101, 100))), 413, "101 x 100 pixels are too many"),
    ],
)
def test_refusals(data, status, says):
    with pytest.raises(Refused, match=says) as refused:
        decode(data, 10_000)
    assert refused.value.status == status
    assert refused.value.expected


def test_a_bomb_is_refused_before_it_is_decoded():
    """60,000 x 60,000 pixels, by a header alone: Pillow refuses to open it, and 13,000 x 13,000 with a warning."""
    for side in (13_000, 60_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        chunk = b"IHDR" + header
        bomb = PNG[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + PNG[33:]
        with pytest.raises(Refused, match="too many") as refused:
            decode(bomb, ENOUGH)
        assert refused.value.status == 413


@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    size=st.integers(1, 40),
    crop=st.floats(0.5, 1),
    gray=st.booleans(),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]),
)
@settings(max_examples=50, deadline=None)
def test_preparation_is_training_s(width, height, size, crop, gray, interpolation):
    mean, std = ((0.4,), (0.3,)) if gray else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    image = picture(width, height)
    ours = prepare(image, Preprocessing(size, mean, std, crop, interpolation))
    theirs = eval_transform(size, mean, std, crop, interpolation)(image).numpy()
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 0},
        {"mean": [0.1, 0.2]},
        {"std": [0.0]},
        {"std": [1, 1, 1]},
        {"crop_pct": 1.1},
        {"interpolation": "random"},
        {"mean": "abc"},
        {"image_size": None},
        {"image_size": [8, 16]},
    ],
    ids=str,
)
def test_preprocessing_that_makes_no_sense(change):
    with pytest.raises(ValueError, match="expected"):
        Preprocessing.from_dict(PREPROCESSING | change)
    assert Preprocessing.from_dict(PREPROCESSING | {"another": 1}).image_size == 8
    with pytest.raises(ValueError, match="std not in"):
        Preprocessing.from_dict({key: value for key, value in PREPROCESSING.items() if key != "std"})
