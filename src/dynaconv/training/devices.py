"""A network on the device that a user named."""

from __future__ import annotations

from torch import nn

from dynaconv.errors import DynaconvError


def place(model: nn.Module, device: str) -> None:
    """Move a network.

    Args:
        model: any.
        device: as PyTorch names it, such as ``cuda``.

    Raises:
        DynaconvError: if there is no such device here.
    """
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise DynaconvError(f"device {device!r} can not be used here: {error}; cpu always can") from error
