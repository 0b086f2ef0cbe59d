"""What runs ask of their data, whatever they train."""

from __future__ import annotations

from typing import Any, Protocol

from dynaconv.training.data.unreadable import Ledger


class RunData(Protocol):
    """A LightningDataModule that is set up."""

    data: str
    classes: tuple[str, ...]
    ledgers: dict[str, Ledger]

    def summary(self) -> dict[str, Any]:
        """What the data are, to be compared with another time: ``classes``, numbers of images ``train`` and ``val``."""
        ...
