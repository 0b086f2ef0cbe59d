"""Reads an upload, and stops as soon as it is too large: bytes are counted while they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from fastapi import Request
from images import READABLE, Refused
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

EXPECTED = f"{READABLE}, as the body with Content-Type: image/..., or as a file in a multipart/form-data form"
SNIFFED = ("", "application/octet-stream")
"""Types that say nothing: the bytes will."""


async def read_upload(request: Request, max_bytes: int, seconds: float) -> bytes:
    """The image's bytes, of a raw body or of the one file in a form.

    Raises Refused: 408 if it takes longer, 413 if it is larger, 415 if it says to be something else than an image, 400
    for a broken form or one without a file.
    """
    kind = _media_type(request.headers.get("content-type"))
    if kind != "multipart/form-data":
        _check_type(kind, EXPECTED)
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > max_bytes:
        raise _too_large(max_bytes)
    try:
        async with asyncio.timeout(seconds):
            if kind == "multipart/form-data":
                return await _file_of_form(request, max_bytes)
            return b"".join([chunk async for chunk in _counted(request, max_bytes)])
    except TimeoutError:
        raise Refused(408, f"the upload took longer than {seconds:g} s", "a quicker or smaller upload") from None


async def _file_of_form(request: Request, max_bytes: int) -> bytes:
    try:
        form = await MultiPartParser(
            request.headers, _counted(request, max_bytes), max_files=1, max_fields=10, max_part_size=10_000
        ).parse()
    except MultiPartException as error:
        raise Refused(400, f"the form can not be read: {error.message}", EXPECTED) from error
    files = [value for value in form.values() if isinstance(value, UploadFile)]
    if not files:
        raise Refused(400, "there is no file in the form", EXPECTED)
    try:
        _check_type(_media_type(files[0].content_type), READABLE)
        return await files[0].read()
    finally:
        await form.close()


async def _counted(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > max_bytes:
            raise _too_large(max_bytes)
        yield chunk


def _media_type(header: str | None) -> str:
    return (header or "").partition(";")[0].strip().lower()


def _check_type(kind: str, expected: str) -> None:
    if kind not in SNIFFED and not kind.startswith("image/"):
        raise Refused(415, f"the upload's type is {kind[:100]}", expected)


def _too_large(max_bytes: int) -> Refused:
    return Refused(413, "the upload is too large", f"at most {max_bytes:,} bytes")
