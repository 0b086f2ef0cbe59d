"""The library's own exceptions: each says what arrived, what was expected and what to do."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class DynaconvError(ValueError):
    """A request that can not be met; the base of every error the library raises on purpose."""


class PlanError(DynaconvError):
    """Layers, budget and sharing do not fit together."""


class PlanWarning(UserWarning):
    """A plan that can be carried out, but costs more than it brings or starts badly."""


class NothingSelectedError(PlanError):
    """No layer was selected for conversion; the message lists what could have been."""


class LostWarehouseError(DynaconvError):
    """A layer runs without the warehouse that owns its cells."""


class CheckpointError(DynaconvError):
    """A checkpoint does not fit the network, or is none."""


class StorageError(DynaconvError, OSError):
    """A file can not be written: no room, no permission, no folder."""


class ParityError(DynaconvError):
    """An exported file computes another function than its network: ``ParityError(message, report)``.

    Args:
        message: tolerance, worst error, where it was met, and the first layer that differs.
        report: the :class:`dynaconv.export.report.ExportReport` of the file that was kept under another name.
    """

    def __init__(self, message: str, report: Any = None) -> None:
        super().__init__(message)
        self.report = report


class RunWarning(UserWarning):
    """Something happened to a training run that it survives."""


class ImageError(DynaconvError):
    """A file that can not be read as an image: ``ImageError(name, cause)``."""

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(name, cause)
        self.name, self.cause = name, cause

    def __str__(self) -> str:
        return f"{self.name} can not be read as an image: {self.cause}"


class UnknownModelError(DynaconvError):
    """A model name that is neither a preset nor a backbone."""


class MissingExtraError(DynaconvError, ImportError):
    """An optional package is needed and not installed."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Args:
        module: dotted module name, as in an import statement.
        extra: the extra of this package that installs it.

    Raises:
        MissingExtraError: if the module can not be imported because it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name.split(".")[0]):
            raise
        raise MissingExtraError(
            f"this needs the package '{error.name}', which is not installed; "
            f"install it with: pip install 'dynaconv[{extra}]'"
        ) from error
