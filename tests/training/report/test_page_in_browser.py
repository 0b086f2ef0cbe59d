"""The page in a real browser: pointer and keyboard, both schemes of colour, a phone's width, contrast.

Pictures of it are kept in the folder that REPORT_SCREENSHOTS names.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynaconv.training.report.page import render
from tests.browsing import launched
from tests.training.report.made import CLASSES, figures

CONTRASTS = """() => {
    document.querySelectorAll("details").forEach((element) => { element.open = true; });
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const read = (colour, over) => {
        canvas.fillStyle = `rgb(${over.join(" ")})`;
        canvas.fillRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
    };
    const behind = (element) => element
        ? read(getComputedStyle(element).backgroundColor, behind(element.parentElement)) : [255, 255, 255];
    const light = (rgb) => rgb
        .map((part) => part / 255)
        .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.textContent.trim() || !element.getClientRects().length) continue;
        const style = getComputedStyle(element), back = behind(element);
        const [low, high] = [light(read(element.closest("svg") ? style.fill : style.color, back)), light(back)].sort();
        found.push([(Math.max(low, high) + 0.05) / (Math.min(low, high) + 0.05), element.outerHTML.slice(0, 90)]);
    }
    return found;
}"""

PIXEL = """([row, column]) => {
    const map = document.querySelector("canvas"), side = map.width / 6;
    const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    copy.drawImage(map, -(column + 0.5) * side, -(row + 0.5) * side);
    return [...copy.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}"""


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(figures()), encoding="utf-8")
    return path


@pytest.fixture
def page(browser, file):
    context = browser.new_context(viewport={"width": 900, "height": 800}, color_scheme="light")
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text))
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    asked: list[str] = []
    page.goto(file.as_uri())
    yield page
    context.close()
    assert not faults
    assert {url for url in asked if not url.startswith("data:")} == {file.as_uri()}


def keep(page, name: str) -> None:
    if folder := os.environ.get("REPORT_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def drawn(page) -> None:
    """Wait until the browser has told of what has changed, and drawn it."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def over(page, row: float, column: float):
    """Move the pointer over a cell of the map."""
    canvas = page.locator("canvas")
    canvas.scroll_into_view_if_needed()
    drawn(page)  # scrolling takes the tip away
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] * (column + 0.5) / 6, box["y"] + box["height"] * (row + 0.5) / 4)


def said(page, figure: str = ".map") -> str:
    return page.locator(f"{figure} .readout").first.text_content()


def test_values_under_the_pointer(page):
    over(page, 3, 4)  # the second layer's second mixture: 0.2 + (1 - 4) / 10
    expected = "conv2 <b>, mixture [1] of 2, cell [4] of 6: −0.100, average over 30 images"
    assert page.locator("#tip").text_content() == said(page) == expected
    assert page.locator("#tip").is_visible()
    over(page, 1, 1)
    assert said(page) == "conv1 <b>, mixture [1] of 2, cell [1] of 6: 0.100, average over 30 images; assigned"
    page.mouse.move(5, 5)
    assert page.locator("#tip").is_hidden()


def test_values_by_keyboard(page):
    canvas = page.locator("canvas")
    canvas.focus()
    assert page.locator(".cursor").is_hidden()
    for key, where in (
        ("ArrowDown", "conv1 <b>, mixture [0] of 2, cell [0]"),  # the first key shows where one is
        ("ArrowDown", "conv1 <b>, mixture [1] of 2, cell [0]"),
        ("End", "conv1 <b>, mixture [1] of 2, cell [5]"),
        ("ArrowRight", "conv1 <b>, mixture [1] of 2, cell [5]"),
        ("PageDown", "conv2 <b>, mixture [0] of 2, cell [5]"),
        ("ArrowLeft", "conv2 <b>, mixture [0] of 2, cell [4]"),
        ("PageUp", "conv1 <b>, mixture [0] of 2, cell [4]"),
        ("Home", "conv1 <b>, mixture [0] of 2, cell [0]"),
    ):
        page.keyboard.press(key)
        assert said(page).startswith(where), key
    assert page.locator(".cursor").is_visible()
    assert page.locator("[role=status]").count() == 1
    chart = page.locator(".chart svg[tabindex]").first
    chart.focus()
    for key, epoch in (("ArrowRight", 1), ("ArrowRight", 2), ("End", 4), ("ArrowLeft", 3), ("Home", 1)):
        page.keyboard.press(key)
        assert said(page, ".chart") == f"epoch {epoch}: training {2 / epoch:.4g}, validation {3 / epoch:.4g}"


def test_curves_under_the_pointer(page):
    svg = page.locator(".chart svg[tabindex]").first
    svg.scroll_into_view_if_needed()
    box = svg.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 50)
    assert page.locator("#tip").text_content() == "epoch 4: training 0.5, validation 0.75"
    assert svg.locator(".at").get_attribute("visibility") == "visible"


def test_screen_readers_hear_keys_and_taps_alone(page):
    def spoken() -> str:
        return page.locator("[role=status]").text_content()

    over(page, 3, 4)
    over(page, 1, 1)
    svg = page.locator(".chart svg[tabindex]").first
    svg.scroll_into_view_if_needed()
    svg.hover()
    assert said(page).startswith("conv1 <b>, mixture [1] of 2, cell [1]")
    assert said(page, ".chart").startswith("epoch")
    assert spoken() == ""
    over(page, 3, 4)
    page.mouse.down()
    assert spoken() == said(page) != ""
    page.mouse.up()
    for element, key, figure in (("canvas", "Home", ".map"), (".chart svg[tabindex]", "End", ".chart")):
        page.locator(element).first.focus()
        page.keyboard.press(key)
        assert spoken() == said(page, figure)
    box = page.locator("[role=status]").bounding_box()
    assert (box["width"], box["height"]) == (1, 1)


def test_names_of_classes_are_whole(page):
    page.evaluate("document.querySelector('.matrix thead th span').textContent = 'a long name, '.repeat(9)")
    cut = """[...document.querySelectorAll(".matrix thead th span")].filter((name) =>
        name.scrollHeight > name.clientHeight || name.scrollWidth > name.clientWidth || name.clientHeight > 150
        || name.getBoundingClientRect().width > name.parentElement.getBoundingClientRect().width).length"""
    assert page.evaluate(cut) == 0


def test_averages_of_classes(page):
    page.select_option("#average", label=f"images of {CLASSES[1]}")
    over(page, 3, 4)
    assert said(page).endswith(f"cell [4] of 6: 0.0100, average over images of {CLASSES[1]} minus that over all")
    page.uncheck("#difference")
    over(page, 3, 4)
    assert said(page).endswith(f"cell [4] of 6: −0.0900, average over images of {CLASSES[1]}")
    page.select_option("#average", label="all images")
    assert page.locator("#difference").is_disabled()


def test_colours_are_those_of_the_values(page):
    def pixel(row, column):
        return page.evaluate(PIXEL, [row, column])

    assert pixel(0, 5) == [33, 102, 172]  # the lowest of all, at the end of the scale
    assert pixel(1, 2) == [247, 247, 247]  # zero
    red, green, blue = pixel(3, 2)  # 0.1 of 0.4
    assert red > green
    assert red > blue
    page.emulate_media(color_scheme="dark")
    drawn(page)
    assert pixel(1, 2) == [38, 43, 52]


def test_both_schemes_have_contrast(page):
    shots = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        drawn(page)
        found = page.evaluate(CONTRASTS)
        assert len(found) > 200
        assert not [(round(ratio, 2), text) for ratio, text in found if ratio < 4.5]
        shots.append(page.screenshot())
        keep(page, scheme)
    assert shots[0] != shots[1]


def test_a_phone(page):
    page.set_viewport_size({"width": 320, "height": 700})
    page.evaluate("document.querySelectorAll('details').forEach((element) => { element.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    over(page, 2, 0)
    assert said(page).startswith("conv2 <b>, mixture [0] of 2, cell [0] of 6: 0.200")
    box = page.locator("#tip").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 320
    keep(page, "phone")


def test_nothing_moves_for_those_who_do_not_want_it(page):
    behaviour = "getComputedStyle(document.documentElement).scrollBehavior"
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(behaviour) == "smooth"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(behaviour) == "auto"
