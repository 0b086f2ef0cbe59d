"""`run_ablation`: train the variants of the paper's tables as a comparison, and judge them over the seeds."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dynaconv.analysis.files import timed_stem
from dynaconv.errors import DynaconvError
from dynaconv.files import write_text
from dynaconv.training.ablation.page import markdown
from dynaconv.training.ablation.picture import save_picture
from dynaconv.training.ablation.statistics import ALPHA, RULE, difference_of
from dynaconv.training.ablation.tables import AblationTable, PaperFigure, Variant
from dynaconv.training.ablation.variants import Backbone, contenders_of, label_of
from dynaconv.training.comparison.compare import begin
from dynaconv.training.comparison.launch import Launch, train_comparison
from dynaconv.training.comparison.measures import measure
from dynaconv.training.comparison.results import KINDS, CompareResult, gather
from dynaconv.training.comparison.runs import Comparison, open_comparison
from dynaconv.training.comparison.work import Watcher
from dynaconv.training.config import Recipe
from dynaconv.training.data.datamodule import ImageDataModule
from dynaconv.training.runs.lock import wait_lock


def run_ablation(
    tables: Sequence[AblationTable],
    backbone: Backbone,
    seeds: Sequence[int],
    recipe: Recipe,
    out: str | Path,
    *,
    launch: Launch | None = None,
    watcher: Watcher | None = None,
) -> CompareResult:
    """Train every variant with every seed, and write results under a new name.

    Variants that several tables have in common are trained once. It can be stopped and called again, with further
    tables or seeds.

    Args:
        tables: see :data:`dynaconv.training.ablation.tables.TABLES`.
        backbone: what all variants are made from.
        seeds: of the runs.
        recipe: what all share; its model, method, where, backbone and seed are not used.
        out: folder of the runs and results.
        launch: by which jobs; None for this process alone.
        watcher: is told what happens.

    Raises:
        DynaconvError: if a variant does not fit the backbone, or the folder holds runs of another recipe.
    """
    began = time.time()
    comparison = begin(contenders_of(tables, backbone), seeds, recipe, out)
    train_comparison(comparison, began, launch or Launch(), watcher or Watcher())
    return _finish(comparison, tables, began)


def ablation_of(tables: Sequence[AblationTable], out: str | Path) -> CompareResult:
    """Results of a folder's finished runs again, with all seeds of all calls, without training.

    Args:
        tables: those of which the folder has no variants are left out.
        out: folder of an earlier ablation.

    Raises:
        DynaconvError: if the folder holds no ablation, or none of these tables.
    """
    return _finish(open_comparison(out), tables, 0.0)


def _finish(comparison: Comparison, tables: Sequence[AblationTable], since: float) -> CompareResult:
    with wait_lock(comparison.out / "finish.lock"):
        values = gather(comparison, measure(comparison, 0), since)
        step = _one_image(comparison.recipe)
        models = dict.fromkeys(contender.model for contender in comparison.contenders)
        entries = {entry["label"]: entry for entry in values["contenders"]}
        judged = [judge(table, model, entries, step) for table in tables for model in models]
        values["tables"] = [table for table in judged if table is not None]
        if not values["tables"]:
            names = ", ".join(table.name for table in tables)
            raise DynaconvError(f"{comparison.out} has no variants of {names}; expected the folder of an ablation")
        values |= {"rule": RULE, "step": step}
        return _write(comparison, values)


def judge(
    table: AblationTable, model: str, entries: Mapping[str, Mapping[str, Any]], step: float = 0.0
) -> dict[str, Any] | None:
    """A table on a backbone, as plain types; None if its reference and a variant of it are not there.

    Args:
        table: which.
        model: the backbone.
        entries: contenders of :func:`dynaconv.training.comparison.results.gather`, by label.
        step: one validation image's share.
    """
    here = [variant for variant in table.variants if label_of(model, variant) in entries]
    reference = table.variants[0]
    if reference not in here or not any(variant.fields is not None for variant in here if variant is not reference):
        return None
    runs = {variant.name: _top1(entries[label_of(model, variant)]) for variant in here}
    base = runs[reference.name]
    differences = {
        variant.name: [runs[variant.name][seed] - base[seed] for seed in base if seed in runs[variant.name]]
        for variant in here[1:]
    }
    judged = [variant.name for variant in here[1:] if variant.fields is not None]
    compared = sum(len(differences[name]) > 1 for name in judged)
    rows = [_row(variant, entries[label_of(model, variant)], reference.paper) for variant in here]
    for row, variant in zip(rows, here, strict=True):
        values = differences.get(variant.name)
        found = difference_of(values, max(compared, 1), step) if values else None
        if found is not None and variant.name not in judged:  # the static network stands beside, and is no variant
            found = replace(found, verdict=None)
        row["difference"] = None if found is None else asdict(found)
    return {
        "table": table.name,
        "title": table.title,
        "model": model,
        "paper_model": table.model,
        "level": 1 - ALPHA / max(compared, 1),
        "rows": rows,
    }


def _row(variant: Variant, entry: Mapping[str, Any], reference: PaperFigure) -> dict[str, Any]:
    paper: dict[str, Any] = asdict(variant.paper)
    known = variant.paper.top1 is not None and reference.top1 is not None
    paper["difference"] = round(variant.paper.top1 - reference.top1, 2) if known else None  # type: ignore[operator]
    return {
        "label": entry["label"],
        "name": variant.name,
        "setting": variant.setting,
        "parameters": entry.get("parameters"),
        **{key: entry[key] for key in ("top1_mean", "top1_lowest", "top1_highest")},
        "seeds": [run["seed"] for run in entry["runs"]],
        "errors": entry["errors"],
        "paper": paper,
        "note": variant.note,
    }


def _top1(entry: Mapping[str, Any]) -> dict[int, float]:
    return {run["seed"]: run["last_top1"] for run in entry["runs"]}


def _one_image(recipe: Recipe) -> float:
    """The share of one validation image; 0 where a source does not know how many it has."""
    images = ImageDataModule.from_recipe(recipe)
    images.setup()
    source = images.source
    try:
        return 1 / len(source.val) if source is not None else 0.0
    except TypeError:
        return 0.0


def _write(comparison: Comparison, values: dict[str, Any]) -> CompareResult:
    stem = timed_stem(comparison.out, "results", KINDS)
    paths = {kind: comparison.out / f"{stem}.{kind}" for kind in KINDS}
    picture = None
    if any(row["difference"] for table in values["tables"] for row in table["rows"]):
        picture = save_picture(values, paths["png"])
    write_text(paths["md"], markdown(values, picture.name if picture else None))
    write_text(paths["json"], json.dumps(values, indent=2))  # last: where it is, the others are
    return CompareResult(values, paths["json"], paths["md"], picture)
