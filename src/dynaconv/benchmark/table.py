"""The tables of a benchmark: time as ratios to the static network, and memory; for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dynaconv.analysis.environment import describe
from dynaconv.benchmark.contenders import CONTENDERS, REFERENCE, TEXTBOOK
from dynaconv.benchmark.roofline import TRAINING_PRODUCTS

NONE = "–"

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Names of the columns, and rows of text."""


def tables(values: Mapping[str, Any]) -> list[Table]:
    """Time, and memory if it was measured.

    Args:
        values: content of a benchmark's JSON file.
    """
    return [table for table in (time_table(values), memory_table(values)) if table is not None]


def time_table(values: Mapping[str, Any]) -> Table:
    """A row for every network, pass and batch; a column for every contender that ran anywhere.

    Args:
        values: content of a benchmark's JSON file.
    """
    shown = _shown([timing["contenders"] for network in values["networks"] for timing in network["timings"]])
    titles = [CONTENDERS[name].title for name in shown if name != REFERENCE]
    header = ("network", "pass", "batch", "static, ms/image", *titles, "limit", "textbook / ours")
    return header, [
        (network["name"], *_time_row(timing, shown)) for network in values["networks"] for timing in network["timings"]
    ]


def memory_table(values: Mapping[str, Any]) -> Table | None:
    """A row for every network and pass whose memory was measured; None if there is none.

    Args:
        values: content of a benchmark's JSON file.
    """
    rows = [(network["name"], entry) for network in values["networks"] for entry in network["memory"]]
    if not rows:
        return None
    shown = _shown([entry["peak_bytes"] for _, entry in rows])
    header = ("network", "pass", "batch", *(f"{CONTENDERS[name].title}, MiB" for name in shown), "excess / textbook's")
    return header, [(name, *_memory_row(entry, shown)) for name, entry in rows]


def notes(values: Mapping[str, Any]) -> list[str]:
    """What a reader must know to read the tables, a line each; errors first."""
    settings, machine, networks = values["settings"], values["machine"], values["networks"]
    lines = [f"{network['name']}: {error}" for network in networks for error in network["errors"]]
    if not values["complete"]:
        lines.append(f"Interrupted: {len(networks)} of {len(settings['networks'])} networks.")
    lines.append(
        f"Time: {settings['image_size']} pixels, float32, {settings['device']}; static is the same backbone without "
        "dynamic layers, channels_last, as are ours; a ratio is to it, the median over rounds in which all took turns "
        f"(at least {settings['rounds']}), with quartiles. Training is forward, cross-entropy and backward, without an "
        "optimiser. Textbook: all B kernels made, then one grouped convolution over samples, NCHW."
    )
    lines.append(
        f"Limit: static plus the mixing's products (in training {TRAINING_PRODUCTS} of their size) at "
        f"{machine['madds_per_second'] / 1e9:.0f} G multiply-adds/s, or the reading (r) of each layer's cells once a "
        f"batch at {machine['read_bytes_per_second'] / 1e9:.0f} GB/s, whichever is longer; both measured in this run."
    )
    if any(network["memory"] for network in networks):
        lines.append(
            "Memory: peak of weights, gradients, activations and kernels, each in a process of its own whose allocator "
            "returns what is freed; excess: what ours needs above static, as a share of what the textbook needs."
        )
    lines.append(f"{describe(values['environment'])}; {values['native']}; {values['date']}.")
    return lines


def as_markdown(table: Table) -> str:
    """A table whose first two columns are aligned left."""
    header, rows = table
    rule = tuple("---" if index < 2 else "---:" for index in range(len(header)))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def _shown(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Contenders that have a figure anywhere."""
    return [name for name in CONTENDERS if any(name in entry for entry in found)]


def _time_row(timing: Mapping[str, Any], shown: Sequence[str]) -> tuple[str, ...]:
    contenders, bound, textbook = timing["contenders"], timing["limit"], timing["textbook_to_ours"]
    static = contenders.get(REFERENCE)
    return (
        timing["pass"],
        str(timing["batch"]),
        NONE if static is None else f"{1000 * static['seconds_per_image']['median']:.3g}",
        *(ratio_text(contenders.get(name)) for name in shown if name != REFERENCE),
        NONE if bound is None else f"{bound['ratio']:.2f}x{' r' if bound['bound'] == 'reading' else ''}",
        NONE if textbook is None else f"{textbook['ratio']:.2f}x",
    )


def ratio_text(entry: Mapping[str, Any] | None) -> str:
    """A contender's median ratio with its quartiles; milliseconds where there is nothing to relate to."""
    if entry is None:
        return NONE
    values = entry["seconds_per_image"]
    if values["ratio"] is None:
        return f"{1000 * values['median']:.3g} ms"
    low, high = entry["ratio_quartiles"]
    return (
        f"{values['ratio']:.2f}x ({low:.2f} – {high:.2f})" if entry["rounds"] > 1 else f"{values['ratio']:.2f}x (once)"
    )


def _memory_row(entry: Mapping[str, Any], shown: Sequence[str]) -> tuple[str, ...]:
    peaks, excess = entry["peak_bytes"], entry["excess"]
    sizes = (f"{peaks[name] / 2**20:,.0f}" if name in peaks else NONE for name in shown)
    share = excess["share_of_textbook"]
    return (
        entry["pass"],
        str(entry["batch"]),
        *sizes,
        NONE if share is None else f"{share:.0%} of {excess['bytes'][TEXTBOOK] / 2**20:,.0f} MiB",
    )
