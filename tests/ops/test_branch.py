"""The compiled branch and folded cells against PyTorch's operators and the equations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from dynaconv.ops import Geometry, Mixture, empty_cells, mixture_conv, native, native_status
from dynaconv.ops.branch import (
    NATIVE,
    Basis,
    BranchWeights,
    branch,
    branch_formula,
    fold_batch_norm,
    prepared_branch,
)
from dynaconv.ops.folding import Terms, fold_cells, folded_bytes, saved_madds

DOUBLE = {"rtol": 1e-11, "atol": 1e-11}
compiled = pytest.mark.skipif(native_status().startswith("no "), reason=native_status())

# channels, hidden, mixtures, logits, size, batch: odd ones, tails of vectors, more samples than a tile, large maps
SIZES = [
    (16, 16, 9, 20, (5, 6), 3),
    (3, 5, 2, 3, (7,), 1),
    (40, 18, 4, 225, (3, 3, 2), 13),
    (512, 32, 9, 109, (7, 7), 1),
    (8, 16, 1, 300, (1, 1), 2),
    (24, 16, 3, 33, (56, 40), 2),
]


def weights(channels, hidden, mixtures, logits, dtype=torch.float64, *, norm=False, basis=False, start=False):
    """A branch; with a basis, one local cell after two others."""
    width = 4
    columns = 1 + width + 1 if basis else logits
    layer_norm = nn.LayerNorm(hidden).to(dtype).requires_grad_(False)
    nn.init.normal_(layer_norm.weight)
    nn.init.normal_(layer_norm.bias)
    return BranchWeights(
        fc1=torch.randn(hidden, channels, dtype=dtype),
        shift=torch.randn(hidden, dtype=dtype),
        fc2=torch.randn(mixtures * columns, hidden, dtype=dtype),
        bias=torch.randn(mixtures, logits, dtype=dtype),
        norm=layer_norm if norm else None,
        basis=Basis(torch.randn(logits - 2, width, dtype=dtype), 1, min(2, logits - 2)) if basis else None,
        start=torch.rand(mixtures, logits - 1, dtype=dtype) if start else None,
        share=0.7 if start else 1.0,
        normaliser="paper" if basis else "unit",
    )


@compiled
@pytest.mark.parametrize("result", NATIVE)
@pytest.mark.parametrize("basis", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_compiled_is_the_formula(sizes, norm, basis, result):
    *shape, size, batch = sizes
    w = weights(*shape, norm=norm, basis=basis, start=result in ("contrasting", "nonnegative"))
    x = torch.randn(batch, shape[0], *size, dtype=torch.float64)
    last = x.movedim(1, -1).contiguous().movedim(-1, 1)
    expected = branch_formula(x, w, result)
    assert native.branch_supports(x, w.fc1)
    for given in (x, last, torch.cat([x, x], dim=1)[:, : shape[0]]):
        torch.testing.assert_close(branch(given, w, result), expected, **DOUBLE)


@compiled
@pytest.mark.parametrize("result", NATIVE)
@pytest.mark.parametrize("normaliser", ["unit", "paper"])
@pytest.mark.parametrize("size", [0.0, 1e-6, 1.0])
def test_compiled_where_logits_vanish(size, normaliser, result):
    w = replace(weights(16, 8, 3, 5), normaliser=normaliser)
    w = replace(w, fc2=size * w.fc2, bias=size * w.bias)
    x = torch.randn(4, 16, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(branch(x, w, result), branch_formula(x, w, result), **DOUBLE)


@compiled
def test_single_precision():
    w = weights(64, 16, 9, 225, torch.float32)
    x = torch.randn(4, 64, 112, 112) + 1
    wide = BranchWeights(w.fc1.double(), w.shift.double(), w.fc2.double(), w.bias.double())
    expected = branch_formula(x.double(), wide, "contrasting")
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        torch.testing.assert_close(branch(given, w, "contrasting").double(), expected, rtol=1e-4, atol=1e-6)


@compiled
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_threads_share_the_work(batch):
    """More threads than samples pool a sample in parts."""
    w = weights(48, 16, 5, 40)
    x = torch.randn(batch, 48, 56, 56, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            for given in (x, x.contiguous()):
                expected = branch_formula(given, w, "contrasting")
                torch.testing.assert_close(branch(given, w, "contrasting"), expected, **DOUBLE)
    finally:
        torch.set_num_threads(before)


@compiled
@pytest.mark.parametrize("result", ["contrasting", "nonnegative"])
def test_cells_of_their_own(result):
    """Every mixture's attention goes to its own columns, all others are zero."""
    w = weights(16, 8, 3, 5, start=True)
    own = BranchWeights(
        w.fc1, w.shift, w.fc2, w.bias, start=w.start, share=w.share, places=torch.arange(12).view(3, 4), num_cells=12
    )
    x = torch.randn(4, 16, 3, 3, dtype=torch.float64)
    y = branch(x, own, result)
    torch.testing.assert_close(y, branch_formula(x, own, result), **DOUBLE)
    assert torch.equal(y[:, 1, 4:8], branch(x, w, result)[:, 1])
    assert y[:, 1].count_nonzero(dim=1).max() <= 4


def test_the_formula_is_the_equation():
    w = weights(6, 4, 2, 3, start=True)
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    y = branch_formula(x, w, "contrasting")
    for b in range(2):
        h = (w.fc1 @ x[b].mean((1, 2)) + w.shift).clamp(min=0)
        for i in range(2):
            z = w.fc2.view(2, 3, 4)[i] @ h + w.bias[i]
            expected = w.start[i] + 0.7 * z[:-1] / z.abs().sum()
            torch.testing.assert_close(y[b, i], expected, **DOUBLE)


@pytest.mark.parametrize("bias", [True, False])
def test_batch_norm_folds_into_the_linear_layer(bias):
    fc, norm = nn.Linear(7, 5, bias=bias).double(), nn.BatchNorm1d(5).double()
    for values in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(values)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    x = torch.randn(9, 7, dtype=torch.float64)
    weight, shift = fold_batch_norm(fc, norm.eval())
    torch.testing.assert_close(nn.functional.linear(x, weight, shift), norm(fc(x)), **DOUBLE)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace. is")
def test_where_the_operators_run():
    """Half precision, autocast, gradients, no samples, tracing, torch.func: the same numbers, by another way."""
    w = weights(16, 8, 3, 5, torch.float32)
    x = torch.randn(2, 16, 4, 4)
    run = prepared_branch(w, "contrasting")
    expected = branch_formula(x, w, "contrasting")
    assert not native.branch_supports(x.bfloat16(), w.fc1)
    assert not native.branch_supports(x[:0], w.fc1)
    assert run(x[:0]).shape == (0, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert not native.branch_supports(x, w.fc1)
        torch.testing.assert_close(run(x).float(), expected, rtol=0.1, atol=0.05)
    needs = x.clone().requires_grad_()
    assert not native.branch_supports(needs, w.fc1)
    run(needs).sum().backward()
    assert needs.grad.any()
    torch.testing.assert_close(torch.func.vmap(run)(torch.stack([x, x]))[1], expected)
    other = torch.randn(2, 16, 4, 4)
    traced = torch.jit.trace(lambda value: run(value), other, check_trace=False)
    torch.testing.assert_close(traced(x), expected)


GEOMETRIES = [
    (Mixture((9, 2, 1), Geometry((3, 3), (2, 2), (1, 1), (1, 1))), (1, 1), (6, 5)),
    (Mixture((1, 2, 3), Geometry((3,), (1,), (1,), (1,))), (3,), (7,)),
    (Mixture((1, 1, 2), Geometry((1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1))), (1, 1, 1), (3, 2, 4)),
]


@pytest.mark.parametrize("basis", [False, True])
@pytest.mark.parametrize(("mixture", "kernel", "size"), GEOMETRIES)
def test_folded_cells_mix_to_the_same(mixture, kernel, size, basis):
    out, channels, count = 5, 4, 60
    mixtures = mixture.grid[0] * mixture.grid[1] * mixture.grid[2]
    w = weights(channels * mixture.grid[2], 3, mixtures, count + 1, basis=basis)
    cells = empty_cells(count, out, channels, *kernel, dtype=torch.float64).normal_()
    x = torch.randn(4, channels * mixture.grid[2], *size, dtype=torch.float64)
    terms = fold_cells(w, cells, mixture)
    assert terms.cells.numel() * 8 == folded_bytes(3, mixture, cells)
    expected = mixture_conv(x, branch(x, w, "contrasting"), cells, mixture)
    y = mixture_conv(x, branch(x, w, "hidden"), terms.cells, terms.mixture)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)


def test_when_folding_pays():
    """As benchmarks/folding.py measured on layers of KernelWarehouse 4x ResNet18; meta tensors have shapes alone."""
    geometry = Geometry((3, 3), (1, 1), (1, 1), (1, 1))
    mixture = Mixture((9, 1, 1), geometry)
    with torch.device("meta"):
        cells, whole = torch.empty(108, 512, 512, 1, 1), torch.empty(33, 512, 512, 3, 3)
        terms = Terms(whole, Mixture((9, 1, 1), geometry, own_cells=True), 108)
        assert saved_madds(32, mixture, cells) == (108 - 33) * whole[0].numel()
        assert saved_madds(32, mixture, cells[:54]) == 0  # too few cells for a term
        assert saved_madds(32, Mixture((9, 1, 1), Geometry((3, 3), (1, 1), (1, 1), (1, 1), 2)), cells) == 0
    pays = [terms.pay((batch, 512, 7, 7), cells.shape, mixture) for batch in (1, 2, 8, 16)]
    assert pays == [False, False, True, True]
    assert not terms.pay((16, 512, 1, 1), cells.shape, mixture)  # applying the cells first is cheaper still
