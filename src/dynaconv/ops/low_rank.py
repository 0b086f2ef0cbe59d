"""Best approximation of many blocks of kernels by mixtures of few cells.

How a budget below one starts from trained kernels: with the m blocks as rows of X and n < m cells as rows of E,

    min over A (m, n) and E (n, d) of  sum_i s_i^2 | w_i * (x_i - sum_j A_ij e_j) |^2,    s, w = 1 or given.

Without weights w the singular value decomposition solves it (Eckart and Young, 1936). Its answer is a space; the cells
are chosen in it such that n of the blocks, those that span it best, are a cell each: attention stays one-to-one there.
"""

from __future__ import annotations

import torch
from torch import Tensor

SWEEPS = 10
"""Alternations at most, with weights."""
PROGRESS = 5e-3
"""Relative fall of the error below which they end."""
RIDGE = 1e-9
"""Added to normal equations, relative to their diagonal."""
CHUNK = 4_000_000
"""Numbers that are held at a time to make normal equations."""


def factorise(
    blocks: Tensor, num_cells: int, weights: Tensor | None = None, scales: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Approximate blocks by mixtures of cells, in float64.

    Args:
        blocks: X, shape ``(m, d)``.
        num_cells: n; not less than m, or the rank of X, is exact.
        weights: of the squared error of every element, w^2, shape ``(m, d)``, at least 0; None for equal ones.
        scales: of the error of every block, s, shape ``(m,)``, above 0; None for equal ones.

    Returns:
        Attention A, shape ``(m, n)``, and cells E, shape ``(n, d)``. Rows of A have absolute sums of at most 1.

    Example:
        >>> attention, cells = factorise(torch.arange(12.0).reshape(4, 3), num_cells=2)
        >>> torch.allclose(attention @ cells, torch.arange(12.0, dtype=torch.float64).reshape(4, 3))
        True
    """
    scales = blocks.new_ones(len(blocks)) if scales is None else scales
    scales = scales.double().unsqueeze(1)
    x = scales * blocks.double()
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    rank = max(min(num_cells, int((values > values[0] * 1e-13).sum())), 1)
    basis, cells = left[:, :rank], values[:rank, None] * right[:rank]
    if weights is not None and rank == num_cells:
        basis, cells = _alternate(x, basis, cells, weights.double())
    attention, cells = _one_to_one(x, basis, cells, num_cells)
    attention = attention / scales
    largest = attention.abs().sum(dim=1).max()
    return attention / largest, cells * largest


def with_zero_cell(attention: Tensor) -> Tensor:
    """Append the zero cell's column, which holds what a row's absolute sum lacks of one, ``(m, n)`` -> ``(m, n + 1)``.

    Contrasting attention divides by that sum, so such rows are their own attention.
    """
    rest = (1 - attention.abs().sum(dim=1, keepdim=True)).clamp(min=0)
    return torch.cat([attention, rest], dim=1)


def _alternate(x: Tensor, basis: Tensor, cells: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Alternating least squares from the unweighted answer: rows of A, then columns of E, until it pays no more."""
    attention, floor = basis, 1e-6 * weights.mean()
    weights = weights + floor  # dead inputs must not make the equations singular
    rows, row_of = _different_rows(weights)
    columns, column_of = _different_rows(weights.T)
    before = (weights * (x - attention @ cells) ** 2).sum()
    for _ in range(SWEEPS):
        attention = _solve(x, cells.T, rows, row_of)
        cells = _solve(x.T, attention, columns, column_of).T
        error = (weights * (x - attention @ cells) ** 2).sum()
        if error > (1 - PROGRESS) * before:
            break
        before = error
    basis, triangle = torch.linalg.qr(attention)
    return basis, triangle @ cells


def _different_rows(weights: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows of a matrix, and which of them each row is; told apart by a sum with irrational weights."""
    mix = torch.arange(1, weights.shape[1] + 1, dtype=weights.dtype, device=weights.device).sqrt()
    keys = (weights * mix).sum(dim=1)
    keys = (keys / keys.abs().max().clamp(min=torch.finfo(keys.dtype).tiny) * 2**40).round()
    _, kind_of = torch.unique(keys, return_inverse=True)
    first = torch.full((int(kind_of.max()) + 1,), len(weights), device=weights.device)
    first.scatter_reduce_(0, kind_of, torch.arange(len(weights), device=weights.device), "amin")
    return weights[first], kind_of


def _solve(targets: Tensor, design: Tensor, weights: Tensor, kind_of: Tensor) -> Tensor:
    """For every row t of ``targets`` (r, d) the y with least sum_k w_k (t_k - design_k y)^2, shape ``(r, n)``.

    Args:
        targets: one problem a row.
        design: shape ``(d, n)``.
        weights: the different rows of weights, shape ``(kinds, d)``.
        kind_of: row of weights of every target, shape ``(r,)``.
    """
    right = (weights[kind_of] * targets) @ design
    out = torch.empty_like(right)
    # Rows by kind, one after the other, the first of a kind repeated where others have more.
    order, sizes = kind_of.argsort(stable=True), torch.bincount(kind_of, minlength=len(weights))
    starts, places = sizes.cumsum(0) - sizes, torch.arange(int(sizes.max()), device=sizes.device)
    members = order[starts.unsqueeze(1) + torch.where(places < sizes.unsqueeze(1), places, 0)]
    chunk = max(CHUNK // design.numel(), 1)
    for first in range(0, len(weights), chunk):
        some = weights[first : first + chunk]
        normal = (some.unsqueeze(2) * design).transpose(1, 2) @ design
        diagonal = normal.diagonal(dim1=1, dim2=2)
        diagonal += (RIDGE * diagonal.mean(dim=1, keepdim=True)).clamp(min=torch.finfo(torch.float64).tiny)
        chosen = members[first : first + chunk]
        out[chosen] = torch.cholesky_solve(right[chosen].transpose(1, 2), torch.linalg.cholesky(normal)).transpose(1, 2)
    return out


def _one_to_one(x: Tensor, basis: Tensor, cells: Tensor, num_cells: int) -> tuple[Tensor, Tensor]:
    """The same product with n blocks as cells.

    Args:
        x: the blocks, shape ``(m, d)``.
        basis: orthonormal columns, shape ``(m, r)``, r at most n.
        cells: such that ``basis @ cells`` is the approximation, shape ``(r, d)``.
        num_cells: n.
    """
    pivots = _spanning_rows(basis)
    others = [row for row in x.norm(dim=1).argsort(descending=True).tolist() if row not in set(pivots)]
    rows = [*pivots, *others][:num_cells]
    attention = basis.new_zeros(len(x), num_cells)
    attention[:, : len(pivots)] = torch.linalg.solve(basis[pivots].T, basis.T).T
    attention[rows] = torch.eye(len(rows), num_cells, dtype=basis.dtype, device=basis.device)
    blocks = cells.new_zeros(num_cells, cells.shape[1])
    blocks[: len(rows)] = basis[rows] @ cells
    return attention, blocks


def _spanning_rows(basis: Tensor) -> list[int]:
    """As many rows as columns, of large volume: each the farthest from the span of those before."""
    rest, rows = basis.clone(), []
    for _ in range(basis.shape[1]):
        rows.append(int(rest.norm(dim=1).argmax()))
        direction = rest[rows[-1]] / rest[rows[-1]].norm()
        rest -= torch.outer(rest @ direction, direction)
    return rows
