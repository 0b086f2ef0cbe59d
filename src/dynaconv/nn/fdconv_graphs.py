"""FDConv in exported graphs, whose runtimes have no Fourier transform: products with tables of cosines and sines.

Tables are computed in the graph, from no more than a file has room for: stored, they would be several times as large as
the layer's parameters. onnxruntime computes them once, when it loads the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dynaconv.nn.constant import Constant

UNPACKING_BYTES = 1_000
"""About what the operators take that make groups of edges; a table must save more."""


@dataclass(frozen=True)
class FrequencyTable:
    """The group of every place of a half spectrum ``(rows, places)``, and which have parameters, in little room.

    Along a row the magnitude of frequencies rises, and down a column it rises to the middle and falls again: groups
    follow one another, and where each begins and ends is enough. What is smallest is kept, in the smallest type.

    Args:
        table: by ``form``. ``"groups"``: every place's group, shape ``(rows, places)``. ``"rows"``: the first place of
            groups 1 to n - 1 in every row, shape ``(rows, n - 1)``. ``"columns"``: the first row of groups 1 to n - 1
            in every column, and below them the row where they have ended, shape ``(2 (n - 1), places)``.
        form: what the table holds.
        widths: how many places of a row have parameters, shape ``(rows,)``.
        packed: parameters, which are sorted by magnitude, in the order of places.
        rows: of the spectrum.
        places: of a row.
    """

    table: Constant
    form: Literal["groups", "rows", "columns"]
    widths: Constant
    packed: Constant
    rows: int
    places: int

    @classmethod
    def of(cls, order: Tensor, group: Tensor, rows: int, count: int) -> FrequencyTable:
        """From the sorted places that have parameters, and the group of every place, both flat."""
        group = group.unflatten(0, (rows, -1))
        places, inner = group.shape[1], torch.arange(1, count, dtype=group.dtype, device=group.device)
        top = rows // 2 + 1
        starts = torch.searchsorted(group[:top].T.contiguous(), inner.repeat(places, 1)).T
        # What falls rises if it is read from below.
        ends = rows - torch.searchsorted(group[top:].T.flip(1).contiguous(), inner.repeat(places, 1)).T
        forms: dict[Literal["groups", "rows", "columns"], Tensor] = {
            "groups": _smallest(group),
            "rows": _smallest(torch.searchsorted(group, inner.repeat(rows, 1))),
            "columns": _smallest(torch.cat([starts, ends])),
        }
        form = min(forms, key=lambda name: forms[name].nbytes + (name != "groups") * UNPACKING_BYTES)
        return cls(
            table=Constant(forms[form]),
            form=form,
            widths=Constant(torch.bincount(order // places, minlength=rows)),
            packed=Constant(order.argsort()),
            rows=rows,
            places=places,
        )

    def groups(self, device: torch.device) -> Tensor:
        """The group of every place, flat."""
        table = self.table.on(device)
        if self.form == "groups":
            return table.flatten().to(torch.int32)
        axis = 1 if self.form == "rows" else 0
        shape = [self.rows, self.places]
        shape[axis] += 1  # where groups begin or end that have no place
        if self.form == "rows":
            steps = torch.ones(table.shape, dtype=torch.int32, device=device)
        else:
            up = torch.ones(len(table) // 2, self.places, dtype=torch.int32, device=device)
            steps = torch.cat([up, -up])
        marks = torch.zeros(shape, dtype=torch.int32, device=device)
        marks = marks.scatter_add(axis, table.to(torch.int64), steps)
        return marks.cumsum(axis, dtype=torch.int32)[: self.rows, : self.places].flatten()

    def spread(self, values: Tensor) -> Tensor:
        """Parameters ``(r, kept, 2)`` at their places, and zeros elsewhere: ``(r, rows * places, 2)``."""
        values = values.index_select(1, self.packed.on(values.device))
        column = torch.arange(self.places, device=values.device)
        kept = (column < self.widths.on(values.device).unsqueeze(1)).flatten()
        number = (kept.to(torch.int64).cumsum(0) - 1).clamp(min=0)
        return values.index_select(1, number) * kept.to(values.dtype).unsqueeze(1)


def _smallest(table: Tensor) -> Tensor:
    """Whole numbers from 0 on in the smallest type that has room for them."""
    largest = int(table.max()) if table.numel() else 0
    types = (torch.uint8, torch.int16, torch.int32)
    return table.to(next(dtype for dtype in types if largest <= torch.iinfo(dtype).max))


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
