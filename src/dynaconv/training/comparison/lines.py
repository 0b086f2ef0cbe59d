"""OUT/results.jsonl: a line for every finished run, made from the runs' own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dynaconv.files import write_text
from dynaconv.training.comparison.runs import Run, open_comparison
from dynaconv.training.runs.lock import wait_lock

LINES_FILE = "results.jsonl"


def write_lines(out: Path) -> list[dict[str, Any]]:
    """Write the file anew, in one move; several processes may do so at once.

    Args:
        out: the folder of a comparison or a sweep.

    Returns:
        The lines: finished runs of all its calls.
    """
    with wait_lock(out / f"{LINES_FILE}.lock", poll_seconds=0.05):
        lines = [line_of(run, out) for run in open_comparison(out).runs() if run.finished]
        if lines:
            write_text(out / LINES_FILE, "\n".join(map(json.dumps, lines)))
        else:
            (out / LINES_FILE).unlink(missing_ok=True)
    return lines


def line_of(run: Run, out: Path) -> dict[str, Any]:
    """What is known of a finished run, as plain types.

    Args:
        run: which has finished.
        out: the folder that its own is named from.
    """
    rows, closing = run.rows(), run.closing()
    best = max(rows, key=lambda row: row["val_top1"])
    return {
        "label": run.label,
        "seed": run.seed,
        "grid": dict(run.contender.changes),
        "model": run.recipe.model,
        "method": run.recipe.method,
        "last_top1": rows[-1]["val_top1"],
        "best_top1": best["val_top1"],
        "best_epoch": int(best["epoch"]),
        "metrics": rows[-1],
        "parameters": closing.get("parameters"),
        "seconds": closing["seconds"],
        "date": closing["date"],
        "command": closing["command"],
        "environment": closing["environment"],
        "folder": str(run.folder.relative_to(out)),
    }
