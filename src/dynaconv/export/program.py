"""From a network to a graph: torch.export, with batch and size as symbols where they may vary."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dynaconv.export.settings import ExportSettings


def trace(model: nn.Module, example: tuple[Tensor, ...], settings: ExportSettings) -> ExportedProgram:
    """Follow a network.

    Args:
        model: of :func:`dynaconv.export.network.deployable`.
        example: inputs, each ``(B, C, *size)``; a batch that may vary has at least 2 here.
        settings: what may vary.
    """
    shapes = tuple(
        {
            **({0: Dim.DYNAMIC} if settings.dynamic_batch else {}),
            **(dict.fromkeys(range(2, x.dim()), Dim.AUTO) if settings.dynamic_size else {}),
        }
        for x in example
    )
    with torch.no_grad():
        return torch.export.export(model, example, dynamic_shapes=shapes, strict=False)
