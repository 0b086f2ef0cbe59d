"""The digits of scikit-learn as shards of WebDataset and Parquet files: a few, in a second."""

from __future__ import annotations

import functools
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

SPLITS = {"train": (20, 9, 19), "validation": (7, 6)}
"""Images in each shard: 48 for training, 13 for validation."""


@functools.cache
def digits() -> tuple[list[bytes], list[int]]:
    """The first digits as PNG files, and their labels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    files = []
    for image in bunch.images[:80]:
        file = io.BytesIO()
        Image.fromarray((image * 15).astype(np.uint8)).save(file, "PNG")
        files.append(file.getvalue())
    return files, bunch.target[:80].tolist()


def split(name: str) -> list[list[int]]:
    """Numbers of the digits in each shard of a split; no digit is in two of them."""
    first = sum(sum(lengths) for other, lengths in SPLITS.items() if other < name)
    shards = []
    for length in SPLITS[name]:
        shards.append(list(range(first, first + length)))
        first += length
    return shards


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def members(numbers: list[int]) -> list[tuple[str, bytes]]:
    files, labels = digits()
    pairs = (((f"{i:04}.png", files[i]), (f"{i:04}.cls", str(labels[i]).encode())) for i in numbers)
    return [member for pair in pairs for member in pair]


def make_shards(root: Path, info: bool = True) -> Path:
    """``train-0000.tar`` and so on, described by ``_info.json`` if asked for."""
    root.mkdir(parents=True, exist_ok=True)
    splits = {}
    for name, lengths in SPLITS.items():
        names = [f"{name}-{i:04}.tar" for i in range(len(lengths))]
        for file, numbers in zip(names, split(name), strict=True):
            write_tar(root / file, members(numbers))
        splits[name] = {
            "name": name, "filenames": names, "shard_lengths": list(lengths), "num_samples": sum(lengths),
        }  # fmt: skip
    if info:
        (root / "_info.json").write_text(json.dumps({"splits": splits, "classes": [str(i) for i in range(10)]}))
    return root


def make_parquet(root: Path, rows_per_group: int = 8) -> Path:
    """``train-0000.parquet`` and so on, as the hub of Hugging Face holds them."""
    import datasets
    import pyarrow.parquet as pq

    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=[str(i) for i in range(10)])}
    )
    files, labels = digits()
    root.mkdir(parents=True, exist_ok=True)
    for name in SPLITS:
        for i, numbers in enumerate(split(name)):
            rows = {
                "image": [{"bytes": files[n], "path": f"{n}.png"} for n in numbers],
                "label": [labels[n] for n in numbers],
            }
            table = datasets.Dataset.from_dict(rows, features=features).data.table
            pq.write_table(table, root / f"{name}-{i:04}.parquet", row_group_size=rows_per_group)
    return root
