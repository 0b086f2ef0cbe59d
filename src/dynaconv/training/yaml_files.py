"""YAML that says one thing: plain types alone, no key twice, nothing that unfolds into more than was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from dynaconv.errors import DynaconvError

LONGEST_BYTES = 2**20
"""Longer files are not read; a recipe has two thousand."""


def read_yaml(path: str | Path) -> Any:
    """Content of a YAML file.

    Raises:
        DynaconvError: if it can not be read, is no YAML, has a key twice, or an alias.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LONGEST_BYTES:
            raise DynaconvError(f"{path} has {path.stat().st_size:,} bytes; expected at most {LONGEST_BYTES:,}")
        return parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DynaconvError(f"{path} can not be read as YAML: {error}") from error


def parse_yaml(text: str, name: str) -> Any:
    """Plain types from YAML.

    Args:
        text: YAML.
        name: of the text, for errors.

    Raises:
        DynaconvError: if it is no YAML, has a key twice, or an alias.
    """
    try:
        return yaml.load(text, _PlainLoader)  # a SafeLoader
    except Exception as error:  # wrong tags let it raise KeyError, IndexError, AttributeError, ...
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise DynaconvError(f"{name} can not be read as YAML: {reason or type(error).__name__}") from error


class _PlainLoader(yaml.SafeLoader):
    """YAML's safe loader without aliases, which can unfold into a billion values, and without repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise ComposerError(None, None, f"alias *{event.anchor}: write it out", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConstructorError(None, None, f"{twice} are given twice", node.start_mark)
        return super().construct_mapping(node, deep)
