"""The sorts of benchmarks: what each measures of a network, and how it is shown. A file of results names its sort."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynaconv.benchmark import measures, picture, roofline, table
from dynaconv.benchmark.measures import Note
from dynaconv.benchmark.runtimes import measures as runtime_measures
from dynaconv.benchmark.runtimes import picture as runtime_picture
from dynaconv.benchmark.runtimes import table as runtime_table
from dynaconv.benchmark.runtimes.settings import RuntimeSettings, estimate_minutes
from dynaconv.benchmark.settings import BenchSettings
from dynaconv.benchmark.table import Table
from dynaconv.ops import native_status

Values = Mapping[str, Any]
"""Content of a benchmark's JSON file."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A sort of benchmark.

    Args:
        name: in files, and what their names begin with.
        begin: what is measured before the first network, from settings.
        measure: of a network, by name, from settings, what there is so far, and a place for notes.
        tables: rows of text.
        notes: what a reader must know to read them, a line each.
        groups: of bars, what the picture shows of a network.
        colours: of bars, by title.
        pictured: what the picture shows, in words.
    """

    name: str
    begin: Callable[[Any, Note], dict[str, Any]]
    measure: Callable[[str, Any, Values, Note], dict[str, Any]]
    tables: Callable[[Values], list[Table]]
    notes: Callable[[Values], list[str]]
    groups: Callable[[Values], list[picture.Group]]
    colours: Mapping[str, str]
    pictured: str

    def save_picture(self, values: Values, path: Path) -> Path:
        """Draw a panel a network; error bars are the quartiles over rounds.

        Args:
            values: content of a benchmark's JSON file.
            path: the PNG, written in one move.

        Raises:
            MissingExtraError: without matplotlib.
        """
        panels = {network["name"]: self.groups(network) for network in values["networks"]}
        return picture.save_panels(values, panels, self.colours, path)

    def markdown(self, values: Values, picture: str | None = None) -> str:
        """The tables with their notes, the command that made them, and the picture, as Markdown.

        Args:
            values: content of a benchmark's JSON file.
            picture: name of the picture beside the file.
        """
        tables = [table.as_markdown(found) for found in self.tables(values)]
        listed = "\n".join(f"- {line}" for line in self.notes(values))
        shown = [f"![{self.pictured}]({picture})"] if picture else []
        return "\n\n".join([*tables, listed, f"```sh\n{values['command']}\n```", *shown]) + "\n"


def _begin_passes(settings: BenchSettings, note: Note) -> dict[str, Any]:
    note("measuring what the machine can do")
    native = native_status().partition(": /")[0]  # where they are kept is nobody's business
    return {"native": native, "machine": roofline.measure_machine(settings.device)}


def _measure_passes(network: str, settings: BenchSettings, values: Values, note: Note) -> dict[str, Any]:
    return measures.measure_network(network, settings, values["machine"], note)


def _begin_runtimes(settings: RuntimeSettings, note: Note) -> dict[str, Any]:
    note(f"about {estimate_minutes(settings):.0f} minutes on two cores")
    return {}


def _measure_runtimes(network: str, settings: RuntimeSettings, values: Values, note: Note) -> dict[str, Any]:
    return runtime_measures.measure_network(network, settings, note)


PASSES = Kind(
    name="bench",
    begin=_begin_passes,
    measure=_measure_passes,
    tables=table.tables,
    notes=table.notes,
    groups=picture.groups,
    colours=picture.COLOURS,
    pictured="Time of every contender as a ratio to the static network",
)
RUNTIMES = Kind(
    name="bench-runtimes",
    begin=_begin_runtimes,
    measure=_measure_runtimes,
    tables=runtime_table.tables,
    notes=runtime_table.notes,
    groups=runtime_picture.groups,
    colours=runtime_picture.COLOURS,
    pictured="Time of every runtime's graph as a ratio to the static network in the same runtime",
)
KINDS = {kind.name: kind for kind in (PASSES, RUNTIMES)}


def kind_of(settings: BenchSettings | RuntimeSettings) -> Kind:
    """The sort of benchmark that settings are of."""
    return KINDS[RUNTIMES.name if isinstance(settings, RuntimeSettings) else PASSES.name]
