"""The README tells the truth: its code runs, its commands exist, its presets are those of the package."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import dynaconv
from dynaconv.cli.main import COMMANDS
from dynaconv.models import get_preset

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("code", blocks("python"))
def test_python_runs(code, capsys):
    exec(compile(code, "README.md", "exec"), {})
    assert "parameters after:" in capsys.readouterr().out


def test_every_command_exists():
    calls = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines() if line.strip()]
    named = [words for words in calls if words and words[0] == "dynaconv"]
    assert {words[1] for words in named} <= set(COMMANDS)
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {words[1] for words in calls if words and words[0] == "make"} <= targets


def test_presets_are_listed_with_their_exact_parameters():
    rows = re.findall(r"^\| `(kw\w+)` \| ([\d,]+) \|", README, re.MULTILINE)
    assert {name: int(count.replace(",", "")) for name, count in rows} == {
        name: get_preset(name).params for name in dynaconv.list_models()
    }


def test_every_picture_and_linked_file_is_there():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).is_file(), target
