"""What a network is traced and checked with: tensors of the right shape, type and number, the same every time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dynaconv.errors import DynaconvError
from dynaconv.export.settings import ExportSettings

BATCHES = (1, 2, 5, 16)
"""Images at once with which a file that takes any number is checked."""
FIXED_SAMPLES = 4
"""Batches with which a file of a fixed number is checked."""
GROWTH = 32
"""Pixels by which the first side of the second image size is longer: outputs grow, and images are not square."""


def example_of(
    model: nn.Module,
    settings: ExportSettings,
    input_size: Sequence[int] | None = None,
    example: Sequence[Tensor] | None = None,
    description: Mapping[str, Any] | None = None,
) -> tuple[Tensor, ...]:
    """Inputs to trace a network with, on the CPU, in float32 where they are noise.

    Args:
        model: the network.
        settings: say how many images the file takes; 2 here if any number, since PyTorch makes a constant of 1.
        input_size: channels and spatial sizes of one image.
        example: inputs, for a network that takes others.
        description: of its checkpoint, whose image size is taken if neither is given.

    Raises:
        DynaconvError: if both are given, if neither is and the network does not know its usual size, or if a size is
            none.
    """
    batch = 2 if settings.dynamic_batch else settings.batch_size
    if example is not None:
        if input_size is not None:
            raise DynaconvError("both input_size and example were given; one of them says what the network takes")
        tensors = (example,) if isinstance(example, Tensor) else tuple(example)
        if not tensors or not all(isinstance(x, Tensor) and x.dim() and x.shape[0] for x in tensors):
            kinds = ", ".join(type(x).__name__ for x in tensors) or "nothing"
            raise DynaconvError(f"example holds {kinds}; expected a tuple of tensors, each of a batch of samples")
        return tuple(of_batch(x.detach().cpu(), batch).contiguous() for x in tensors)
    size = input_size if input_size is not None else described_size(description) or usual_size(model)
    if not isinstance(size, Sequence) or not size or not all(isinstance(n, int) and n > 0 for n in size):
        raise DynaconvError(f"input_size={size!r}; expected channels and sides of one image, such as (3, 224, 224)")
    return (noise((batch, *size), seed=0),)


def described_size(description: Mapping[str, Any] | None, side: int | None = None) -> tuple[int, ...] | None:
    """Channels and sides of the images that a checkpoint's network was trained on; None if it does not say.

    Args:
        description: of :func:`dynaconv.checkpoints.native.load_checkpoint`.
        side: in place of the one that it says.

    Example:
        >>> described_size({"model": {"in_chans": 1}, "image_size": 28})
        (1, 28, 28)
    """
    side = (description or {}).get("image_size") if side is None else side
    if description is None or side is None:
        return None
    return (description.get("model", {}).get("in_chans", 3), side, side)


def usual_size(model: nn.Module) -> tuple[int, ...]:
    """Channels and sides that timm notes for a network.

    Raises:
        DynaconvError: if nothing is noted.
    """
    for module in model.modules():  # a wrapper's network knows, too
        noted = getattr(module, "pretrained_cfg", None)
        if isinstance(noted, Mapping) and noted.get("input_size"):
            channels = getattr(module, "in_chans", None)
            size = tuple(noted["input_size"])
            return (channels, *size[1:]) if isinstance(channels, int) else size
    raise DynaconvError(
        f"{type(model).__name__} does not say what it takes; give input_size=(channels, *sides) of one image, or "
        "example=(tensors, ...)"
    )


def noise(shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal numbers, the same for a seed."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def of_batch(x: Tensor, batch: int) -> Tensor:
    """As many samples as asked for: the first ones, all again where there are fewer."""
    return x[torch.arange(batch) % x.shape[0]]


def check_inputs(
    example: Sequence[Tensor], settings: ExportSettings, growth: int | None = GROWTH
) -> list[tuple[Tensor, ...]]:
    """Inputs to compare a file with its network on: every batch size, at every image size.

    Args:
        example: that the network was traced with.
        settings: what may vary. Where the batch may not, there are several batches, whose outputs differ.
        growth: of :func:`growth_of`.

    Returns:
        Lists of inputs: the example's floating-point tensors as noise of about its mean and spread, others repeated.
    """
    batches = BATCHES if settings.dynamic_batch else (settings.batch_size,) * FIXED_SAMPLES
    found = []
    for more in (0, growth) if settings.dynamic_size else (0,):
        for number, batch in enumerate(batches):
            seed = number + 1 + (0 if more == 0 else 100)
            found.append(tuple(_like(x, batch, more, seed) for x in example))
    return found


def growth_of(model: nn.Module, example: Sequence[Tensor], settings: ExportSettings) -> int | None:
    """By how many pixels the first side of the second image size is longer: GROWTH; None: it is twice as long.

    That is for networks that take multiples of a number alone, as of the size of their patches.

    Args:
        model: the network, in evaluation.
        example: that it was traced with.
        settings: what may vary.
    """
    if not settings.dynamic_size:
        return GROWTH
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    larger = [_like(x, x.shape[0], GROWTH, seed=0).to(device) for x in example]
    try:
        with torch.no_grad():
            model(*larger)
    except Exception:  # whatever a network's own code may raise
        return None
    return GROWTH


def _like(x: Tensor, batch: int, growth: int | None, seed: int) -> Tensor:
    shape = list(x.shape[1:])
    if len(shape) > 1:
        shape[1] = 2 * shape[1] if growth is None else shape[1] + growth
    if not x.is_floating_point():
        if shape != list(x.shape[1:]):
            raise DynaconvError(f"an input of type {x.dtype} can not be made longer; leave dynamic_size out")
        return of_batch(x, batch)
    mean, spread = (float(v) for v in (x.float().mean(), x.float().std())) if x.numel() > 1 else (0.0, 1.0)
    return (noise_images((batch, *shape), seed) * spread + mean).to(x.dtype)


def noise_images(shape: Sequence[int], seed: int) -> Tensor:
    """Noise of which every sample has a brightness and a contrast of its own, so that networks tell them apart."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tuple(shape), generator=generator)
    ones = (shape[0], *(1,) * (len(shape) - 1))
    contrast = torch.rand(ones, generator=generator) * 1.5 + 0.25
    return x * contrast + torch.randn(ones, generator=generator)
