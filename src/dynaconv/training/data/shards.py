"""WebDataset: tar files whose members of one name are one sample, ``0017.jpg`` and ``0017.cls`` (the class number).

timm's conventions hold: ``_info.json`` beside the shards names splits, files and lengths, and a split may be a pattern.
Files are opened by fsspec, which brings URLs and, unlike the shell commands of ``pipe:``, runs nothing.
"""

from __future__ import annotations

import json
import logging
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynaconv.errors import DynaconvError, require
from dynaconv.training.config import LoaderConfig
from dynaconv.training.data.folder import SPLITS
from dynaconv.training.data.image_source import ImageSource
from dynaconv.training.data.images import ENDINGS
from dynaconv.training.data.streams import RawImage, Stream

INFO_FILES = ("_info.json", "info.json")
BLOCK = 512
"""Bytes of a block of a tar file."""

_logger = logging.getLogger(__name__)


def open_webdataset(path: str, loader: LoaderConfig) -> ImageSource:
    """Open shards.

    Args:
        path: their folder or its URL, or a pattern of the training shards: ``.../train-{000..127}.tar``.
        loader: ``train_split`` and ``val_split``, names or patterns within the folder, and ``num_classes``.

    Raises:
        DynaconvError: if there are no shards, or their lengths or the classes are not known.
        MissingExtraError: if webdataset is not installed.
    """
    require("webdataset", "streams")
    if not path or path.startswith("pipe:"):
        raise DynaconvError(f"data='wds:{path}'; expected wds:FOLDER, wds:URL, or wds:FOLDER/train-{{000..127}}.tar")
    folder, _, last = path.rpartition("/")
    root, train_split = (folder or ".", last) if ".tar" in last else (path, loader.train_split)
    if "://" not in root:
        root = str(Path(root).expanduser())
        if not Path(root).is_dir():
            raise DynaconvError(f"data='wds:{path}': there is no folder {root}")
    info = _read_info(root)
    train, val = (_open_split(root, split, info) for split in (train_split, loader.val_split))
    return ImageSource(f"wds:{path}", _classes(info, loader, path), 3, 224, train, val)


def read_tar(url: str, start: int) -> Iterator[RawImage]:
    """The samples of a shard, without the first ``start``."""
    wds = require("webdataset.tariterators", "streams")
    with _open(url) as file:
        members = ({**member, "__url__": url} for member in wds.tar_file_iterator(file))
        for number, sample in enumerate(wds.group_by_keys(members)):
            if number >= start:
                yield _raw(sample, f"{url}/{sample['__key__']}")


def count_samples(path: str) -> int:
    """Samples in a tar file of this machine, from its headers.

    Raises:
        DynaconvError: if it can not be read to its end.
    """
    split_name = require("webdataset.tariterators", "streams").base_plus_ext
    count, last = 0, None
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                key = split_name(member.name)[0] if member.isreg() else None
                if key is not None and not re.match(r"__[^/]*__($|/)", member.name):
                    count, last = count + (key != last), key
                vars(tar)["members"] = []  # otherwise all are kept
            tar.fileobj.seek(tar.offset)  # pyright: ignore[reportOptionalMemberAccess]
            if tar.fileobj.read(BLOCK).strip(b"\0"):  # pyright: ignore[reportOptionalMemberAccess]
                raise tarfile.ReadError(f"damaged at byte {tar.offset}")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DynaconvError(f"the shard {path} can not be read as a tar file: {error}") from error
    return count


def _raw(sample: Mapping[str, Any], name: str) -> RawImage:
    fields = [key for key in sample if not key.startswith("__")]
    image = next((key for key in fields if f".{key}" in ENDINGS), None)
    if image is None or "cls" not in fields:
        return RawImage(name, cause=f"it has {', '.join(fields)}; expected an image (jpg, png, ...) and cls")
    try:
        return RawImage(name, sample[image], int(sample["cls"]))
    except ValueError:
        return RawImage(name, cause=f"its cls is {sample['cls'][:20]!r}; expected a class number")


def _read_info(root: str) -> dict[str, Any]:
    for name in INFO_FILES:
        try:
            with _open(f"{root}/{name}") as file:
                info = json.load(file)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise DynaconvError(f"{root}/{name} can not be read as JSON: {error}") from error
        if not isinstance(info, dict) or not isinstance(info.get("splits", {}), dict):
            raise DynaconvError(f"{root}/{name} is no description of shards; expected splits, a mapping")
        return info
    return {}


def _open_split(root: str, split: str, info: Mapping[str, Any]) -> Stream:
    names, known = _find(root, split, info)
    urls = [f"{root}/{name}" for name in names]
    unknown = [url for name, url in zip(names, urls, strict=True) if name not in known]
    if unknown and "://" in root:
        raise DynaconvError(
            f"how many samples {unknown[0]} holds is not known; expected {root}/_info.json with "
            '{"splits": {NAME: {"filenames": [...], "shard_lengths": [...]}}}'
        )
    if len(unknown) > 100:
        _logger.warning("counting samples of %d shards; an _info.json in %s would save that", len(unknown), root)
    lengths = [known[name] if name in known else count_samples(url) for name, url in zip(names, urls, strict=True)]
    if not sum(lengths):
        raise DynaconvError(f"the shards of {split!r} in {root} hold no samples")
    return Stream(urls, lengths, read_tar)


def _find(root: str, split: str, info: Mapping[str, Any]) -> tuple[Sequence[str], dict[str, int]]:
    """Names of a split's shards within the folder, and the lengths that are known."""
    splits = info.get("splits", {})
    known: dict[str, int] = {}
    try:
        for entry in splits.values():
            known.update(zip(entry["filenames"], map(int, entry["shard_lengths"]), strict=True))
    except (KeyError, TypeError, ValueError) as error:
        raise DynaconvError(
            f"{root}/_info.json: a split needs filenames and as many shard_lengths ({error!r})"
        ) from error
    if ".tar" in split:
        names = require("webdataset.shardlists", "streams").expand_urls(split.partition("|")[0])
        missing = [name for name in names if "://" not in root and not Path(root, name).is_file()]
        if missing:
            raise DynaconvError(f"{len(missing)} of {len(names)} shards are not there, such as {root}/{missing[0]}")
        return names, known
    alike = next((names for names in SPLITS.values() if split in names), (split,))
    for name in (split, *alike):
        if name in splits:
            return splits[name]["filenames"], known
        if "://" not in root:
            found = sorted([*Path(root).glob(f"{name}*.tar"), *Path(root, name).glob("*.tar")])
            if found:
                return [path.relative_to(root).as_posix() for path in found], known
    there = sorted(splits) or ([path.name for path in sorted(Path(root).glob("*.tar"))] if "://" not in root else [])
    raise DynaconvError(
        f"{root} has no split {split!r}; found {there[:8]}. Expected {split}*.tar, {split}/*.tar, an _info.json that "
        "names it, or a pattern of shards as loader.train_split and loader.val_split"
    )


def _classes(info: Mapping[str, Any], loader: LoaderConfig, path: str) -> tuple[str, ...]:
    if names := info.get("classes"):
        return tuple(map(str, names))
    if loader.num_classes is None:
        raise DynaconvError(
            f"the shards in {path} do not name their classes; say how many with loader.num_classes, or list them in "
            "_info.json as classes"
        )
    return tuple(str(i) for i in range(loader.num_classes))


def _open(url: str) -> Any:
    return require("fsspec", "streams").open(url, "rb") if "://" in url else Path(url).open("rb")
