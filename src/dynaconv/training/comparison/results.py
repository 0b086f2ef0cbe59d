"""Results of a comparison: gathered from its runs' own files, and written under a name that was never used before.

The accuracy that counts is that of the last epoch. The best epoch's is kept beside it, but it is chosen on the images
it is judged by, and rises with the number of epochs tried.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from dynaconv.analysis.environment import command_line, environment, utc_now
from dynaconv.analysis.files import timed_stem
from dynaconv.files import write_text
from dynaconv.training.comparison.picture import save_picture
from dynaconv.training.comparison.runs import Comparison, Run
from dynaconv.training.comparison.table import markdown

FORMAT = 1
"""Version of the layout of the JSON file."""
KINDS = ("json", "md", "png")
MEASURES = ("step_seconds", "inference_seconds_per_image", "peak_bytes")


@dataclass(frozen=True)
class CompareResult:
    """What came out.

    Args:
        values: content of the JSON file.
        json: where it is.
        markdown: the table as a file.
        picture: accuracy against cost, a PNG; None if no run has finished.
    """

    values: dict[str, Any]
    json: Path
    markdown: Path
    picture: Path | None

    @property
    def failed(self) -> dict[str, list[str]]:
        """Errors by label, of contenders that have any."""
        return {entry["label"]: entry["errors"] for entry in self.values["contenders"] if entry["errors"]}


def gather(comparison: Comparison, measures: Mapping[str, Any], since: float = 0.0) -> dict[str, Any]:
    """Everything there is to say about a comparison, as plain types.

    Args:
        comparison: whose finished runs are read.
        measures: of :func:`dynaconv.training.comparison.measures.measure`.
        since: leave out errors of before, in seconds since 1970.
    """
    here = environment()
    entries = []
    for contender in comparison.contenders:
        label = contender.label
        runs = [comparison.run(contender, seed) for seed in comparison.seeds]
        errors = [f"seed {run.seed}: {text}" for run in runs if not run.finished and (text := run.error(since))]
        if label in measures["errors"]:
            errors.append(measures["errors"][label])
        done = [_figures(run, here) for run in runs if run.finished]
        entry = {**contender.to_dict(), **measures["contenders"].get(label, {}), "runs": done, "errors": errors}
        entries.append({**entry, **_spread([run["last_top1"] for run in done])})
    for entry in entries:
        entry["gain"] = _gain(entry["runs"], entries[0]["runs"])
    return {
        "format": FORMAT,
        "date": utc_now().isoformat(timespec="seconds"),
        "command": command_line(),
        "accuracy": "validation top-1 of the last epoch; best_top1 is the best epoch's, chosen on the same images",
        "recipe": comparison.shared(),
        "seeds": list(comparison.seeds),
        "contenders": entries,
        "measured": measures["conditions"],
        "environment": here,
    }


def write_results(comparison: Comparison, values: dict[str, Any]) -> CompareResult:
    """Write JSON, Markdown and picture under a new name; the caller holds the folder's lock.

    Args:
        comparison: says where.
        values: of :func:`gather`.
    """
    stem = timed_stem(comparison.out, "results", KINDS)
    paths = {kind: comparison.out / f"{stem}.{kind}" for kind in KINDS}
    picture = None
    if any(entry["runs"] for entry in values["contenders"]):
        picture = save_picture(values, paths["png"])
    write_text(paths["md"], markdown(values, picture.name if picture else None))
    write_text(paths["json"], json.dumps(values, indent=2))  # last: where it is, the others are
    return CompareResult(values, paths["json"], paths["md"], picture)


def newest_since(comparison: Comparison, since: float, *, measured: bool) -> CompareResult | None:
    """Results of the same comparison that another process has written since a time, if there are any.

    Args:
        comparison: the same contenders and seeds.
        since: seconds since 1970.
        measured: whether time and memory must be in it.
    """
    labels, seeds = [contender.label for contender in comparison.contenders], list(comparison.seeds)
    for path in _earlier(comparison.out):
        values = json.loads(path.read_text(encoding="utf-8"))
        same = [entry["label"] for entry in values["contenders"]] == labels and values["seeds"] == seeds
        if same and (values["measured"] is not None) == measured and path.stat().st_mtime >= since:
            picture = path.with_suffix(".png")
            return CompareResult(values, path, path.with_suffix(".md"), picture if picture.is_file() else None)
    return None


def latest_measures(comparison: Comparison, counted: Mapping[str, Any]) -> dict[str, Any]:
    """Add time and memory of the newest results that have them to what was counted.

    Args:
        comparison: whose folder is searched.
        counted: measures without time and memory.
    """
    for path in _earlier(comparison.out):
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["measured"] is None:
            continue
        taken = {entry["label"]: {k: entry[k] for k in MEASURES if k in entry} for entry in values["contenders"]}
        contenders = {label: {**found, **taken.get(label, {})} for label, found in counted["contenders"].items()}
        return {**counted, "conditions": {**values["measured"], "results": path.name}, "contenders": contenders}
    return dict(counted)


def _figures(run: Run, here: Mapping[str, Any]) -> dict[str, Any]:
    rows, closing = run.rows(), run.closing()
    best = max(rows, key=lambda row: row["val_top1"])
    made_elsewhere = {} if closing["environment"] == here else {"environment": closing["environment"]}
    return {
        "seed": run.seed,
        "folder": str(run.folder),
        "last_top1": rows[-1]["val_top1"],
        "best_top1": best["val_top1"],
        "best_epoch": int(best["epoch"]),
        "date": closing["date"],
        "command": closing["command"],
        **made_elsewhere,
        "epochs": rows,
    }


def _spread(values: list[float]) -> dict[str, float | None]:
    if not values:
        return {"top1_mean": None, "top1_lowest": None, "top1_highest": None}
    return {"top1_mean": mean(values), "top1_lowest": min(values), "top1_highest": max(values)}


def _gain(runs: list[dict[str, Any]], first: list[dict[str, Any]]) -> float | None:
    """Mean difference over the seeds that both have finished."""
    reference = {run["seed"]: run["last_top1"] for run in first}
    gains = [run["last_top1"] - reference[run["seed"]] for run in runs if run["seed"] in reference]
    return mean(gains) if gains else None


def _earlier(out: Path) -> list[Path]:
    """Earlier results, newest first."""
    return sorted(out.glob("results-*.json"), key=lambda path: path.stem, reverse=True)
