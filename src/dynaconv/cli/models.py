"""`dynaconv models`: the papers' networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynaconv.cli.options import format_table, make_parser
from dynaconv.errors import DynaconvError

EXAMPLES = """
dynaconv models
dynaconv models 'kw*_resnet18'
dynaconv models '*_mobilenetv2_100'
dynaconv models --markdown > docs/presets.md
"""

HEADER = ("preset", "method", "backbone", "parameters", "paper's top-1 %", "paper's recipe")
MARKDOWN = """# Presets

Written by `dynaconv models --markdown`. Parameters are exact, for 1000 classes and three input channels. Accuracies are
those that papers report for ImageNet, not measured here; the source stands beside each.

| preset | method | backbone | parameters | reported top-1 % (parameters as printed, recipe, source) | note |
|---|---|---|---|---|---|"""


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser(
        "models",
        "List the papers' networks, their exact parameters and the papers' accuracy.",
        EXAMPLES,
        "[PATTERN]",
    )
    flags.add_argument("pattern", type=str, nargs="?", default="*", help="names to list, with * and ?")
    flags.add_argument("--markdown", action="store_true", help="print a page with sources and notes")
    return flags


def run(arguments: Sequence[str]) -> None:
    """Print the table."""
    values = parser().parse_args(list(arguments))
    from dynaconv.models import get_preset, list_models

    names = list_models(values.pattern)
    if not names:
        raise DynaconvError(f"no preset matches '{values.pattern}'; `dynaconv models` lists all {len(list_models())}")
    presets = [get_preset(name) for name in names]
    if values.markdown:
        print("\n".join([MARKDOWN, *map(_markdown_row, presets)]))
        return
    rows, sources = [], []
    for preset in presets:
        first, *more = preset.results or (None,)
        rows.append((preset.name, preset.config.method, preset.backbone, f"{preset.params:,}", *_reported(first)))
        rows.extend(("", "", "", "", *_reported(result)) for result in more)
        sources += [result.source for result in preset.results if result.source not in sources]
    print(format_table(HEADER, rows, left=3))
    print("\nParameters are exact, for 1000 classes; accuracies are the papers' on ImageNet, not measured here.")
    print("Sources: " + "; ".join(sources))


def _reported(result: Any) -> tuple[str, str]:
    return ("-", "-") if result is None else (f"{result.top1:.2f}", result.recipe)


def _markdown_row(preset: Any) -> str:
    results = "; ".join(_in_full(result) for result in preset.results) or "–"
    cells = (f"`{preset.name}`", preset.config.method, preset.backbone, f"{preset.params:,}", results, preset.note)
    return f"| {' | '.join(cells)} |"


def _in_full(result: Any) -> str:
    printed = f"{result.params_millions:g}M, " if result.params_millions else ""
    return f"{result.top1:.2f} ({printed}{result.recipe}, {result.source})"
