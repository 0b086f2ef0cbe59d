"""The places of a page hold the tables of the files they name."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from dynaconv.benchmark.bench import read_results
from dynaconv.benchmark.kinds import PASSES
from dynaconv.benchmark.page import PLACE, fill_page, filled_text
from dynaconv.errors import DynaconvError

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "data" / "bench-sample.json"
PAGE = "# Speed\n\n<!-- table: results/bench-x.json -->\nold\n<!-- end of table -->\n\nafter\n"


def test_a_page_is_filled_and_stays_so(tmp_path):
    page, results = tmp_path / "speed.md", tmp_path / "results"
    results.mkdir()
    page.write_text(PAGE)
    shutil.copy(SAMPLE, results / "bench-x.json")
    (results / "bench-x.png").touch()
    assert fill_page(page) == [results / "bench-x.json"]
    text = page.read_text()
    assert PASSES.markdown(read_results(SAMPLE), "results/bench-x.png") in text
    assert text.startswith("# Speed\n\n<!-- table: results/bench-x.json -->\n| network |")
    assert text.endswith("<!-- end of table -->\n\nafter\n")
    assert "old" not in text
    fill_page(page)
    assert page.read_text() == text


def test_a_place_without_results_says_so(tmp_path):
    page = tmp_path / "speed.md"
    page.write_text(PAGE)
    with pytest.raises(DynaconvError, match="no place names a file that exists"):
        fill_page(page)
    assert "Not measured yet." in page.read_text()


def test_a_page_that_is_not_there(tmp_path):
    with pytest.raises(DynaconvError, match="can not be read"):
        fill_page(tmp_path / "none.md")


PAGES = [ROOT / "docs" / name for name in ("speed.md", "runtimes.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_the_docs_are_those_of_the_committed_results(page):
    text = page.read_text()
    filled, shown = filled_text(text, page.parent)
    assert text == filled, f"renew it with: dynaconv bench --page docs/{page.name}"
    assert PLACE.search(text)
    assert all(read_results(path)["complete"] for path in shown)


def test_every_committed_result_has_a_place():
    shown = [path for page in PAGES for path in filled_text(page.read_text(), page.parent)[1]]
    assert sorted(shown) == sorted((ROOT / "docs" / "results").glob("bench-*.json"))


def test_the_tables_of_weights_are_those_beside_their_figures():
    """`python benchmarks/export_weights.py summary` writes both."""
    page = (ROOT / "docs" / "runtimes.md").read_text()
    parts = re.split(
        r"^## (\w+)\n\n", (ROOT / "docs" / "results" / "export-weights.md").read_text(), flags=re.MULTILINE
    )
    tables = dict(zip(parts[1::2], parts[2::2], strict=True))
    places = dict(re.findall(r"<!-- weights: (\w+) -->\n(.*?)<!-- end of weights -->", page, re.DOTALL))
    assert places.keys() >= tables.keys()
    assert all(places[study].strip() == text.strip() for study, text in tables.items())
