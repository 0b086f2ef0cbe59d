"""How large a file is, beside the checkpoint it was made from."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from dynaconv.errors import DynaconvError, require

MB = 1e6
MORE = 0.05
"""Share by which a file, or its numbers, may take more room than the checkpoint."""
SMALL_BYTES = 10_000_000
"""Of checkpoints that are smaller, the file's numbers alone are looked at: a graph does not shrink with its weights."""
INDEX_BYTES = 4_096
"""Whole numbers that take no more are shapes and axes, a part of the graph; larger tables count as weights."""
SLACK_BYTES = 64_000
"""Shapes, indices and the like of a small network's graph."""


@dataclass(frozen=True)
class FileSize:
    """Bytes of a file.

    Args:
        total: of all its files.
        constants: of the weights in it, and of large tables of whole numbers; None where the format does not tell them
            from code.
        checkpoint: of the tensors in the network's ``state_dict``, each once.
        extra: that folded branches take.
    """

    total: int
    constants: int | None
    checkpoint: int
    extra: int = 0

    @property
    def graph(self) -> int | None:
        """Bytes of all that is no weight."""
        return None if self.constants is None else self.total - self.constants

    def to_dict(self) -> dict[str, int | None]:
        """Plain types."""
        return {**asdict(self), "graph": self.graph}

    def __str__(self) -> str:
        """A line."""
        parts = (
            ""
            if self.constants is None
            else f" ({self.constants / MB:.2f} weights, {(self.graph or 0) / MB:.2f} graph)"
        )
        return f"{self.total / MB:.2f} MB{parts}; the checkpoint's tensors are {self.checkpoint / MB:.2f} MB"

    def check(self, allowed_mb: float = 0.0, whole: bool = True) -> None:
        """Refuse a file that is larger than the network.

        Args:
            allowed_mb: that the file may take (1e6 bytes) beside what folded branches do.
            whole: whether the graph counts, too, where the checkpoint is no smaller than SMALL_BYTES.

        Raises:
            DynaconvError: if its weights, or the whole of it, take more than 5 % above the checkpoint, folded branches,
                and what is allowed.
        """
        held = self.constants
        limit = self.checkpoint * (1 + MORE) + self.extra + allowed_mb * MB
        if held is None:
            return
        if held > limit + SLACK_BYTES:
            what, taken = f"hold {held / MB:.2f} MB of weights", held
        elif whole and self.checkpoint >= SMALL_BYTES and self.total > limit:
            graph = (self.total - held) / MB
            what, taken = f"take {self.total / MB:.2f} MB, {held / MB:.2f} weights and {graph:.2f} graph", self.total
        else:
            return
        over = math.ceil((taken - self.checkpoint - self.extra) / MB * 10) / 10
        raise DynaconvError(
            f"the file would {what}, its checkpoint {self.checkpoint / MB:.2f}; expected at most {MORE:.0%} more. "
            f"If that is meant, allow it: max_extra_mb={over:.1f}"
        )


def state_bytes(model: nn.Module) -> int:
    """Bytes of a network's ``state_dict`` as a checkpoint holds it: tensors that share memory once.

    Example:
        >>> state_bytes(nn.Linear(3, 2))
        32
    """
    tensors = {(t.data_ptr(), t.shape, t.dtype) if t.numel() else id(t): t for t in model.state_dict().values()}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def onnx_constants(path: Path) -> Counter[tuple[Any, ...]]:
    """The weights in an ONNX file: bytes by type, shape and content, summed over every copy.

    Whole numbers of 32 and 64 bits count where they take more than INDEX_BYTES.

    Args:
        path: the file.
    """
    onnx = require("onnx", "export")
    held: Counter[tuple[Any, ...]] = Counter()
    indices = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
    for tensor in onnx.load(str(path)).graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if tensor.data_type in indices and array.nbytes <= INDEX_BYTES:
            continue
        held[(tensor.data_type, tuple(tensor.dims), hash(array.tobytes()))] += array.nbytes
    return held


def program_bytes(program: ExportedProgram) -> int:
    """Bytes of the numbers that a program carries, each storage once."""
    storages = {}
    for value in (*program.state_dict.values(), *program.constants.values()):
        if isinstance(value, Tensor):
            held = value.untyped_storage()
            if value.is_floating_point() or held.nbytes() > INDEX_BYTES:
                storages[held.data_ptr()] = held.nbytes()
    return sum(storages.values())
