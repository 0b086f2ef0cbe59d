"""The page in a real browser: an image is dropped, chosen and pasted; `make examples` brings playwright along.

Pictures of it are kept in the folder that SERVE_SCREENSHOTS names.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from tests.browsing import launched, playwright
from tests.examples.serving import Brightness, encoded, picture, served

DROP = """([data, name, type]) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, { type }));
    const event = (kind) => document.querySelector("#drop").dispatchEvent(
        new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
    event("dragover");
    const over = document.querySelector("#drop").classList.contains("over");
    event("drop");
    return over && !document.querySelector("#drop").classList.contains("over");
}"""
PASTE = (
    DROP.split("const event")[0]
    + """document.dispatchEvent(
    new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true }));
}"""
)
WHITE = encoded(picture(160, 120).point(lambda value: 250))


@pytest.fixture(scope="module")
def browser():
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def service():
    with served(Brightness(), max_mb=0.1) as service:
        yield service


@pytest.fixture
def page(browser, service):
    context = browser.new_context(viewport={"width": 800, "height": 760})
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if "Content Security" in message.text else None)
    elsewhere: list[str] = []
    page.on("request", lambda request: elsewhere.append(request.url))
    page.on("filechooser", lambda chooser: None)  # from the start: Chromium is told so a moment after it is asked for
    page.goto(service.url)
    yield page
    context.close()
    assert not faults
    assert not [url for url in elsewhere if not url.startswith((service.url, "blob:", "data:"))]


def drop(page, data: bytes, name: str = "a.png", kind: str = "image/png", how: str = DROP):
    return page.evaluate(how, [base64.b64encode(data).decode(), name, kind])


def keep(page, name: str) -> None:
    if folder := os.environ.get("SERVE_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def check_classes(page, first: str = "<b>bright</b>") -> None:
    playwright.expect(page.locator("#classes li")).to_have_count(2)
    playwright.expect(page.locator("#classes li .name").first).to_have_text(first)
    playwright.expect(page.locator("#classes li .share").first).to_contain_text("%")
    assert page.locator("#classes b").count() == 0, "names of classes are text"
    assert page.locator("#error").is_hidden()


def test_an_image_that_is_dropped(page):
    playwright.expect(page.locator("#model")).to_contain_text("knows 2 classes: dark, <b>bright</b>")
    keep(page, "empty")
    assert drop(page, WHITE), "the box shows that something is above it"
    check_classes(page)
    assert page.locator("#preview").is_visible()
    playwright.expect(page.get_by_role("status")).to_contain_text("PNG, 160 × 120 pixels")
    bars = page.get_by_role("progressbar")
    assert bars.first.get_attribute("aria-label") == "<b>bright</b>"
    assert float(bars.first.evaluate("bar => bar.value")) > 0.8
    keep(page, "light")
    page.emulate_media(color_scheme="dark")
    keep(page, "dark")


def test_an_image_that_is_chosen_by_keyboard_or_pasted(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(
        {"name": "dark.png", "mimeType": "image/png", "buffer": encoded(picture(mode="L").point(lambda value: 0))}
    )
    check_classes(page, "dark")
    drop(page, WHITE, how=PASTE)
    playwright.expect(page.locator("#classes li .name").first).to_have_text("<b>bright</b>")


@pytest.mark.parametrize(
    ("data", "name", "kind", "says"),
    [
        (b"words", "a.txt", "text/plain", "The upload's type is text/plain."),
        (b"words", "a.png", "image/png", "These bytes are no image"),
        (WHITE[:200], "a.png", "image/png", "damaged or cut short"),
        (b"", "a.png", "image/png", "The upload is empty."),
        (bytes(2_000_000), "a.png", "image/png", "The upload is too large."),
    ],
    ids=["text", "no image", "truncated", "empty", "too large"],
)
def test_an_error_is_shown_as_the_service_says_it(page, data, name, kind, says):
    drop(page, WHITE)
    check_classes(page)
    drop(page, data, name, kind)
    playwright.expect(page.get_by_role("alert")).to_contain_text(says)
    playwright.expect(page.get_by_role("alert")).to_contain_text("Expected: ")
    assert page.locator("#answer").is_hidden()
    assert page.locator("#preview").is_hidden()
    if kind == "text/plain":
        keep(page, "error")
    drop(page, WHITE)
    check_classes(page)


def test_a_phone(page):
    page.set_viewport_size({"width": 360, "height": 740})
    drop(page, WHITE, "a_long_name" * 12 + ".png")
    check_classes(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    keep(page, "phone")


def test_a_service_that_is_gone(page, service):
    page.route("**/classify*", lambda route: route.abort())
    drop(page, WHITE)
    playwright.expect(page.get_by_role("alert")).to_contain_text("The service does not answer.")
