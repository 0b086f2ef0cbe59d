"""What MkDocs does here beside its plugins: formulas, pictures, a page's language, and files that pages link to.

Pages are written to be read in the repository too. There a link to ``../examples/serve/README.md`` works as it is; in
the site the file becomes a page of its own, ``repository/examples/serve/README.md``: Markdown as it is, code and YAML
as one block. What such pages link to follows in the same way. Formulas become MathML while the site is built, which
browsers draw without a script, and pictures become links to themselves, since few fit a phone.
"""

from __future__ import annotations

import html
import os
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()([^()#:\s]+)(?=(?:#[^()\s]*)?\))")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
PICTURE = re.compile(r'(?<!">)<img [^>]*?src="([^"]+)"[^>]*>')
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".txt": "text", "": "text"}


def on_files(files: Any, *, config: Any) -> Any:
    """Make pages of linked files outside of docs/; leave out pictures and figures that no page uses."""
    waiting = [_source(file.src_uri) for file in files.documentation_pages()]
    used: set[str] = set(waiting)
    for target in re.findall(r"repository/([^'\"]+)", repr(config.nav)):
        used.add(target)
        waiting.append(target)
        files.append(File.generated(config, _page(target), content=_content(target)))
    while waiting:
        page = waiting.pop()
        for target in sorted(_targets(page) - used):
            used.add(target)
            if target.endswith(".md") or not target.startswith("docs/"):
                waiting.append(target)
            if not target.startswith("docs/"):
                files.append(File.generated(config, _page(target), content=_content(target)))
    for file in list(files):
        if file.src_uri.startswith("results/") and _source(file.src_uri) not in used:
            files.remove(file)
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Point links to files outside of docs/ at their pages."""
    source = _source(page.file.src_uri)

    def point(found: re.Match[str]) -> str:
        target = _resolve(source, found[1])
        if target is None or (source.startswith("docs/") and target.startswith("docs/")):
            return found[0]
        return posixpath.relpath(_page(target), posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(point, markdown)


def on_page_content(content: str, *, page: Any, config: Any, files: Any) -> str:
    """Write formulas as MathML, and link pictures to their files.

    Raises:
        PluginError: if a formula is none.
    """
    if not re.search("<h[2-6]", content):
        page.meta["hide"] = ["toc"]  # nothing to list there, and tables need the room

    def draw(found: re.Match[str]) -> str:
        formula = html.unescape(found[2]).strip()
        try:
            drawn = convert(formula, display="inline" if found[1] == "span" else "block")
        except Exception as error:
            raise PluginError(f"{page.file.src_uri}: no formula: {formula} ({error!r})") from error
        if "\\" in drawn:
            raise PluginError(f"{page.file.src_uri}: a command that MathML has no sign for: {formula}")
        return drawn

    return PICTURE.sub(r'<a class="picture" href="\1">\g<0></a>', FORMULA.sub(draw, content))


def on_post_page(output: str, *, page: Any, config: Any) -> str:
    """Name the language of a page in Chinese, by which browsers pick fonts and screen readers a voice."""
    if not page.file.src_uri.endswith(".zh.md"):
        return output
    return output.replace('<html lang="en"', '<html lang="zh-Hans"', 1)


def _source(uri: str) -> str:
    """A page's file in the repository."""
    if not uri.startswith("repository/"):
        return f"docs/{uri}"
    path = uri.removeprefix("repository/")
    return path if (ROOT / path).is_file() else path.removesuffix(".md")


def _page(source: str) -> str:
    """The page of a file of the repository."""
    if source.startswith("docs/"):
        return source.removeprefix("docs/")
    return f"repository/{source}" if source.endswith(".md") else f"repository/{source}.md"


def _resolve(source: str, link: str) -> str | None:
    """The file of the repository that a link in one of them means, or None."""
    target = os.path.normpath(posixpath.join(posixpath.dirname(source), link))
    return target if not target.startswith("..") and (ROOT / target).is_file() else None


def _targets(source: str) -> set[str]:
    if not source.endswith(".md"):
        return set()
    found = (_resolve(source, link) for link in LINK.findall((ROOT / source).read_text()))
    return {target for target in found if target is not None}


def _content(source: str) -> str:
    text = (ROOT / source).read_text()
    if source.endswith(".md"):
        return text
    return f"# {source}\n\n`````{LANGUAGES[Path(source).suffix]}\n{text.rstrip()}\n`````\n"
