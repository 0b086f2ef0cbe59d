"""Pages of the documentation hold tables of committed results: this fills their places.

A place names its file, relative to the page, and ends where it says so::

    <!-- table: results/bench-NAME.json -->
    ...
    <!-- end of table -->
"""

from __future__ import annotations

import re
from pathlib import Path

from dynaconv.benchmark.bench import shown_results
from dynaconv.errors import DynaconvError
from dynaconv.files import write_text

PLACE = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
EMPTY = "Not measured yet.\n"


def fill_page(page: str | Path) -> list[Path]:
    """Write the table of every place that a page has.

    Args:
        page: a Markdown file.

    Returns:
        The files of results that the page shows.

    Raises:
        DynaconvError: if the page can not be read, has no place, or names a file that is no benchmark's.
    """
    page = Path(page)
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise DynaconvError(f"{page} can not be read: {error}") from error
    filled, shown = filled_text(text, page.parent)
    write_text(page, filled)
    if not shown:
        raise DynaconvError(
            f"{page}: no place names a file that exists; expected '<!-- table: results/bench-NAME.json -->' and, "
            "below it, '<!-- end of table -->'"
        )
    return shown


def filled_text(text: str, folder: Path) -> tuple[str, list[Path]]:
    """A page with its tables, and the files they come from.

    Args:
        text: the page.
        folder: that its places are relative to.
    """
    shown: list[Path] = []

    def fill(place: re.Match[str]) -> str:
        results = folder / place[2]
        if not results.is_file():
            return place[1] + EMPTY + place[4]
        shown.append(results)
        picture = Path(place[2]).with_suffix(".png")
        named = picture.as_posix() if (folder / picture).is_file() else None
        return place[1] + shown_results(results, named) + place[4]

    return PLACE.sub(fill, text), shown
