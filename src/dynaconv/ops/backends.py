"""Which backend computes a dynamic convolution: the cost model's choice, or one that somebody pins."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from dynaconv.errors import DynaconvError

BACKENDS = {
    "auto": "the cost model's choice, by shapes alone",
    "autotune": "measured once for every shape, then remembered in this process",
    "textbook": "make all B kernels, then one grouped convolution over samples, as the papers' codes do",
    "grouped": "kernels of a block of samples, then one grouped convolution",
    "loop": "a plain convolution per sample",
    "matmul": "patches times kernels, one batched product",
    "outputs": "apply all cells as one static convolution, then mix the outputs",
    "native": "the compiled CPU kernels, which mix and convolve in one go",
    "triton": "the CUDA kernel for point-wise layers",
}

_pinned = "auto"


class use_backend:
    """Pin the backend of every dynamic layer, at once, and until the end of a ``with`` block if used as one.

    A layer that the pinned backend can not do (``"outputs"`` with groups, ``"native"`` on a GPU) is computed by the
    cost model's choice instead: what is pinned is speed, never the function.

    Args:
        name: one of :data:`BACKENDS`.

    Raises:
        DynaconvError: if there is no such backend.

    Example:
        >>> with use_backend("textbook"):
        ...     pinned_backend()
        'textbook'
        >>> pinned_backend()
        'auto'
    """

    def __init__(self, name: str) -> None:
        global _pinned
        if name not in BACKENDS:
            raise DynaconvError(f"backend {name!r} is not known; expected one of {', '.join(BACKENDS)}")
        self.before = _pinned
        _pinned = name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _pinned
        _pinned = self.before


def pinned_backend() -> str:
    """The backend that is pinned, or ``"auto"``."""
    return _pinned
