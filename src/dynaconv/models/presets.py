"""Every preset of the library."""

from __future__ import annotations

from dynaconv.models import family, gates, kernel_warehouse, odconv
from dynaconv.models.preset import Preset

PRESETS: tuple[Preset, ...] = (*kernel_warehouse.PRESETS, *odconv.PRESETS, *family.PRESETS, *gates.PRESETS)
