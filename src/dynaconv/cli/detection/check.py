"""`dynaconv detect check`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynaconv.cli.json_text import json_text
from dynaconv.cli.options import counting, make_parser
from dynaconv.detection.config import CocoLoaderConfig

DESCRIPTION = """Read a data set in COCO's format as training would, and more closely: every entry, the size of every
image, the pixels of every mask. Prints what was found and what becomes of it.

The exit code is 0 if there are no faults, 1 if there are, and 2 if the data can not be used at all."""

EXAMPLES = """
dynaconv detect check /data/coco
dynaconv detect check /data/mine --loader.train_images images --loader.train_annotations train.json \\
    --loader.val_images images --loader.val_annotations val.json
dynaconv detect check /data/coco --json > report.json
dynaconv detect check data/digits --picture digits.png                 # some images with their boxes and masks
"""

SHOWN = 2
"""Examples in the table; --json has more."""


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser("detect check", DESCRIPTION, EXAMPLES, "FOLDER [options]")
    flags.add_argument("folder", type=str, help="the data set")
    flags.add_class_arguments(CocoLoaderConfig, "loader")
    flags.add_argument("--decode", action="store_true", help="decode images wholly, not only their sizes; takes longer")
    flags.add_argument("--picture", type=str | None, default=None, help="draw some training images into this PNG")
    flags.add_argument("--json", action="store_true", help="print everything as JSON")
    return flags


def run(arguments: Sequence[str]) -> int:
    """Check both splits and print what was found; returns 1 if there are faults."""
    values = parser().parse_args(list(arguments))
    loader = CocoLoaderConfig(**values.loader.as_dict())
    from dynaconv.detection.data.annotations import read_annotations
    from dynaconv.detection.data.datamodule import check_classes, split_paths
    from dynaconv.detection.data.inspection import check_images, check_masks, check_unlisted, summarise
    from dynaconv.detection.data.picture import save_picture

    splits = {
        name: read_annotations(*split_paths(values.folder, loader, name), masks=None) for name in ("train", "val")
    }
    check_classes(splits["train"], splits["val"])
    check_unlisted(list(splits.values()))
    for name, split in splits.items():
        with counting(f"{name}: images", len(split.content["images"])) as advance:
            check_images(split, advance, decode=values.decode)
        with counting(f"{name}: masks", len(split.content["annotations"])) as advance:
            check_masks(split, advance)
    found = {name: split.report.to_dict() | summarise(split) for name, split in splits.items()}
    faults = sum(split["faults"] for split in found.values())
    if values.picture is not None:
        save_picture(splits["train"], values.picture)
    if values.json:
        print(json_text({"data": values.folder, "faults": faults, "splits": found}))
    else:
        print("\n\n".join(_describe(name, split) for name, split in found.items()))
        print(f"\n{faults:,} faults" if faults else "\nno faults")
    return 1 if faults else 0


def _describe(name: str, split: dict[str, Any]) -> str:
    sizes = ", ".join(f"{count:,} {size}" for size, count in split["sizes"].items())
    lines = [
        f"{name}: {split['name']}",
        f"{split['images']:,} images, {split['objects']:,} objects {'with' if split['masks'] else 'without'} masks "
        f"({sizes}), {split['crowds']:,} crowds, {len(split['classes'])} classes",
    ]
    rows = [
        ("fault" if entry["fault"] else "note", f"{entry['count']:,}", f"{entry['text']}: {_examples(entry)}")
        for entry in sorted(split["found"], key=lambda entry: not entry["fault"])
    ]
    if rows:
        lines += ["", *(f"{kind:<5}  {count:>9}  {text}" for kind, count, text in rows)]
    return "\n".join(lines)


def _examples(entry: dict[str, Any]) -> str:
    return ", ".join(entry["examples"][:SHOWN]) + ", ..." * (entry["count"] > SHOWN)
