"""The pages tell the truth: their Python runs, and their commands are what the command line takes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from dynaconv.cli.main import main
from dynaconv.convert import config_from_dict, registry
from dynaconv.models import list_models
from tests.docs.pages import PAGES, ROOT, blocks, commands, name_of

# Blocks of Python that a test can not run, each with its reason above it in the page. No more may be added unseen.
NOT_RUN = {"docs/detection.md": 3, "docs/export.md": 1, "docs/sweeps.md": 1}


class Parsed(BaseException):
    """The command line was understood; what follows would be the command's work."""


def with_blocks(language: str) -> list[Path]:
    return [page for page in [*PAGES, ROOT / "README.md"] if blocks(page, language)]


@pytest.mark.parametrize("page", [p for p in with_blocks("python") if p.name != "README.md"], ids=name_of)
def test_python_runs(page, tmp_path, monkeypatch, capsys):
    if page.name.endswith(".zh.md"):  # a translation: the same code
        original = page.with_name(page.name.replace(".zh.md", ".md"))
        assert [block.code for block in blocks(page, "python")] == [block.code for block in blocks(original, "python")]
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))  # a page may register one
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "python"):
        code = compile("\n" * (block.line - 1) + block.code, name_of(page), "exec", dont_inherit=True)
        if block.reason is None:
            exec(code, names)
    printed = {line.rstrip() for line in capsys.readouterr().out.splitlines()}
    shown = [line.rstrip() for block in blocks(page, "text") for line in block.code.splitlines()]
    assert not [line for line in shown if line not in {"...", *printed}], (
        f"{name_of(page)} shows what it does not print"
    )


def test_what_is_not_run_is_known():
    found = Counter(name_of(page) for page in PAGES for block in blocks(page, "python") if block.reason)
    assert dict(found) == NOT_RUN


def test_markers_are_understood():
    for page in PAGES:
        marked = sum(bool(block.reason) for language in ("python", "sh") for block in blocks(page, language))
        assert page.read_text().count("<!-- not run") == marked, f"{name_of(page)}: a marker that belongs to no block"
        opened = len(re.findall(r"^```python$", page.read_text(), re.MULTILINE))
        assert opened == len(blocks(page, "python")), f"{name_of(page)}: a block that is not found"


@pytest.fixture
def understood(tmp_path, monkeypatch):
    """Run a command up to where its flags are parsed, with whatever files they name; gives the values."""
    import jsonargparse
    import timm

    monkeypatch.chdir(tmp_path)
    parse = jsonargparse.ArgumentParser.parse_args

    def parse_and_stop(self, *args, **kwargs):
        values = parse(self, *args, **kwargs)
        if not self.prog.startswith("dynaconv "):
            return values
        method = values.as_dict().get("method")
        if isinstance(method, dict):
            config_from_dict(method)
        model = values.as_dict().get("model")
        if isinstance(model, str) and "/" not in model and model not in list_models():
            assert timm.is_model(model.partition(".")[0]), f"{model} is neither a preset nor a backbone"
        raise Parsed

    monkeypatch.setattr(jsonargparse.ArgumentParser, "parse_args", parse_and_stop)

    def run(words: list[str]) -> bool:
        for word in words:
            if word.endswith(".yaml") and not Path(word).exists():
                Path(word).parent.mkdir(parents=True, exist_ok=True)
                Path(word).write_text("{}\n")
        try:
            return main(words) == 0
        except Parsed:
            return True
        except SystemExit as end:  # 0 after --help
            return end.code == 0

    return run


@pytest.mark.parametrize("page", with_blocks("sh"), ids=name_of)
def test_commands_are_understood(page, understood, capsys):
    targets = set(re.findall(r"^([\w/.]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in blocks(page, "sh"):
        for words in commands(block.code):
            for start, word in enumerate(words):
                if word in ("dynaconv", "dynaconv.cli.main"):
                    assert understood(words[start + 1 :]), f"{' '.join(words)}\n{capsys.readouterr().err}"
                    break
                if re.fullmatch(r"(benchmarks|examples|docs)/\S+\.py", word):
                    assert (ROOT / word).is_file(), word
            if words[0] == "make":
                assert words[1] in targets, words
