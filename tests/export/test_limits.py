"""The page's table of limits says what happens now."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def load():
    """The benchmark, which is no package."""
    spec = importlib.util.spec_from_file_location("export_limits", ROOT / "benchmarks" / "export_limits.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


LIMITS = load()
PAGE = LIMITS.PLACE.search((ROOT / "docs" / "export.md").read_text(encoding="utf-8"))[2]
LINES = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")]
TABLE = {cells[0]: dict(zip(LINES[0][1:], cells[1:], strict=True)) for cells in LINES[2:]}
TRIED = (
    "half",
    "several outputs, by name",
    "cells that layers share, the others' through a low-rank basis",
    "one branch for a block's layers (CondConv, WeightNet)",
)
"""What no other test exports; those tests find out if what is said to be possible no longer is."""


def test_the_page_has_every_row_and_column():
    assert list(TABLE) == list(LIMITS.CASES)
    assert LINES[0][1:] == list(LIMITS.COLUMNS)
    assert {cell for row in TABLE.values() for cell in row.values()} <= {"yes", "no"}


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if "no" in row.values() or name in TRIED])
def test_the_page_says_what_happens(name):
    formats = {LIMITS.COLUMNS[column][0] for column, cell in TABLE[name].items() if cell == "no" or name in TRIED}
    if name in TRIED:
        formats = {"onnx"}
    for format in formats:
        found = LIMITS.attempt(LIMITS.CASES[name], format)
        for column, cell in TABLE[name].items():
            kind, runtime = LIMITS.COLUMNS[column]
            if kind == format:
                assert LIMITS.short(found[runtime]) == cell, f"{name}, {column}: {found[runtime]}"
