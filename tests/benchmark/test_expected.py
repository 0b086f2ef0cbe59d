"""Figures that no machine's speed changes are what the file says; a gain is written down like a loss.

To renew the file: ``python -m dynaconv.benchmark.expected tests/data/bench-expected.json --write``
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dynaconv.benchmark.expected as expected
from dynaconv.benchmark.expected import differences, main, measure_figures, read_expected
from dynaconv.errors import DynaconvError

FILE = Path(__file__).parents[1] / "data" / "bench-expected.json"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_figures_are_as_expected():
    figures, margins = read_expected(FILE)
    assert differences(figures, measure_figures(), margins) == []


def test_no_graph_breaks_are_expected():
    graphs = read_expected(FILE)[0]["graphs"]
    assert [name for name, value in graphs.items() if name.endswith("breaks") and value] == []


def test_differences_both_ways():
    margins = {"peak": 0.1, "count": 0.0}
    old = {"peak": {"a": 100, "b": 100, "c": 100}, "count": {"x": 5, "gone": 1}}
    new = {"peak": {"a": 109, "b": 111, "c": 89}, "count": {"x": 6, "new": 1}}
    assert differences(old, new, margins) == [
        "peak: b is 111, expected 100 (+11.0%, margin 10%)",
        "peak: c is 89, expected 100 (-11.0%, margin 10%)",
        "count: x is 6, expected 5 (+20.0%, margin 0%)",
        "count: gone is expected, and not there",
        "count: new is not expected",
    ]
    assert differences({"count": {"breaks": 0}}, {"count": {"breaks": 2}}, {}) == [
        "count: breaks is 2, expected 0 (margin 0%)"
    ]


def test_the_file_is_renewed(tmp_path, monkeypatch, capsys):
    path = tmp_path / "x.json"
    monkeypatch.setattr(expected, "measure_figures", lambda note: {"counts": {"a": 1}})
    assert main([str(path), "--write"]) == 0
    assert main([str(path)]) == 0
    assert capsys.readouterr().out == "nothing was expected yet\nas expected\n"
    monkeypatch.setattr(expected, "measure_figures", lambda note: {"counts": {"a": 2}})
    assert main([str(path)]) == 1
    assert main([str(path), "--write"]) == 0
    assert capsys.readouterr().out.count("counts: a is 2, expected 1 (+100.0%, margin 0%)") == 2
    assert json.loads(path.read_text())["figures"] == {"counts": {"a": 2}}
    assert json.loads(path.read_text())["environment"]["versions"]["torch"]


def test_a_file_that_can_not_be_read(tmp_path):
    with pytest.raises(DynaconvError, match="make it anew with --write"):
        read_expected(tmp_path / "none.json")
