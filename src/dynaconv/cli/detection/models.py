"""`dynaconv detect models`: backbones with what a detector on them costs, beside the papers' figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

from dynaconv.cli.json_text import json_text
from dynaconv.cli.options import counting, format_table, make_parser
from dynaconv.errors import DynaconvError

DESCRIPTION = """List backbones with the parameters and multiply-adds of a detector on them, beside the papers' figures.

Without a pattern: the backbones that papers report. A pattern is looked for among the presets and their static
backbones; any other backbone of timm's is counted by its name. Nothing is downloaded, and nothing is computed."""

EXAMPLES = """
dynaconv detect models
dynaconv detect models 'kw*' --detector mask_rcnn
dynaconv detect models efficientnet_b0 --json
dynaconv detect models --markdown > docs/results/detectors.md   # docs/results/detectors.json likewise, with --json
"""


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser("detect models", DESCRIPTION, EXAMPLES, "[PATTERN] [options]")
    flags.add_argument("pattern", type=str | None, nargs="?", default=None, help="names to list, with * and ?")
    flags.add_argument(
        "--detector",
        type=Literal["faster_rcnn", "mask_rcnn"] | None,
        default=None,
        help="one of the two, null for both",
    )
    flags.add_argument("--json", action="store_true", help="print counts and papers' figures as JSON")
    flags.add_argument("--markdown", action="store_true", help="print a page with sources")
    return flags


def run(arguments: Sequence[str]) -> None:
    """Print the table."""
    values = parser().parse_args(list(arguments))
    from dynaconv.detection.models.counting import count_detector
    from dynaconv.detection.models.page import HEADER, NAMES, NOTES, as_json, page, table_row

    wanted = _wanted(values.pattern, [values.detector] if values.detector else list(NAMES))
    counts, refused = [], {}
    with counting("detectors", len(wanted)) as advance:
        for kind, backbone in wanted:
            try:
                counts.append(count_detector(kind, backbone))
            except DynaconvError as error:
                refused[backbone] = error
            advance()
    if not counts:
        raise next(iter(refused.values()))
    if refused:
        print(f"left out, as they have no stages: {', '.join(refused)}", file=sys.stderr)
    if values.json:
        print(json_text([as_json(count) for count in counts], indent=1))
    elif values.markdown:
        print(page(counts, " ".join(["dynaconv detect models", *arguments]), _versions()))
    else:
        for kind, name in NAMES.items():
            rows = [table_row(count) for count in counts if count.kind == kind]
            if rows:
                print(f"{name}\n{format_table(HEADER, rows)}\n")
        print("\n".join(NOTES))


def _wanted(pattern: str | None, kinds: Sequence[Any]) -> list[tuple[Any, str]]:
    """Detectors and backbones to count."""
    from dynaconv.detection.models.papers import PAPERS
    from dynaconv.models import get_preset, list_models

    if pattern is None:
        reported = dict.fromkeys((paper.kind, paper.backbone) for paper in PAPERS)
        return [(kind, backbone) for kind, backbone in reported if kind in kinds]
    presets = list_models()
    names = dict.fromkeys([*(get_preset(name).backbone for name in presets), *presets])
    found = [name for name in names if fnmatchcase(name, pattern)]
    return [(kind, name) for kind in kinds for name in found or [pattern]]


def _versions() -> str:
    import timm
    import torch
    import torchvision

    return f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}"
