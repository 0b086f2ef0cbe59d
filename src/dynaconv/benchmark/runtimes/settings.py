"""What a benchmark of runtimes measures, and about how long it takes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from dynaconv.benchmark.settings import check_number, check_once
from dynaconv.config import check_choice
from dynaconv.errors import DynaconvError
from dynaconv.models import get_preset

Runtime = Literal["eager", "compile", "onnxruntime", "openvino", "aoti"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
TITLES: dict[Runtime, str] = {
    "eager": "PyTorch",
    "compile": "torch.compile",
    "onnxruntime": "onnxruntime",
    "openvino": "OpenVINO",
    "aoti": "AOTInductor",
}
NETWORKS = (
    "kw1x_resnet18",
    "kw1x_resnet50",
    "kw1x_mobilenetv2_100",
    "kw1d2x_resnet18",
    "kw1x_convnext_tiny",
    "od4x_resnet18",
    "dy4x_resnet18",
)
"""What is measured if nobody says otherwise."""
SECONDS_TO_MAKE: dict[Runtime, float] = {"eager": 1, "compile": 60, "onnxruntime": 10, "openvino": 10, "aoti": 60}
SECONDS_TO_TIME = 6
"""Of a network on a ResNet's scale: to trace, write, compile and load it; and to time it in a batch."""


@dataclass(frozen=True, kw_only=True)
class RuntimeSettings:
    """What to measure.

    Args:
        networks: presets.
        runtimes: in which; PyTorch itself always takes part, since its outputs are what others are compared with.
        batches: images of a call; each has a file of its own, which takes this number alone.
        dynamic_batch: also one file for every batch, where the runtime reads a file.
        image_size: side in pixels.
        rounds: how often each is timed; up to five times as often where that takes no time.
        threads: of every runtime; PyTorch's number if None.
        max_extra_mb: memory that branches folded into cells may take.

    Raises:
        DynaconvError: if a network or a runtime is not known, or a number is out of range.
    """

    networks: tuple[str, ...] = NETWORKS
    runtimes: tuple[Runtime, ...] = ("eager", "onnxruntime", "openvino")
    batches: tuple[int, ...] = (1, 8)
    dynamic_batch: bool = True
    image_size: int = 224
    rounds: int = 10
    threads: int | None = None
    max_extra_mb: float = 0.0

    def __post_init__(self) -> None:
        for kind, values in (("network", self.networks), ("runtime", self.runtimes), ("batches", self.batches)):
            if not values:
                raise DynaconvError(f"{kind}: none is given; expected at least one")
            check_once(kind, values)
        for name in self.networks:
            get_preset(name)
        for runtime in self.runtimes:
            check_choice("runtime", runtime, RUNTIMES)
        for batch in self.batches:
            check_number("batches", batch)
        for kind in ("image_size", "rounds", "threads"):
            if getattr(self, kind) is not None:
                check_number(kind, getattr(self, kind))
        if not 0 <= self.max_extra_mb < math.inf:
            raise DynaconvError(f"max_extra_mb={self.max_extra_mb!r}; expected megabytes, at least 0")
        # PyTorch first: it is what the others are compared with.
        object.__setattr__(self, "runtimes", tuple(r for r in RUNTIMES if r == "eager" or r in self.runtimes))

    def to_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def estimate_minutes(settings: RuntimeSettings) -> float:
    """About how long a benchmark takes, in minutes on two cores, for networks of a ResNet's size."""
    files = 2 * len(settings.batches) + settings.dynamic_batch
    making = sum(SECONDS_TO_MAKE[runtime] * files for runtime in settings.runtimes)
    timing = SECONDS_TO_TIME * len(settings.batches) * len(settings.runtimes)
    return len(settings.networks) * (making + timing) / 60
