"""What a benchmark measures: networks, batches, how often, on what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from dynaconv.errors import DynaconvError
from dynaconv.models import get_preset, list_models

NETWORKS = (
    "kw1x_resnet18",
    "kw4x_resnet18",
    "kw1x_resnet50",
    "kw1x_mobilenetv2_100",
    "kw1x_convnext_tiny",
    "od4x_resnet18",
    "dy4x_resnet18",
)
"""What is measured if nobody says otherwise."""


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """What to measure.

    Args:
        networks: presets.
        inference_batches: images of a forward pass in evaluation mode; none for no inference.
        training_batches: images of a forward and backward pass; none for no training.
        image_size: side in pixels.
        rounds: how often each contender is timed; up to five times as often where that takes no time.
        threads: of PyTorch; as they are if None.
        device: ``"cpu"`` or ``"cuda"``.
        patience: seconds of one call from which a contender is timed in a single round.
        compiled: also time ``torch.compile`` of the network.
        memory: whether to measure peak memory, of training at its largest batch and of inference.
        memory_batch: images of the inference whose memory is measured.
        max_extra_mb: memory that preparing a network for inference may add.

    Raises:
        DynaconvError: if a network is not known, or a number is out of range.
    """

    networks: tuple[str, ...] = NETWORKS
    inference_batches: tuple[int, ...] = (1, 4, 16, 64)
    training_batches: tuple[int, ...] = (16, 32)
    image_size: int = 224
    rounds: int = 10
    threads: int | None = None
    device: str = "cpu"
    patience: float = 20.0
    compiled: bool = False
    memory: bool = True
    memory_batch: int = 16
    max_extra_mb: float = 256.0

    def __post_init__(self) -> None:
        if not self.networks:
            raise DynaconvError("no networks; give at least one preset (`dynaconv models` lists them)")
        for name in self.networks:
            get_preset(name)
        check_once("network", self.networks)
        for kind in ("inference_batches", "training_batches"):
            for batch in getattr(self, kind):
                check_number(kind, batch)
            check_once(kind, getattr(self, kind))
        if not self.inference_batches and not self.training_batches:
            raise DynaconvError("inference_batches and training_batches are both empty; give at least one batch")
        for kind in ("image_size", "rounds", "memory_batch"):
            check_number(kind, getattr(self, kind))
        if self.threads is not None:
            check_number("threads", self.threads)
        if not self.patience > 0:
            raise DynaconvError(f"patience={self.patience!r}; expected seconds above 0")
        if not 0 <= self.max_extra_mb < math.inf:
            raise DynaconvError(f"max_extra_mb={self.max_extra_mb!r}; expected megabytes, at least 0")
        if self.device not in ("cpu", "cuda"):
            raise DynaconvError(f"device={self.device!r}; expected 'cpu' or 'cuda'")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise DynaconvError("device='cuda', but PyTorch sees no CUDA device here; take 'cpu'")

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def find_networks(names: Sequence[str]) -> tuple[str, ...]:
    """Presets by name or by pattern, each once.

    Args:
        names: as ``kw1x_resnet18`` or ``kw*_resnet18``.

    Raises:
        DynaconvError: if a pattern matches nothing, or a name is not known.
    """
    found: list[str] = []
    for name in names:
        if any(sign in name for sign in "*?["):
            if not list_models(name):
                raise DynaconvError(f"no preset matches '{name}'; `dynaconv models` lists all {len(list_models())}")
            found += list_models(name)
        else:
            found.append(get_preset(name).name)
    return tuple(dict.fromkeys(found))


def check_number(name: str, value: Any) -> None:
    """Refuse what is no whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DynaconvError(f"{name}: {value!r}; expected a whole number, at least 1")


def check_once(name: str, values: Sequence[Any]) -> None:
    """Refuse what is given more than once."""
    if twice := sorted({str(value) for value in values if values.count(value) > 1}):
        raise DynaconvError(f"{name}: {', '.join(twice)} is given more than once; give each once")
