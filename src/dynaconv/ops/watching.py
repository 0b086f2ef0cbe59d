"""Whether somebody looks over the operators' shoulder."""

from __future__ import annotations

import torch


def watched() -> bool:
    """Whether somebody records or transforms operators, who would not see past compiled kernels."""
    private = torch._C
    return private._is_tracing() or private._are_functorch_transforms_active()  # pyright: ignore[reportAttributeAccessIssue]
