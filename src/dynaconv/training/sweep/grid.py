"""The grid of a sweep: every combination of some values of a recipe's fields, as contenders."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dynaconv.errors import DynaconvError
from dynaconv.training.comparison.contenders import Contender
from dynaconv.training.config import Recipe
from dynaconv.training.yaml_files import parse_yaml

ELSEWHERE = {
    "method": "give --methods, with fields as METHOD:FIELD=VALUE",
    "where": "give --where, or a list with --contenders",
    "run.seed": "give --seeds",
    "run.devices": "a run has one device; give --jobs",
    "run.num_nodes": "a run has one device; give --jobs",
    "tune": "a sweep starts from scratch",
}
"""Fields that a grid can not vary, and what to do instead."""
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Read ``FIELD=VALUE,VALUE,...``, the values as in a list of YAML.

    Raises:
        DynaconvError: if a text is none, or a field or a value is given twice, or is varied elsewhere.

    Example:
        >>> parse_grid(["optimizer.lr=1e-3,4e-3", "augment.crop_scale=[0.1, 1],[0.5, 1]"])
        {'optimizer.lr': [0.001, 0.004], 'augment.crop_scale': [[0.1, 1], [0.5, 1]]}
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        name, _, listed = text.partition("=")
        try:
            values = parse_yaml(f"[{listed}]", text)
        except DynaconvError:
            values = None
        if not name or not values:
            raise DynaconvError(f"grid '{text}' can not be read; expected FIELD=VALUE,VALUE, as optimizer.lr=1e-3,4e-3")
        for field, advice in ELSEWHERE.items():
            if name == field or name.startswith(f"{field}."):
                raise DynaconvError(f"grid '{text}': {advice}")
        if name in grid:
            raise DynaconvError(f"grid field {name} is given twice; give all its values at once")
        values = [_number(value) for value in values]
        if twice := [value for i, value in enumerate(values) if value in values[:i]]:
            raise DynaconvError(f"grid '{text}' has {twice[0]!r} more than once")
        grid[name] = values
    return grid


def _number(value: Any) -> Any:
    """YAML takes 1e-3 for text."""
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value


def cross(contenders: Sequence[Contender], grid: Mapping[str, Sequence[Any]], recipe: Recipe) -> list[Contender]:
    """Every contender with every combination of a grid's values.

    Args:
        contenders: labels get the values.
        grid: dotted name of a recipe's field -> its values; empty for the contenders as they are.
        recipe: what all share; tried with each combination.

    Raises:
        DynaconvError: if a field is not known, or a value is outside its domain.
    """
    found = []
    for contender in contenders:
        for values in itertools.product(*grid.values()):
            changes = dict(zip(grid, values, strict=True))
            parts = [f"{name}={_short(value)}" for name, value in changes.items()]
            crossed = dataclasses.replace(contender, label=" ".join([contender.label, *parts]), changes=changes)
            crossed.recipe(recipe, 0)
            found.append(crossed)
    return found


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
