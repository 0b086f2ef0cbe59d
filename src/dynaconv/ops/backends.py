"""Which backend computes a dynamic convolution: the cost model's choice, or one that somebody pins."""

from __future__ import annotations

import threading
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
_blocks: list[use_backend] = []
"""``with`` blocks that are not over, of all threads, the latest last."""
_changing = threading.RLock()


class use_backend:
    """Pin the backend of every dynamic layer, at once, and until the end of a ``with`` block if used as one.

    A layer that the pinned backend can not do (``"outputs"`` with groups, ``"native"`` on a GPU) is computed by the
    cost model's choice instead: what is pinned is speed, never the function.

    It is pinned for all threads. Where blocks of several threads overlap, the latest counts, and what was pinned before
    them all is so again when the last is over, in whatever order they end.

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
        with _changing:
            self.before = _pinned
            _pinned = name

    def __enter__(self) -> Self:
        with _changing:
            _blocks.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _pinned
        with _changing:
            place = _blocks.index(self)
            del _blocks[place]
            if place < len(_blocks):  # one that began later, in another thread, goes on
                _blocks[place].before = self.before
            else:
                _pinned = self.before


def pinned_backend() -> str:
    """The backend that is pinned, or ``"auto"``."""
    return _pinned
