"""Draw the picture of a report's page: maps on a desktop, curves on a phone in the dark, a value read in each.

``.venv-examples/bin/python docs/make_report_picture.py REPORT.html`` writes docs/pictures/report.png. It needs
Chromium, and playwright, which ``make examples`` installs.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

PICTURE = Path(__file__).parent / "pictures" / "report.png"
DESKTOP, PHONE = (900, 760), (360, 760)
SETTLED = 2000
"""Milliseconds."""
BORDER, GREY = 12, (140, 152, 166)


def shot(browser: Any, url: str, size: tuple[int, int], scheme: str, top: str, point: str) -> Image.Image:
    """A picture of a window.

    Args:
        browser: of playwright.
        url: of the page.
        size: of the window, width and height.
        scheme: light or dark.
        top: what the window begins with, as a selector.
        point: what the pointer is at, a third of the way from its left and top.
    """
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page.goto(url)
    page.locator(top).first.evaluate("element => element.scrollIntoView({behavior: 'instant'})")
    page.wait_for_timeout(SETTLED)  # scrolling takes a readout away, and is drawn later
    box = page.locator(point).first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + min(box["height"], size[1]) / 3)
    page.wait_for_timeout(SETTLED)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    page.close()
    return image


def main(report: str) -> None:
    """Draw it."""
    url = Path(report).resolve().as_uri()
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        desktop = shot(browser, url, DESKTOP, "light", ".choice", "figure.map canvas >> nth=1")
        phone = shot(browser, url, PHONE, "dark", ".charts figure", "svg[role=application]")
        browser.close()
    both = Image.new("RGB", (DESKTOP[0] + BORDER + PHONE[0], DESKTOP[1]), GREY)
    both.paste(desktop, (0, 0))
    both.paste(phone, (DESKTOP[0] + BORDER, 0))
    both.save(PICTURE, optimize=True)
    print(PICTURE)


if __name__ == "__main__":
    main(*sys.argv[1:])
