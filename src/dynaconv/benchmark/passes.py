"""The two passes that are measured: inference, and a training step without its optimiser."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dynaconv
from dynaconv.benchmark.contenders import Contender

CLASSES = 1000


def make_batch(size: int, image_size: int, device: str) -> tuple[Tensor, Tensor]:
    """Noise with labels, always the same.

    Args:
        size: images.
        image_size: side in pixels.
        device: where.
    """
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, image_size, image_size, generator=draw)
    return images.to(device), torch.randint(CLASSES, (size,), generator=draw).to(device)


def make_pass(
    contender: Contender, model: nn.Module, batch: tuple[Tensor, Tensor], training: bool
) -> Callable[[], None]:
    """What is timed: a forward pass in inference mode, or forward, cross-entropy and backward.

    Args:
        contender: says layout, backend, and whether to compile.
        model: its network, which is switched to training or evaluation.
        batch: of :func:`make_batch`.
        training: which of the two.
    """
    images, labels = batch[0].contiguous(memory_format=contender.layout), batch[1]
    model.train(training)
    # Every batch size is compiled for itself: one that is known beforehand is what a server would compile for.
    run = torch.compile(model, dynamic=False) if contender.compiled else model

    def infer() -> None:
        with torch.inference_mode(), dynaconv.use_backend(contender.backend):
            run(images)

    def train() -> None:
        with dynaconv.use_backend(contender.backend):
            F.cross_entropy(run(images), labels).backward()
        model.zero_grad(set_to_none=True)

    return train if training else infer
