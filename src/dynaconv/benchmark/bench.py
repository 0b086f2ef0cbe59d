"""`run_bench`: measure networks one after the other, and write what is known after each."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dynaconv.analysis.environment import command_line, environment, utc_now
from dynaconv.analysis.files import free_stem, timed_stem
from dynaconv.benchmark.kinds import KINDS, Kind, kind_of
from dynaconv.benchmark.measures import Note
from dynaconv.benchmark.runtimes.settings import RuntimeSettings
from dynaconv.benchmark.settings import BenchSettings
from dynaconv.errors import DynaconvError
from dynaconv.files import write_text

FORMAT = 1
"""The version of the JSON file's layout."""
ENDINGS = ("json", "md", "png")


@dataclass(frozen=True)
class BenchResult:
    """What came out.

    Args:
        values: content of the JSON file.
        json: where it is.
        markdown: the tables as a file.
        picture: ratios to the static network, a PNG.
    """

    values: dict[str, Any]
    json: Path
    markdown: Path
    picture: Path

    @property
    def kind(self) -> Kind:
        """The sort of benchmark, which knows how it is shown."""
        return KINDS[self.values["kind"]]


@dataclass(frozen=True)
class NetworkStart:
    """What is known when a network's turn comes.

    Args:
        network: its name.
        number: from 1.
        total: networks of the benchmark.
        seconds_left: estimate for all that are left, None before there is anything to go by.
    """

    network: str
    number: int
    total: int
    seconds_left: float | None


def run_bench(
    settings: BenchSettings | RuntimeSettings,
    out: str | Path,
    *,
    start: Callable[[NetworkStart], None] = lambda network: None,
    note: Note = lambda text: None,
) -> BenchResult:
    """Measure networks, and write JSON, Markdown and picture under a new name.

    The JSON file is written anew after every network, so that an interruption loses one at most.

    Args:
        settings: what to measure: passes of PyTorch, or exported files in their runtimes.
        out: folder of the results, made if need be.
        start: called before each network.
        note: called with a line about everything else that takes time or fails.
    """
    threads = torch.get_num_threads()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    try:
        return _run(settings, Path(out), start, note)
    finally:
        torch.set_num_threads(threads)


def results_of(path: str | Path) -> BenchResult:
    """Tables and picture of an earlier benchmark again, beside its file and over nothing.

    Args:
        path: the JSON file.

    Raises:
        DynaconvError: if it is no benchmark's, or holds no network yet.
    """
    path = Path(path)
    values = read_results(path)
    if not values["networks"]:
        raise DynaconvError(f"{path} holds no network: its benchmark was interrupted before the first was measured")
    stem = free_stem(path.parent, path.stem, ENDINGS[1:])
    return _write_shown(values, path, path.with_name(f"{stem}.md"), path.with_name(f"{stem}.png"))


def read_results(path: Path) -> dict[str, Any]:
    """A benchmark's JSON file.

    Raises:
        DynaconvError: if it can not be read, or is of something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DynaconvError(f"{path} can not be read as JSON: {error}") from error
    if not isinstance(values, Mapping) or values.get("kind") not in KINDS:
        raise DynaconvError(f"{path} is not of a benchmark; expected a bench-TIME.json of `dynaconv bench`")
    if values.get("format") != FORMAT:
        raise DynaconvError(f"{path} has format {values.get('format')!r}; this version reads format {FORMAT}")
    return dict(values)


def shown_results(path: Path, picture: str | None) -> str:
    """Tables, notes and picture of a benchmark's JSON file, as Markdown.

    Args:
        path: the JSON file.
        picture: name of its picture, if there is one.
    """
    values = read_results(path)
    return KINDS[values["kind"]].markdown(values, picture)


def _run(
    settings: BenchSettings | RuntimeSettings, out: Path, start: Callable[[NetworkStart], None], note: Note
) -> BenchResult:
    kind = kind_of(settings)
    values: dict[str, Any] = {
        "kind": kind.name,
        "format": FORMAT,
        "date": utc_now().isoformat(timespec="seconds"),
        "command": command_line(),
        "complete": False,
        "settings": settings.to_dict(),
        "environment": environment(),
        "load_average_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        **kind.begin(settings, note),
        "networks": [],
    }
    stem = timed_stem(out, kind.name, ENDINGS)
    path = out / f"{stem}.json"
    write_text(path, json.dumps(values, indent=2))
    began = time.perf_counter()
    for done, network in enumerate(settings.networks):
        left = (time.perf_counter() - began) / done * (len(settings.networks) - done) if done else None
        start(NetworkStart(network, done + 1, len(settings.networks), left))
        values["networks"].append(kind.measure(network, settings, values, note))
        values["complete"] = done + 1 == len(settings.networks)
        write_text(path, json.dumps(values, indent=2))
    return _write_shown(values, path, path.with_suffix(".md"), path.with_suffix(".png"))


def _write_shown(values: dict[str, Any], path: Path, text: Path, picture: Path) -> BenchResult:
    kind = KINDS[values["kind"]]
    kind.save_picture(values, picture)
    write_text(text, kind.markdown(values, picture.name))
    return BenchResult(values, path, text, picture)
