"""The page as text: everything is in it, nothing is fetched, and names stay names."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from dynaconv.training.report import page as page_of
from dynaconv.training.report.page import render
from tests.training.report.made import CLASSES, EVIL, figures


class Parsed(HTMLParser):
    """Tags with their attributes, and the text of everything that is not a script or a style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.within: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.within.append(tag)

    def handle_endtag(self, tag):
        while self.within and self.within.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.within[-1:]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def text() -> str:
    return render(figures())


@pytest.fixture(scope="module")
def parsed(text) -> Parsed:
    return Parsed(text)


def test_nothing_is_fetched(text, parsed):
    assert not re.findall(r"(?i)https?:|//[a-z]|url\(|@import", re.sub(r"(?m)^//.*$|\s// .*$", "", text))
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    assert not {tag for tag, _ in parsed.tags} & {"iframe", "object", "embed", "base", "form"}


def test_the_policy_allows_the_pages_own_script_alone(text, parsed):
    (policy,) = [meta["content"] for meta in parsed.of("meta") if meta.get("http-equiv")]
    (script,) = re.findall(r'<script type="module">(.*?)</script>', text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        f"script-src 'sha256-{digest}'",
    ]


def test_names_are_text(text, parsed):
    assert len(parsed.of("script")) == 2
    assert not [attributes for _, attributes in parsed.tags if any(name.startswith("on") for name in attributes)]
    assert all(image["src"].startswith("data:image/png;base64,") for image in parsed.of("img"))
    for name in (*CLASSES, "folder:/tmp/<b>x</b>", "stage <i>0</i>", "conv1 <b>", "a note with <b>bold</b>"):
        assert name in parsed.text
    assert f"taken for {EVIL}" in parsed.of("img")[0]["alt"]
    assert "49" not in parsed.text.partition("Attention")[0].partition("Accuracy")[2].partition("Most sure")[0]
    assert EVIL not in text
    assert json.loads(re.search(r'id="content">(.*?)</script>', text)[1])["classes"] == list(CLASSES[:2])


def test_figures_stand_on_it(parsed):
    for said in (
        "62.50 %",
        "of 8 images",
        "+42.9 % against the backbone",
        "2 ms",
        "2.00 times the backbone",
        "budget = 1.0",
        "2 (1.5 to 3)",
        "2.00 (1.50 to 2.50)",
        "4 mixtures of 2 layers over 6 cells",
        "saved after epoch 4",
        "Left static: 1 further layers (stem)",
        "a machine; torch 2",
        "dynaconv report 'runs/<b>x</b>/best'",
        "2026-01-02 03:04 UTC",
    ):
        assert said in parsed.text, said


def test_it_can_be_read_without_seeing_it(parsed):
    assert parsed.of("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(image["alt"] for image in parsed.of("img"))
    assert all(cell.get("scope") in ("row", "col") for cell in parsed.of("th"))
    assert len(parsed.of("caption")) == len(parsed.of("table")) > 4
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in parsed.tags:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(name, ids[0]) in ids
    assert {link["href"][1:] for link in parsed.of("a")} <= set(ids)
    for canvas in parsed.of("canvas"):
        assert (canvas["tabindex"], canvas["role"]) == ("0", "application")
        assert canvas["aria-label"] == "Attention of stage <i>0</i>, 4 rows and 6 columns"


def test_pictures_are_the_images(parsed):
    sizes = set()
    for image in parsed.of("img"):
        opened = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
        sizes.add((opened.size, opened.mode))
        low, high = opened.getextrema()
        assert low == high  # one shade each
    assert sizes == {((16, 16), "L")}
    surest = Image.open(io.BytesIO(base64.b64decode(parsed.of("img")[0]["src"].partition(",")[2])))
    assert surest.getpixel((0, 0)) == round(255 * 6 / 7)  # the seventh of eight shades


def test_what_is_not_there_is_said():
    static = replace(figures().network, method=None, layers=(), warehouses=(), settings={})
    found = Parsed(
        render(
            figures(
                network=static, attention=None, curves=None, no_curves="There is no metrics.csv", timings=(), load=None
            )
        )
    )
    assert "A static network: no layer is dynamic" in found.text
    assert "A static network does not attend; there are maps of KernelWarehouse," in found.text
    assert "There is no metrics.csv" in found.text
    assert "No times were taken." in found.text
    assert not found.of("canvas")
    gates = replace(figures().network, method="se", layers=(), warehouses=())
    assert "se does not mix kernels by attention" in Parsed(render(figures(network=gates, attention=None))).text


def test_many_classes_are_listed_by_their_confusions():
    judged = replace(figures().judged, matrix=None)
    found = Parsed(render(figures(judged=judged, notes=("averages of 3 classes",), limited=100, unreadable=2)))
    for said in ("Most frequent confusions", "Classes with the smallest share", "the first ones of 100", "2 could not"):
        assert said in found.text
    assert "Left out averages of 3 classes" in found.text


def test_the_pages_parts_are_shipped():
    """Templates are data of the package: what is ignored by git is left out of a wheel."""
    folder = Path(page_of.__file__).parent / "templates"
    assert {path.suffix for path in folder.iterdir()} == {".html", ".css", ".js"}
    for name in page_of.SCRIPTS:
        assert "</script" not in (folder / name).read_text()


def test_a_network_that_weighs_no_kernels_has_a_table_and_no_maps():
    made = figures()
    rows = tuple({**row, "kind": "channel", "group": row["layer"]} for row in made.attention.layers)
    attention = replace(made.attention, sheets=(), layers=rows)
    found = Parsed(render(replace(made, attention=attention)))
    assert "No layer weighs kernels against each other, so there are no maps" in found.text
    assert "a column one of its kernels" not in found.text
    assert not found.of("canvas")
    left_out = Parsed(render(replace(made, attention=replace(attention, left_out=("stage",)))))
    assert "All maps would take too much room" in left_out.text
