"""The documentation's pages, and the blocks of code in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if page.parent.name != "results")
BLOCK = re.compile(r"(?:^<!-- not run: (?P<reason>.+?) -->\n+)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the line where it starts, its code, and why it is not run, if so."""

    language: str
    line: int
    code: str
    reason: str | None


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[Block]:
    text = page.read_text()
    return [
        Block(found["language"], text.count("\n", 0, found.start("code")) + 1, found["code"], found["reason"])
        for found in BLOCK.finditer(text)
        if found["language"] == language
    ]


def commands(code: str) -> Iterator[list[str]]:
    """The words of every line of the shell, without comments; a loop's variable is the first that it takes, and what
    a command gives goes nowhere.
    """
    first: dict[str, str] = {}
    for line in code.replace("\\\n", " ").splitlines():
        loop = re.match(r"for (\w+) in (\S+)", line)
        if loop:
            first[loop[1]] = loop[2]
        for name, value in first.items():
            line = line.replace(f"${name}", value)
        words = shlex.split(line, comments=True)
        end = next((i for i, word in enumerate(words) if word in (">", "|", "&&", "||")), len(words))
        if words[:end]:
            yield words[:end]
