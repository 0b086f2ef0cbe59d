"""What --json prints is JSON: other readers than Python's refuse Infinity and NaN."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

import dynaconv.cli
from dynaconv.cli.json_text import json_text
from dynaconv.cli.main import main
from dynaconv.training import attention_study

COMMANDS = Path(dynaconv.cli.__file__).parent


def strictly(text: str):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("indent", [None, 2])
def test_what_is_no_finite_number_is_null(indent):
    value = {"a": [math.inf, -math.inf, (math.nan, 0.5)], "b": {"c": 1, "d": None, "e": True, "f": "inf"}}
    assert strictly(json_text(value, indent)) == {
        "a": [None, None, [None, 0.5]],
        "b": {"c": 1, "d": None, "e": True, "f": "inf"},
    }


def test_attention_of_a_network_that_has_diverged(monkeypatch, capsys):
    layers = [{"layer": "conv1", "effective_cells": math.nan}]
    maps = SimpleNamespace(summary=lambda: layers, classes=(), class_images=())
    study = SimpleNamespace(images=2, maps=maps, perturbed={}, files=())
    monkeypatch.setattr(attention_study, "attention_study", lambda *arguments, **options: study)
    assert main(["attention", "runs/x/best", "--json"]) == 0
    assert strictly(capsys.readouterr().out)["layers"] == [{"layer": "conv1", "effective_cells": None}]


def test_every_command_prints_through_it():
    files = list(COMMANDS.rglob("*.py"))
    assert len(files) > 20
    assert not [str(path) for path in files if "print(json.dump" in path.read_text(encoding="utf-8")]
