"""Figures of the written pages are those of the presets, and of the measured pages that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dynaconv
from dynaconv.cli.main import COMMANDS
from dynaconv.models import get_preset
from tests.docs.pages import DOCS, PAGES, name_of

LINK = re.compile(r"\]\(([^)#]+\.md)")
FIGURE = re.compile(r"(?<![\w.,])\d[\d,]*\.\d+|(?<![\w.,])\d{1,3}(?:,\d{3})+(?![\d.])")


def preset_rows(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"^(\| `(\w+)` \|.*)$", page.read_text(), re.MULTILINE)


BY_COMMANDS = ("presets.md", "recipes.md")  # compared with what writes them in tests/test_readme.py
WRITTEN = [page for page in PAGES if page.name not in BY_COMMANDS and preset_rows(page)]


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_rows_of_presets(page):
    for row, name in preset_rows(page):
        if name not in dynaconv.list_models():
            continue
        preset = get_preset(name)
        assert f"{preset.params:,}" in row, row
        accuracies = set(re.findall(r"(?<![\d,.])\d\d\.\d\d(?![\dM])", row))
        assert accuracies <= {f"{result.top1:.2f}" for result in preset.results}, row


def test_there_are_such_rows():
    names = {name for page in WRITTEN for _, name in preset_rows(page)}
    assert len(names & set(dynaconv.list_models())) > 50


def claims(page: Path) -> list[tuple[str, str]]:
    """Sentences and rows of measured figures: what they say, and the page that they name."""
    text = page.read_text()
    if page.name == "choosing.md":
        found = [line for line in text.splitlines() if line.startswith("|") and LINK.search(line)]
    else:
        found = re.findall(r"^- \*\*Time\*\*: .*(?:\n  .*)*", text, re.MULTILINE)
    return [(claim, LINK.findall(claim)[-1]) for claim in found]


@pytest.mark.parametrize("page", [DOCS / "choosing.md", *sorted((DOCS / "methods").glob("*.md"))], ids=name_of)
def test_measured_figures_stand_where_the_page_says(page):
    found = claims(page)
    assert found or page.name in ("index.md", "gates.md")
    for claim, source in found:
        text = (page.parent / source).read_text()
        for figure in FIGURE.findall(claim):
            assert figure in text, f"{figure} is not in {source}: {claim}"


def test_ratios_of_networks_are_those_of_the_page_on_speed():
    speed = (DOCS / "speed.md").read_text().partition("### Small images")[0]
    rows = [(row, name) for row, name in preset_rows(DOCS / "choosing.md") if re.search(r"\d\.\d\dx", row)]
    assert len(rows) > 5
    for row, name in rows:
        measured = "\n".join(line for line in speed.splitlines() if line.startswith(f"| {name} |"))
        for figure in re.findall(r"\d\.\d\dx|[\d,]+(?= \()|(?<=\()[\d,]+(?=\))", row):
            assert f" {figure} " in measured, f"{figure}: {row}"


def test_every_command_is_listed():
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| \[", (DOCS / "commands.md").read_text(), re.MULTILINE)
    assert dict(rows) == COMMANDS


def test_the_reference_is_complete():
    text = "\n".join(page.read_text() for page in PAGES)
    names = set(re.findall(r"^::: dynaconv\.(?:[\w.]+\.)?(\w+)$", text, re.MULTILINE))
    assert set(dynaconv.__all__) - {"__version__"} <= names
