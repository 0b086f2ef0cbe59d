"""What ``--json`` prints: JSON that every reader takes, also where a figure is no finite number."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(value: Any, indent: int | None = 2) -> str:
    """Plain types as JSON. Infinity and NaN, which JSON does not know, are ``null``.

    Args:
        value: mappings, sequences, texts, numbers, truth values and None.
        indent: of levels, in spaces; None for one line.

    Example:
        >>> json_text({"loss": float("nan"), "errors": (0.5, float("inf"))}, indent=None)
        '{"loss": null, "errors": [0.5, null]}'
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
