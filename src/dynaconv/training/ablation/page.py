"""The tables of an ablation as text: cells for the terminal, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynaconv.analysis.environment import describe
from dynaconv.training.ablation.statistics import RULE

HEADER = ("setting", "parameters", "top-1 % (range), seeds", "difference", "verdict", "paper: top-1 % (difference)")
NONE = "–"
UNKNOWN = "not known for certain"


def table_rows(table: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row a variant, as text, under :data:`HEADER`.

    Args:
        table: of :func:`dynaconv.training.ablation.ablate.judge`.
    """
    return [_row(row) for row in table["rows"]]


def heading(table: Mapping[str, Any]) -> str:
    """Name, what is varied, and on what: here, and in the paper."""
    there = "" if table["paper_model"] == table["model"] else f" (the paper's: {table['paper_model']})"
    return f"{table['table']}: {table['title']}, on {table['model']}{there}"


def sources(table: Mapping[str, Any]) -> list[str]:
    """Where the paper's figures come from, and what a reader must know of rows, a line each."""
    lines: dict[str, list[str]] = {}
    for row in table["rows"]:
        paper = row["paper"]
        if paper["top1"] is not None:
            lines.setdefault(f"{paper['trust']}: {paper['source']}", []).append(f"{paper['top1']:.2f}")
        elif paper["says"]:
            lines.setdefault(f"from {paper['source']}", []).append(f"'{row['setting']}' is {paper['says']}")
    texts = [f"Paper, {', '.join(figures)}: {source}." for source, figures in lines.items()]
    return texts + [f"{row['setting']}: {row['note']}." for row in table["rows"] if row["note"]]


def notes(values: Mapping[str, Any]) -> list[str]:
    """What a reader must know to read the tables, a line each; errors first."""
    lines = [f"{entry['label']}: {error}" for entry in values["contenders"] for error in entry["errors"]]
    recipe = values["recipe"]
    lines += [
        f"Here: validation accuracy after the last of {recipe['schedule']['epochs']} epochs on {recipe['data']}, not "
        "the best epoch's; mean (lowest – highest). Difference: points to the first row, mean over common seeds and "
        "its interval.",
        f"Verdict: {RULE}.",
        "The paper's: ImageNet, full width, 300 epochs; another scale, on which small differences mean more. 'read' "
        f"and 'derived' say how a figure is known; a number that is {UNKNOWN} is left out.",
    ]
    if any("environment" in run for entry in values["contenders"] for run in entry["runs"]):
        lines.append("Some runs were trained with other versions or on another machine than named here; see the JSON.")
    return [*lines, f"{describe(values['environment'])}; {values['date']}."]


def markdown(values: Mapping[str, Any], picture: str | None = None) -> str:
    """Tables, notes, commands and the picture, as Markdown.

    Args:
        values: results of :func:`dynaconv.training.ablation.ablate.run_ablation`.
        picture: name of the picture beside the file.
    """
    parts = []
    for table in values["tables"]:
        rows = [HEADER, tuple("---" if i in (0, 4) else "---:" for i in range(len(HEADER))), *table_rows(table)]
        parts.append(f"### {heading(table)}")
        parts.append("\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows))
        if listed := sources(table):
            parts.append("\n".join(f"- {line}" for line in listed))
    parts.append("\n".join(f"- {line}" for line in notes(values)))
    trained = [run["command"] for entry in values["contenders"] for run in entry["runs"]]
    commands = "\n".join(dict.fromkeys([*trained, values["command"]]))
    parts.append(f"```sh\n{commands}\n```")
    if picture:
        parts.append(f"![Differences to the paper's choice, here and in the paper]({picture})")
    return "\n\n".join(parts) + "\n"


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    difference = row["difference"]
    return (
        row["setting"],
        NONE if row["parameters"] is None else f"{row['parameters']:,}",
        _accuracy(row),
        NONE if difference is None else _interval(difference),
        NONE if difference is None else difference["verdict"] or NONE,
        _paper(row["paper"]),
    )


def _accuracy(row: Mapping[str, Any]) -> str:
    if row["top1_mean"] is None:
        return "failed" if row["errors"] else "not trained yet"
    low, mean, high = (100 * row[f"top1_{name}"] for name in ("lowest", "mean", "highest"))
    return f"{mean:.2f} ({low:.2f} – {high:.2f}), {len(row['seeds'])}"


def _interval(difference: Mapping[str, Any]) -> str:
    if difference["low"] is None:
        return f"{100 * difference['mean']:+.2f}"
    return f"{100 * difference['mean']:+.2f} ({100 * difference['low']:+.2f} … {100 * difference['high']:+.2f})"


def _paper(paper: Mapping[str, Any]) -> str:
    if paper["top1"] is None:
        return f"{paper['says']}; number {UNKNOWN}" if paper["says"] else UNKNOWN
    change = f" ({paper['difference']:+.2f})" if paper["difference"] else ""
    return f"{paper['top1']:.2f}{change}, {paper['trust']}"
