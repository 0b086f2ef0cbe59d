"""`dynaconv models`: the papers' networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynaconv.cli.options import format_table, make_parser
from dynaconv.errors import DynaconvError

EXAMPLES = """
dynaconv models
dynaconv models 'kw*_resnet18'
"""

HEADER = ("preset", "backbone", "parameters", "paper's top-1 %", "paper's recipe")


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser(
        "models",
        "List the papers' networks, their exact parameters and the papers' accuracy.",
        EXAMPLES,
        "[PATTERN]",
    )
    flags.add_argument("pattern", type=str, nargs="?", default="*", help="names to list, with * and ?")
    return flags


def run(arguments: Sequence[str]) -> None:
    """Print the table."""
    values = parser().parse_args(list(arguments))
    from dynaconv.models import get_preset, list_models

    names = list_models(values.pattern)
    if not names:
        raise DynaconvError(f"no preset matches '{values.pattern}'; `dynaconv models` lists all {len(list_models())}")
    rows, sources = [], []
    for name in names:
        preset = get_preset(name)
        first, *more = preset.results or (None,)
        rows.append((name, preset.backbone, f"{preset.params:,}", *_reported(first)))
        rows.extend(("", "", "", *_reported(result)) for result in more)
        sources += [result.source for result in preset.results if result.source not in sources]
    print(format_table(HEADER, rows, left=2))
    print("\nParameters are exact, for 1000 classes; accuracies are the papers' on ImageNet, not measured here.")
    print("Sources: " + "; ".join(sources))


def _reported(result: Any) -> tuple[str, str]:
    return ("-", "-") if result is None else (f"{result.top1:.2f}", result.recipe)
