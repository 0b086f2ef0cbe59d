"""Hugging Face data sets that stream: Parquet files, of the hub or of a folder.

``datasets`` finds the files and splits of a name; they are read with pyarrow beneath it. Its iterable data sets share
out shards among a loader's workers by themselves, and can not say how many rows there are. Parquet's footers can, and
let a resumed run pass over whole groups of rows unread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from dynaconv.errors import DynaconvError, require
from dynaconv.training.config import LoaderConfig
from dynaconv.training.data.image_source import ImageSource
from dynaconv.training.data.streams import RawImage, Stream

ROWS = 64
"""Rows decoded from Parquet at once."""


def open_parquet(name: str, loader: LoaderConfig) -> ImageSource:
    """Open a data set to stream from its Parquet files.

    Args:
        name: as timm's, ``hfids/NAME``, with a name of the hub or a folder.
        loader: splits, ``root`` (of the cache), and ``num_classes`` where the data do not name their classes.

    Raises:
        DynaconvError: if there is no such data set or split, its files are no Parquet, or it holds no labelled images.
        MissingExtraError: if datasets is not installed.
    """
    datasets = require("datasets", "streams")
    path = name.partition("/")[2]
    try:
        builder = datasets.load_dataset_builder(path, cache_dir=loader.root)
        files: Mapping[str, Any] = builder.config.data_files or {}
    except Exception as error:  # of the hub, its client and file systems
        raise DynaconvError(f"datasets can not open {path!r}: {type(error).__name__}: {error}") from error
    wanted = (loader.train_split, loader.val_split)
    if missing := [split for split in wanted if split not in files]:
        raise DynaconvError(
            f"{path!r} has no split {' and no '.join(map(repr, missing))}; found {sorted(map(str, files))}: choose "
            "with loader.train_split and loader.val_split"
        )
    shards = {split: [str(file) for file in files[split]] for split in wanted}
    if other := next((file for names in shards.values() for file in names if not file.endswith(".parquet")), None):
        raise DynaconvError(
            f"{path!r} holds {other}; only Parquet files stream. Use timm:hfds/{path}, which copies it to this machine"
        )
    features = None
    lengths: dict[str, list[int]] = {}
    for split, urls in shards.items():
        lengths[split] = []
        for url in urls:
            rows, schema = _footer(url)
            lengths[split].append(rows)
            features = features or datasets.Features.from_arrow_schema(schema)
        if not sum(lengths[split]):
            raise DynaconvError(f"the split {split!r} of {path!r} holds no rows")
    image, label = _columns(features or {}, path)
    classes = getattr((features or {})[label], "names", None)
    if classes is None:
        if loader.num_classes is None:
            raise DynaconvError(f"{path!r} does not name its classes; say how many with loader.num_classes")
        classes = [str(i) for i in range(loader.num_classes)]
    read = partial(read_rows, image=image, label=label)
    train, val = (Stream(shards[split], lengths[split], read) for split in wanted)
    return ImageSource(f"timm:{name}", tuple(classes), 3, 224, train, val)


def read_rows(url: str, start: int, image: str, label: str) -> Iterator[RawImage]:
    """The rows of a Parquet file, without the first ``start``.

    Args:
        url: the file.
        start: rows to pass over.
        image: name of the column of images, ``{bytes, path}``.
        label: name of the column of class numbers.
    """
    with _open(url) as file:
        table = require("pyarrow.parquet", "streams").ParquetFile(file)
        number = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if number + rows <= start:
                number += rows
                continue
            for batch in table.iter_batches(ROWS, row_groups=[group], columns=[image, label]):
                for row in batch.to_pylist():
                    if number >= start:
                        yield _raw(row[image], row[label], f"{url}[{number}]")
                    number += 1


def _raw(image: Any, label: Any, name: str) -> RawImage:
    data = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(data, bytes) or not isinstance(label, int):
        return RawImage(name, cause="its row lacks the image's bytes or a class number")
    return RawImage(name, data, label)


def _columns(features: Mapping[str, Any], path: str) -> tuple[str, str]:
    """Names of the columns of images and of labels: by their types, else ``image`` and ``label``."""
    found = []
    for kind, usual in (("Image", "image"), ("ClassLabel", "label")):
        typed = [name for name, feature in features.items() if type(feature).__name__ == kind]
        named = usual if usual in features else None
        name = typed[0] if len(typed) == 1 else named
        if name is None:
            raise DynaconvError(f"{path!r} has the columns {list(features)}; expected one of images and one of labels")
        found.append(name)
    return found[0], found[1]


def _footer(url: str) -> tuple[int, Any]:
    try:
        with _open(url) as file:
            table = require("pyarrow.parquet", "streams").ParquetFile(file)
            return table.metadata.num_rows, table.schema_arrow
    except Exception as error:  # damaged or out of reach, in pyarrow's and file systems' own classes
        raise DynaconvError(f"{url} can not be read as Parquet: {type(error).__name__}: {error}") from error


def _open(url: str) -> Any:
    return require("fsspec", "streams").open(url, "rb")
