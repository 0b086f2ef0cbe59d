"""What does not fit between weights and a network, by names and shapes, and the causes that are found for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]

_DYNAMIC = re.compile(r"(?:(.*)\.)?((?:attention|residual|warehouse)\..+|kernel|dft_weight)")


@dataclass(frozen=True)
class Cause:
    """One reason why weights do not fit.

    Args:
        title: what is the matter.
        names: the tensors that show it, with their shapes where these differ.
        fix: what to do.
        harmless: whether loading can go on, the network keeping what it has.
    """

    title: str
    names: tuple[str, ...]
    fix: str
    harmless: bool = False

    def __str__(self) -> str:
        """Title, count, the first names, and the fix."""
        shown = ", ".join(self.names[:3]) + (f", and {len(self.names) - 3} more" if len(self.names) > 3 else "")
        return f"{self.title} ({len(self.names)}): {shown}\n    -> {self.fix}"


class Pool:
    """What is not yet explained: names that the weights lack, that they have besides, and whose shapes differ."""

    def __init__(self, expected: Shapes, given: Shapes) -> None:
        self.expected, self.given = expected, given
        self.missing = [name for name in expected if name not in given]
        self.unexpected = [name for name in given if name not in expected]
        self.misshaped = [name for name in expected if name in given and expected[name] != given[name]]

    def take(self, names: Iterable[str]) -> tuple[str, ...]:
        """Take names out of the pool, those that are in it; as text, with both shapes where they differ."""
        wanted, left = dict.fromkeys(names), {name for part in self._parts() for name in part}
        for part in self._parts():
            part[:] = [name for name in part if name not in wanted]
        return tuple(self._text(name) for name in wanted if name in left)

    def _parts(self) -> tuple[list[str], list[str], list[str]]:
        return self.unexpected, self.misshaped, self.missing

    def _text(self, name: str) -> str:
        if name in self.expected and name in self.given:
            return f"{name} {self.given[name]}, here {self.expected[name]}"
        return name

    def __bool__(self) -> bool:
        return any(self._parts())


def layer_of(name: str) -> str | None:
    """The dynamic layer that a tensor belongs to, by its name."""
    found = _DYNAMIC.fullmatch(name)
    return None if found is None else found[1] or ""
