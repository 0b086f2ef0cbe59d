"""Norms on batches that processes share unevenly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynaconv.nn.norm import BranchBatchNorm
from tests.nn.cases import animate


@dataclass(frozen=True)
class NormCase:
    """A norm, and how many samples each of two processes has in each of the steps."""

    kind: Callable[[], nn.Module]
    size: tuple[int, ...]
    counts: tuple[tuple[int, int], ...]
    layout: torch.memory_format = torch.contiguous_format

    def make(self) -> nn.Module:
        torch.manual_seed(3)
        norm = self.kind().double()
        animate(norm)
        for value in norm.parameters():
            nn.init.uniform_(value, 0.5, 1.5)
        return norm

    def batches(self) -> list[Tensor]:
        """Both processes' samples together."""
        draw = torch.Generator().manual_seed(4)
        sizes = [(sum(counts), *self.size) for counts in self.counts]
        return [torch.randn(size, generator=draw, dtype=torch.float64).to(memory_format=self.layout) for size in sizes]

    def shares(self, rank: int) -> list[Tensor]:
        """A process's samples."""
        return [b[: n[0]] if rank == 0 else b[n[0] :] for b, n in zip(self.batches(), self.counts, strict=True)]


NORMS = {
    "uneven": NormCase(lambda: nn.BatchNorm2d(3, momentum=0.2), (3, 4, 2), ((3, 5), (7, 1))),
    "channels last": NormCase(lambda: nn.BatchNorm2d(3), (3, 4, 2), ((3, 5),), torch.channels_last),
    "volumes": NormCase(lambda: nn.BatchNorm3d(3), (3, 4, 2, 2), ((1, 2),)),
    "one process has none": NormCase(lambda: nn.BatchNorm2d(3), (3, 4, 2), ((0, 5), (4, 0))),
    "cumulative": NormCase(lambda: nn.BatchNorm2d(3, momentum=None), (3, 4, 2), ((3, 5), (2, 1), (4, 4))),
    "nothing to learn": NormCase(lambda: nn.BatchNorm2d(3, affine=False), (3, 4, 2), ((3, 5),)),
    "no statistics kept": NormCase(lambda: nn.BatchNorm1d(3, track_running_stats=False), (3,), ((3, 5),)),
    "branch, one image each": NormCase(lambda: BranchBatchNorm(3), (3,), ((1, 1),)),
    "branch, one image in all": NormCase(lambda: BranchBatchNorm(3), (3,), ((1, 0), (0, 1))),
    "branch, no image": NormCase(lambda: BranchBatchNorm(3), (3,), ((0, 0), (3, 2))),
}


def normalise(norm: nn.Module, batches: list[Tensor]) -> dict[str, Tensor]:
    """Outputs of every step, gradients of a sum over them, and buffers after the last."""
    found: dict[str, Tensor] = {}
    for number, batch in enumerate(batches):
        x = batch.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        y = norm(x)
        (2 * y).sin().sum().backward()  # a square would not do: its sum is what normalising holds constant
        assert x.grad is not None
        found |= {f"y {number}": y.detach(), f"dx {number}": x.grad}
    found |= {f"gradient of {name}": p.grad for name, p in norm.named_parameters() if p.grad is not None}
    return found | {name: value.clone() for name, value in norm.named_buffers()}
