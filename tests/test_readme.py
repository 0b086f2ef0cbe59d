"""The README tells the truth: its code runs, its commands exist, its presets are those of the package."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import dynaconv
from dynaconv.cli.main import COMMANDS, main
from dynaconv.convert import config_types
from dynaconv.models import get_preset

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "printed"),
    list(
        zip(
            blocks("python"),
            ["parameters after:", "True\n19 layers start", "compiled kernels:", "layers prepared"],
            strict=True,
        )
    ),
)
def test_python_runs(code, printed, capsys):
    exec(compile(code, "README.md", "exec"), {})
    assert printed in capsys.readouterr().out


def test_every_command_exists():
    calls = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines() if line.strip()]
    named = [words for words in calls if words and words[0] == "dynaconv"]
    assert {words[1] for words in named} <= set(COMMANDS)
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {words[1] for words in calls if words and words[0] == "make"} <= targets


def test_presets_have_their_exact_parameters():
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", README, re.MULTILINE)
    assert len(rows) > 8
    assert all(int(count.replace(",", "")) == get_preset(name).params for name, count in rows)
    assert f"{len(dynaconv.list_models())} networks of the papers" in README


def test_the_page_of_presets_is_what_the_command_writes(capsys):
    assert main(["models", "--markdown"]) == 0
    assert (ROOT / "docs" / "presets.md").read_text() == capsys.readouterr().out


def test_every_method_is_in_the_table():
    for config in config_types().values():
        assert f"`{config.__name__}`" in README


def test_every_picture_and_linked_file_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_the_committed_comparison_is_the_one_in_the_docs():
    results = ROOT / "docs" / "results" / "compare-mnist5k"
    table = results.with_suffix(".md").read_text().split("\n\n")[0]
    assert table in (ROOT / "docs" / "compare.md").read_text()
    figures = json.loads(results.with_suffix(".json").read_text())
    assert len(figures["contenders"]) == len(table.splitlines()) - 2
    methods = {entry["label"].partition(":")[0] for entry in figures["contenders"]}
    assert methods == {"static", *config_types()}
    for entry in figures["contenders"]:
        assert len(entry["runs"]) == 3
        assert f"{100 * entry['top1_mean']:.2f}" in table


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "results").glob("from-scratch-*.json")), ids=lambda f: f.stem)
def test_the_committed_study_is_the_one_in_the_docs(file):
    page = (ROOT / "docs" / "from-scratch.md").read_text()
    for entry in json.loads(file.read_text())["contenders"]:
        seeds = ", ".join(f"{100 * run['last_top1']:.2f}" for run in entry["runs"])
        assert f"| {entry['label']} | {entry['parameters']:,} | {100 * entry['top1_mean']:.2f} ({seeds}) |" in page


def test_measured_scale_is_the_one_in_the_docs():
    page = (ROOT / "docs" / "scale.md").read_text()
    for row in json.loads((ROOT / "docs" / "results" / "scale.json").read_text())["rows"]:
        cells = [row["network"], row["way"]]
        for name, unit in (("sent_bytes", 1e6), ("peak_bytes", 2**20)):
            measured, model = row[name]["measured"] / unit, row[name]["model"] / unit
            cells += [f"{measured:,.1f}", f"{model:,.1f}", f"{measured / model - 1:+.1%}"]
        assert f"| {' | '.join(cells)} |" in page


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_links_of_the_docs(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).is_file(), target


def test_the_page_of_recipes_holds_the_table_that_the_command_writes(capsys):
    assert main(["recipes", "--markdown"]) == 0
    assert capsys.readouterr().out in (ROOT / "docs" / "recipes.md").read_text()
