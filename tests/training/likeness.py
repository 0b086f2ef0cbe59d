"""What two runs have in common: everything, but for clocks and names of saves."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

CLOCKS = {"seconds", "wall_time"}
NAMES = {"id"}


def differences(a: Any, b: Any, place: str = "") -> list[str]:
    """Where two nested values differ, bit by bit in tensors."""
    if type(a) is not type(b) and not any({type(a), type(b)} <= kinds for kinds in ({int, float}, {list, tuple})):
        return [f"{place}: {type(a).__name__} and {type(b).__name__}"]
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        return [] if same else [f"{place}: tensors"]
    if isinstance(a, dict):
        keys = [key for key in dict.fromkeys([*a, *b]) if key not in CLOCKS | NAMES]
        missing = [f"{place}.{key}: only in one" for key in keys if (key in a) != (key in b)]
        shared = [key for key in keys if key in a and key in b]
        return missing + [text for key in shared for text in differences(a[key], b[key], f"{place}.{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{place}: {len(a)} and {len(b)} entries"]
        return [text for i, (x, y) in enumerate(zip(a, b, strict=True)) for text in differences(x, y, f"{place}.{i}")]
    return [] if a == b or (a != a and b != b) else [f"{place}: {a!r} and {b!r}"]


def run_differences(whole: Path, broken: Path) -> list[str]:
    """Where the files of two finished runs differ: what they resume from, best and last, figures, TensorBoard's."""
    found = [differences(*(contents(folder)[part] for folder in (whole, broken)), part) for part in contents(whole)]
    return [text for texts in found for text in texts]


def contents(folder: Path) -> dict[str, Any]:
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    networks = {
        name: (load_file(folder / f"{name}.safetensors"), json.loads((folder / f"{name}.json").read_text()))
        for name in ("best", "last")
    }
    return {
        "last.ckpt": torch.load(folder / "last.ckpt", weights_only=True),
        "config.yaml": yaml.safe_load((folder / "config.yaml").read_text()),
        "metrics.csv": rows,
        **networks,
    }


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run: (step, value) of everything but the epoch, which Lightning logs with each."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    tags = set(events.Tags()["scalars"]) - {"epoch"}
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in sorted(tags)}
