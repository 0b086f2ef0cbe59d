"""A profile as text: a row a stage, or a row a layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dynaconv.planning.table import align

if TYPE_CHECKING:
    from dynaconv.analysis.profile import ModuleProfile, Profile

HEADER = ("module", "kind", "params", "MAdds", "convolution", "mixing", "attention", "activations", "kernels")


def format_count(value: int) -> str:
    """A count with three digits and a unit.

    Example:
        >>> format_count(1_814_073_344), format_count(65), format_count(0)
        ('1.81G', '65', '-')
    """
    if value == 0:
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{value / size:.3g}{unit}" if value < 999.5 * size else f"{value / size:,.0f}{unit}"
    return str(value)


def format_bytes(value: int) -> str:
    """Bytes in binary units."""
    if value == 0:
        return "-"
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value} B"


def _cells(name: str, kind: str, rows: Iterable[ModuleProfile]) -> tuple[str, ...]:
    rows = list(rows)
    counts = [sum(getattr(r, key) for r in rows) for key in ("madds", "convolution", "mixing", "attention")]
    return (
        name,
        kind,
        f"{sum(r.parameters for r in rows):,}",
        *map(format_count, counts),
        format_bytes(sum(r.activation_bytes for r in rows)),
        format_bytes(sum(r.kernel_bytes for r in rows)),
    )


def _stage(name: str) -> str:
    """The part of a module's name that stands for its stage: ``layer1``, ``blocks.3``."""
    parts = name.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 and parts[1].isdigit() and not parts[0][-1:].isdigit() else parts[0]


def profile_table(profile: Profile, by_layer: bool) -> str:
    """Format a profile for reading in a terminal."""
    if by_layer:
        body = [_cells(row.name or "(itself)", row.kind, [row]) for row in profile.rows]
    else:
        stages: dict[str, list[ModuleProfile]] = {}
        for row in profile.rows:
            stages.setdefault(_stage(row.name) or "(itself)", []).append(row)
        body = [_cells(name, _kinds(rows), rows) for name, rows in stages.items()]
    lines = align([HEADER, *body, _cells("total", "", profile.rows)], left=2)
    rule = "-" * max(map(len, lines))
    size = "x".join(map(str, (profile.batch_size, *profile.input_size)))
    return "\n".join(
        [
            lines[0],
            rule,
            *lines[1:-1],
            rule,
            lines[-1],
            "",
            f"input {size}; parameters {profile.parameters:,}; multiply-adds {profile.madds:,} "
            f"(convolution {profile.convolution:,}, mixing {profile.mixing:,}, attention {profile.attention:,})",
            f"products really run, in the order this library picks: {profile.executed_madds:,} multiply-adds",
        ]
    )


def _kinds(rows: Iterable[ModuleProfile]) -> str:
    """The classes that do the work, most frequent first."""
    counts: dict[str, int] = {}
    for row in rows:
        if row.madds:
            counts[row.kind] = counts.get(row.kind, 0) + 1
    return ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items(), key=lambda item: -item[1]))
