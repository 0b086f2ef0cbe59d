"""Images that can not be read: noted where they are met, in a worker, and counted where the run is.

In training another image takes the place, so that batches keep their size; in validation the image is left out. Both
are a function of the images alone, so a resumed run does the same.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch.utils.data import default_collate

from dynaconv.errors import DynaconvError
from dynaconv.training._lightning import Callback, LightningModule, Trainer

SHOWN = 5
"""Images that a message names."""

_logger = logging.getLogger(__name__)


class Fault(NamedTuple):
    """An image that could not be read.

    Args:
        name: path, or shard and key.
        cause: in a few words.
        fatal: training can not go on; the cause says all.
    """

    name: str
    cause: str
    fatal: bool = False


class Sample(NamedTuple):
    """What a worker makes of a place in the order.

    Args:
        image: tensor ``(C, H, W)``, or None if there is none.
        label: class number; of detectors, the objects.
        faults: images that could not be read in that place.
    """

    image: Any
    label: Any
    faults: Sequence[Fault] = ()


def collate(samples: Sequence[Sample], join: Callable[[Any], Any] = default_collate) -> tuple[Any, Any, list[Fault]]:
    """A batch of those that have an image, ``(images, labels, faults)``; images are None if none has.

    Args:
        samples: of a batch.
        join: from a list of (image, label) to images and labels.
    """
    faults = [fault for sample in samples for fault in sample.faults]
    read = [(sample.image, sample.label) for sample in samples if sample.image is not None]
    images, labels = join(read) if read else (None, None)
    return images, labels, faults


class Ledger:
    """Counts the images of an epoch that could not be read, in one process.

    Args:
        kind: of images, for messages: "training" or "validation".
        total: images of an epoch.
        max_share: largest share that may be unreadable, rounded up to whole images.
    """

    def __init__(self, kind: str, total: int, max_share: float) -> None:
        self.kind, self.total, self.max_share = kind, total, max_share
        self.faults: list[Fault] = []
        self._told: set[str] = set()

    def begin(self, faults: Sequence[Sequence[Any]] = ()) -> None:
        """Start an epoch, or go on in one that has met faults."""
        self.faults = [Fault(*fault) for fault in faults]

    def take(self, batch: tuple[Any, Any, list[Fault]]) -> tuple[Any, Any] | None:
        """Note a batch's faults; returns images and labels, None if no image is left.

        Raises:
            DynaconvError: if too many images can not be read, or one has no replacement.
        """
        images, labels, faults = batch
        for fault in faults:
            fault = Fault(*fault)  # pinning memory makes plain tuples of them
            if fault.fatal:
                raise DynaconvError(fault.cause)
            self.faults.append(fault)
        if len(self.faults) > math.ceil(self.max_share * self.total):
            raise DynaconvError(
                f"{self}; loader.max_bad={self.max_share:g} allows {math.ceil(self.max_share * self.total)} of "
                f"{self.total}: mend or remove them, or raise loader.max_bad"
            )
        return None if images is None else (images, labels)

    def report(self) -> str | None:
        """What to say of faults that were not told before, or None."""
        new = [fault for fault in self.faults if fault.name not in self._told]
        self._told.update(fault.name for fault in new)
        return _sentence(self.kind, new) if new else None

    def __str__(self) -> str:
        return _sentence(self.kind, self.faults)


def _sentence(kind: str, faults: Sequence[Fault]) -> str:
    listed = ", ".join(f"{fault.name} ({fault.cause})" for fault in faults[:SHOWN])
    more = ", ..." if len(faults) > SHOWN else ""
    return f"{len(faults)} {kind} image{'s' * (len(faults) != 1)} could not be read: {listed}{more}"


class UnreadableReport(Callback):
    """At the end of an epoch: logs ``unreadable`` and ``val_unreadable``, counts over all processes, and names images.

    Names are told once, each by the process that met the image, to Python's logger of this module.

    Args:
        ledgers: where to look, by the name of the count; filled when loaders are made.
    """

    def __init__(self, ledgers: dict[str, Ledger]) -> None:
        self.ledgers = ledgers

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log and tell."""
        for name, ledger in sorted(self.ledgers.items()):
            pl_module.log(name, float(len(ledger.faults)), sync_dist=True, reduce_fx="sum")
            if text := ledger.report():
                _logger.warning("epoch %d: %s", trainer.current_epoch + 1, text)
