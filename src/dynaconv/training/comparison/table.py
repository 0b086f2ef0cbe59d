"""The table of a comparison: cells for the terminal, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynaconv.analysis.environment import describe

HEADER = (
    "network",
    "parameters",
    "MAdds",
    "top-1 % (range)",
    "gain",
    "step (ratio)",
    "inference/image (ratio)",
    "peak memory",
)
NONE = "–"


def table_rows(values: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row a contender, as text, under :data:`HEADER`.

    Args:
        values: results of :func:`dynaconv.training.comparison.results.gather`.
    """
    return [_row(entry, values) for entry in values["contenders"]]


def notes(values: Mapping[str, Any]) -> list[str]:
    """What a reader must know to read the table, a line each; errors first."""
    lines = [f"{entry['label']}: {error}" for entry in values["contenders"] for error in entry["errors"]]
    seeds, recipe, measured = values["seeds"], values["recipe"], values["measured"]
    first = values["contenders"][0]["label"]
    lines.append(
        f"Top-1: validation accuracy after the last of {recipe['schedule']['epochs']} epochs on {recipe['data']}, "
        f"not the best epoch's; mean (lowest – highest) of {len(seeds)} seed(s): {', '.join(map(str, seeds))}. Gain: "
        f"points of the mean over {first}, on common seeds."
    )
    lines.append("MAdds: multiply-adds of one image, one multiply and one add count as one.")
    if measured:
        size = "x".join(map(str, measured["input_size"]))
        again = f" Taken from {measured['results']}." if "results" in measured else ""
        lines.append(
            f"Time: medians of {measured['rounds']} rounds in which all networks took turns, batch "
            f"{measured['batch_size']} of {size}, {measured['precision']}, {measured['device']}; a ratio is the "
            "median over rounds. Memory: what a training step needs at its peak (weights, gradients, optimiser, "
            f"activations), each in a process of its own.{again}"
        )
    if any("environment" in run for entry in values["contenders"] for run in entry["runs"]):
        lines.append("Some runs were trained with other versions or on another machine than named here; see the JSON.")
    lines.append(f"{describe(values['environment'])}; {values['date']}.")
    return lines


def markdown(values: Mapping[str, Any], picture: str | None = None) -> str:
    """The table with its notes, the commands that made it, and the picture, as Markdown.

    Args:
        values: results of :func:`dynaconv.training.comparison.results.gather`.
        picture: name of the picture beside the file.
    """
    rows = [HEADER, tuple("---" if i == 0 else "---:" for i in range(len(HEADER))), *table_rows(values)]
    table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
    shown = f"\n\n![Accuracy against parameters, multiply-adds and step time]({picture})" if picture else ""
    listed = "\n".join(f"- {line}" for line in notes(values))
    trained = [run["command"] for entry in values["contenders"] for run in entry["runs"]]
    commands = "\n".join(dict.fromkeys([*trained, values["command"]]))
    return f"{table}\n\n{listed}\n\n```sh\n{commands}\n```{shown}\n"


def _row(entry: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[str, ...]:
    gain = entry["gain"]
    is_first = entry is values["contenders"][0]
    return (
        entry["label"],
        _number(entry.get("parameters")),
        _number(entry.get("madds")),
        _accuracy(entry, len(values["seeds"])),
        NONE if gain is None or is_first else f"{100 * gain:+.2f}",
        _time(entry.get("step_seconds")),
        _time(entry.get("inference_seconds_per_image")),
        f"{entry['peak_bytes'] / 2**20:,.0f} MiB" if entry.get("peak_bytes") is not None else NONE,
    )


def _accuracy(entry: Mapping[str, Any], seeds: int) -> str:
    done = len(entry["runs"])
    if not done:
        return "failed" if entry["errors"] else "not trained yet"
    low, mean, high = (100 * entry[f"top1_{name}"] for name in ("lowest", "mean", "highest"))
    part = "" if done == seeds else f", {done} of {seeds} seeds"
    spread = f" ({low:.2f} – {high:.2f})" if done > 1 else ""
    return f"{mean:.2f}{spread}{part}"


def _time(values: Mapping[str, Any] | None) -> str:
    if values is None:
        return NONE
    milliseconds = 1000 * values["median"]
    shown = f"{milliseconds:.3g}" if milliseconds < 1000 else f"{milliseconds:,.0f}"
    ratio = f" ({values['ratio']:.2f}x)" if values["ratio"] is not None else ""
    return f"{shown} ms{ratio}"


def _number(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"
