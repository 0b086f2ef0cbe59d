"""Docstrings as mkdocstrings reads them: cross-references as code, and ``Example:`` as the section it means."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Rewrites what the house writes for reading in an editor."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one object's docstring, if it has one."""
        if obj.docstring is None:
            return
        text = re.sub(r":(?:class|func|mod|meth|data|attr):`~?([^`]*)`", r"`\1`", obj.docstring.value)
        obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", text)
