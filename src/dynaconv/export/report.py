"""What an export came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynaconv.export.parity import Comparison
from dynaconv.export.settings import ExportSettings
from dynaconv.export.sizes import FileSize
from dynaconv.planning.table import align, format_shape


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """A file, and how it was checked; prints as a table.

    Args:
        path: the file.
        files: all that belong to it.
        settings: what was asked for.
        opset: of ONNX.
        inputs: names of the inputs, with type and shape; a side that varies is a name.
        outputs: names of the outputs.
        size: of the file.
        comparisons: runs of the file.
        own_error: of PyTorch itself in the file's type, relative to float64.
        reference_type: that the network was computed in, to compare with.
        notes: what else to know.
        seconds: that the steps took.
        fault: the first layer that differs, if one does.
    """

    path: Path
    files: tuple[Path, ...]
    settings: ExportSettings
    opset: int | None
    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    size: FileSize
    comparisons: tuple[Comparison, ...] = ()
    own_error: float | None = None
    reference_type: str | None = None
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    fault: str | None = None

    @property
    def checked(self) -> bool:
        """Whether the file was run."""
        return bool(self.comparisons)

    @property
    def passed(self) -> bool | None:
        """Whether every run was within the tolerance; None of a file that was not checked."""
        return not self.failed if self.checked else None

    @property
    def failed(self) -> bool:
        """Whether a run was not within the tolerance, or refused."""
        return not all(comparison.passed for comparison in self.comparisons)

    @property
    def worst(self) -> Comparison | None:
        """The run that was furthest off."""
        return max(self.comparisons, key=_error, default=None)

    def worst_errors(self) -> dict[str, float]:
        """The worst error of every runtime."""
        found: dict[str, float] = {}
        for comparison in sorted(self.comparisons, key=_error):
            found[comparison.runtime] = comparison.error
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON."""
        return {
            "path": str(self.path),
            "files": [str(path) for path in self.files],
            "settings": self.settings.to_dict(),
            "opset": self.opset,
            "inputs": dict(self.inputs),
            "outputs": list(self.outputs),
            "size": self.size.to_dict(),
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "own_error": self.own_error,
            "reference_type": self.reference_type,
            "notes": list(self.notes),
            "seconds": dict(self.seconds),
            "fault": self.fault,
            "checked": self.checked,
            "passed": self.passed,
        }

    def __str__(self) -> str:
        """What the file takes and gives, its size, and a line a run."""
        settings = self.settings
        kind = (
            settings.format + (f", opset {self.opset}" if self.opset else "") + (", float16" if settings.half else "")
        )
        takes = ", ".join(f"{name} {shape}" for name, shape in self.inputs.items())
        lines = [f"{self.path} ({kind}): {takes} -> {', '.join(self.outputs)}", str(self.size)]
        if self.comparisons:
            lines += ["", *_table(self.comparisons), ""]
            lines.append(
                f"errors: relative to the spread of outputs over samples, from the network in {self.reference_type}; "
                f"PyTorch's own in the file's type: {self.own_error:.1e}"
            )
        elif not settings.check:
            lines.append("not checked, as asked")
        lines += self.notes
        lines.append("; ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items()))
        return "\n".join(lines)


def _error(comparison: Comparison) -> float:
    return comparison.error if comparison.error == comparison.error else float("inf")


def _table(comparisons: Sequence[Comparison]) -> list[str]:
    rows = [("runtime", "batch", "input", "worst error", "tolerance", "")]
    for run in comparisons:
        figures = (str(run.batch), format_shape(run.size), f"{run.error:.1e}", f"{run.tolerance:.1e}")
        rows.append((run.runtime, *figures, "" if run.passed else "REFUSED" if run.refused else "FAILED"))
    return align(rows, left=1)
