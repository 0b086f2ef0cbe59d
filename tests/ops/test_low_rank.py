"""Cells and attention from blocks: exact where they can be, the best where they can not."""

from __future__ import annotations

import pytest
import torch

from dynaconv.ops import assemble_kernels, cut_kernel, factorise, with_zero_cell


def sample(m: int, d: int) -> torch.Tensor:
    return torch.randn(m, d, dtype=torch.float64, generator=torch.Generator().manual_seed(m * d))


@pytest.mark.parametrize(("m", "n", "d"), [(12, 5, 30), (12, 5, 4), (5, 5, 9), (3, 7, 9), (1, 1, 6), (40, 20, 8)])
def test_it_is_the_best_of_its_rank(m, n, d):
    x = sample(m, d)
    attention, cells = factorise(x, n)
    assert attention.shape == (m, n)
    assert cells.shape == (n, d)
    lost = (x - attention @ cells).square().sum()
    torch.testing.assert_close(lost, torch.linalg.svdvals(x)[n:].square().sum(), rtol=1e-9, atol=1e-18)


def test_rows_fit_the_normaliser_and_blocks_are_cells():
    x = sample(12, 30)
    attention, _ = factorise(x, 5)
    sums = attention.abs().sum(dim=1)
    assert sums.max() <= 1 + 1e-12
    full = with_zero_cell(attention)
    torch.testing.assert_close(full.abs().sum(dim=1), torch.ones(12, dtype=torch.float64), rtol=1e-12, atol=0)
    assert torch.equal(full[:, :-1], attention)
    # As many mixtures as there are cells start one-to-one: a single entry, of one size, in a column of its own.
    single = (attention != 0).sum(dim=1) == 1
    columns = attention[single].abs().argmax(dim=1)
    assert sorted(columns.tolist()) == list(range(5))
    torch.testing.assert_close(attention[single].sum(dim=1), attention[single].sum(dim=1)[:1].expand(5))


def test_scales_of_blocks():
    """As if the blocks were so much larger, and their attention so much smaller."""
    x, scales = sample(12, 30), torch.linspace(0.1, 5, 12, dtype=torch.float64)
    attention, cells = factorise(x, 5, scales=scales)
    lost = (scales.unsqueeze(1) * (x - attention @ cells)).square().sum()
    best = torch.linalg.svdvals(scales.unsqueeze(1) * x)[5:].square().sum()
    torch.testing.assert_close(lost, best, rtol=1e-9, atol=0)
    torch.testing.assert_close(attention.abs().sum(dim=1).max(), torch.ones((), dtype=torch.float64))


def test_weights_move_the_error_where_it_counts_less():
    x, weights = sample(20, 12), torch.ones(20, 12, dtype=torch.float64)
    weights[:, :3] = 100.0
    weights[5] *= 10

    def error(given):
        attention, cells = factorise(x, 6, given)
        return (weights * (x - attention @ cells) ** 2).sum()

    attention, cells = factorise(x, 6, weights)
    assert error(weights) < 0.7 * error(None)
    assert attention.abs().sum(dim=1).max() <= 1 + 1e-12
    # No other product does better nearby: a stationary point of the weighted error.
    residual = weights * (x - attention @ cells)
    scale = residual.norm()
    assert (residual @ cells.T).norm() < 2e-2 * scale * cells.norm()
    assert (attention.T @ residual).norm() < 2e-2 * scale * attention.norm()


def test_equal_weights_are_no_weights():
    x = sample(15, 10)
    attention, cells = factorise(x, 4, torch.full((15, 10), 3.0))
    plain, others = factorise(x, 4)
    torch.testing.assert_close(attention @ cells, plain @ others, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("x", [torch.zeros(4, 6), torch.ones(4, 6), torch.eye(4, 6) * 1e-12])
def test_degenerate_blocks(x):
    attention, cells = factorise(x, 2, torch.zeros(4, 6))
    assert attention.isfinite().all()
    assert cells.isfinite().all()
    if x.max() == x.min():
        torch.testing.assert_close((attention @ cells).float(), x)


@pytest.mark.parametrize(
    ("kernel", "grid", "cell"),
    [
        ((6, 8, 3, 2), (6, 3, 2), (2, 4, 1, 1)),
        ((6, 8, 3, 2), (1, 3, 2), (2, 4, 3, 2)),
        ((6, 8), (1, 3, 4), (2, 2)),
        ((4, 2, 5), (5, 2, 1), (2, 2, 1)),
        ((4, 2, 2, 3, 2), (12, 4, 1), (1, 2, 1, 1, 1)),
    ],
)
def test_cutting_undoes_putting_together(kernel, grid, cell):
    x = torch.randn(kernel)
    blocks = cut_kernel(x, grid, cell)
    assert blocks.shape == (grid[0] * grid[1] * grid[2], *cell)
    assert torch.equal(assemble_kernels(blocks.unsqueeze(0), grid, kernel[2:])[0], x)
