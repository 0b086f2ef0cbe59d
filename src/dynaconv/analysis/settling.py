"""Statistics for networks that were never trained, so that their time can be taken."""

from __future__ import annotations

import torch
from torch import nn

SETTLE_IMAGES = 16


def settle(model: nn.Module, image_size: int, in_chans: int = 3) -> None:
    """Give every BatchNorm the statistics of a few images of noise, each with a brightness and a contrast of its own.

    With those of a new network, numbers grow or vanish on their way through a deep one, as they do in no trained one;
    and a processor is slow with numbers that are nearly nothing. Were all images alike, the norms of attention branches
    would see pooled inputs that hardly differ, and enlarge rounding errors until nothing else is left.

    Args:
        model: on any device; it is left in training mode.
        image_size: side of the images.
        in_chans: their channels.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    device = next(model.parameters()).device
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(SETTLE_IMAGES, in_chans, image_size, image_size, generator=draw)
    contrast = 2 * torch.rand(SETTLE_IMAGES, in_chans, 1, 1, generator=draw)
    images = images * contrast + torch.randn(SETTLE_IMAGES, in_chans, 1, 1, generator=draw)
    try:
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            model.train()(images.to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
