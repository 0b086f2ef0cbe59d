"""FDConv in exported graphs, whose runtimes have no Fourier transform: products with tables of cosines and sines.

Tables are computed in the graph, from no more than a file has room for: stored, they would be several times as large as
the layer's parameters. onnxruntime computes them once, when it loads the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dynaconv.nn.constant import Constant


@dataclass(frozen=True)
class FrequencyRows:
    """The groups of frequencies in every row of a half spectrum ``(rows, places)``, in little room.

    Along a row the magnitude of frequencies rises, so that groups follow one another and the last ones are left out.

    Args:
        starts: the first place of groups 1 to n - 1, shape ``(rows, n - 1)``, of 16 bits; or, where a row has fewer
            places than there are groups, every place's group, shape ``(rows, places)``.
        widths: how many places have parameters, shape ``(rows,)``.
        packed: parameters, which are sorted by magnitude, in the order of places.
        places: of a row.
    """

    starts: Constant
    widths: Constant
    packed: Constant
    places: int

    @classmethod
    def of(cls, order: Tensor, group: Tensor, rows: int, count: int) -> FrequencyRows:
        """From the sorted places that have parameters, and the group of every place, both flat."""
        group = group.unflatten(0, (rows, -1))
        places = group.shape[1]
        inner = torch.arange(1, count, dtype=group.dtype, device=group.device).repeat(rows, 1)
        starts = group if places <= count - 1 else torch.searchsorted(group, inner)
        return cls(
            starts=Constant(starts.to(torch.int16 if max(places, count) < 2**15 else torch.int32)),
            widths=Constant(torch.bincount(order // places, minlength=rows)),
            packed=Constant(order.argsort()),
            places=places,
        )

    def groups(self, device: torch.device) -> Tensor:
        """The group of every place, flat."""
        starts = self.starts.on(device)
        if starts.shape[1] == self.places:
            return starts.flatten().to(torch.int32)
        # Group 0 starts at place 0. As zeros, that keeps the table from being stored again in the wider type below.
        starts = torch.cat([torch.zeros(len(starts), 1, dtype=starts.dtype, device=device), starts], dim=1).to(
            torch.int64
        )
        marks = torch.zeros(len(starts), self.places + 1, dtype=torch.int32, device=device)
        marks = marks.scatter_add(1, starts, torch.ones_like(starts, dtype=torch.int32))
        return (marks.cumsum(1, dtype=torch.int32) - 1)[:, : self.places].flatten()

    def spread(self, values: Tensor) -> Tensor:
        """Parameters ``(r, kept, 2)`` at their places, and zeros elsewhere: ``(r, rows * places, 2)``."""
        values = values.index_select(1, self.packed.on(values.device))
        column = torch.arange(self.places, device=values.device)
        kept = (column < self.widths.on(values.device).unsqueeze(1)).flatten()
        number = (kept.to(torch.int64).cumsum(0) - 1).clamp(min=0)
        return values.index_select(1, number) * kept.to(values.dtype).unsqueeze(1)


def inverse_by_products(half: Tensor, columns: int) -> Tensor:
    """Real matrices ``(B, rows, columns)`` of half spectra ``(B, rows, columns // 2 + 1, 2)``, for graphs.

    Not every runtime has a Fourier transform: here it is a product an axis, of as many multiply-adds as that takes.
    """
    rows, kept = half.shape[1:3]
    real, imaginary = half[..., 0].transpose(1, 2), half[..., 1].transpose(1, 2)
    cos, sin = _waves(rows, rows, rows, half)
    along = (F.linear(real, cos) - F.linear(imaginary, sin), F.linear(real, sin) + F.linear(imaginary, cos))
    cos, sin = _waves(columns, kept, columns, half)
    place = torch.arange(kept, device=half.device)
    twice = 2 - ((place == 0) | (2 * place == columns)).to(half.dtype)  # for the half that is left out
    cos, sin = (wave * twice / (rows * columns) for wave in (cos, sin))
    return F.linear(along[0].transpose(1, 2), cos) - F.linear(along[1].transpose(1, 2), sin)


def _waves(places: int, frequencies: int, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of 2 pi place frequency / length, shape ``(places, frequencies)``."""
    # Sizes of maps may be symbols, whose remainder runtimes take of floating numbers alone: exact up to sides of 4096.
    dtype = torch.int64 if isinstance(length, int) else like.dtype
    place = torch.arange(places, device=like.device, dtype=dtype).unsqueeze(1)
    turns = place * torch.arange(frequencies, device=like.device, dtype=dtype) % length
    angles = turns.to(like.dtype) * (2 * math.pi / length)
    return angles.cos(), angles.sin()


def low_pass(n: int, divisor: int, like: Tensor) -> Tensor:
    """The symmetric matrix that keeps frequencies of at most 1 / (2 divisor) cycles a pixel, shape ``(n, n)``."""
    i = torch.arange(n, device=like.device)
    kept = (2 * divisor * torch.minimum(i, n - i) <= n).to(like.dtype) / n
    cos, sin = _waves(n, n, n, like)
    return torch.mm(cos * kept, cos) + torch.mm(sin * kept, sin)
