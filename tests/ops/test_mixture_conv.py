"""Every order of products and backend against the slow oracle, over odd sizes, groups, strides, batch 0 and 1."""

import itertools

import pytest
import torch

from dynaconv.ops import (
    Geometry,
    Mixture,
    assemble_kernels,
    mix_cells,
    mixture_conv,
    mixture_linear,
    per_sample_conv,
    scale_and_shift,
)
from dynaconv.ops.cost import CONV_BACKENDS, cheapest_order, kernels_first_madds, outputs_first_madds
from tests import oracles

# batch, map, kernel, stride, padding, dilation, groups, grid blocks (out, in), cell (out, in), cell keeps the kernel
CASES = {
    "3x3": (2, (5, 7), (3, 3), (1, 1), (1, 1), (1, 1), 1, (2, 2), (3, 2), False),
    "strided, one sample": (1, (7, 6), (3, 2), (2, 3), (1, 0), (1, 1), 1, (1, 3), (2, 1), False),
    "dilated": (3, (9, 8), (3, 3), (1, 2), (2, 3), (2, 3), 1, (3, 1), (1, 4), False),
    "grouped": (2, (6, 5), (3, 3), (1, 1), (1, 1), (1, 1), 2, (2, 2), (2, 3), False),
    "depth-wise": (2, (5, 5), (3, 3), (2, 2), (1, 1), (1, 1), 6, (3, 1), (2, 1), False),
    "1x1": (2, (4, 3), (1, 1), (1, 1), (0, 0), (1, 1), 1, (2, 3), (2, 2), False),
    "1x1 strided": (2, (5, 4), (1, 1), (2, 2), (0, 0), (1, 1), 1, (2, 1), (2, 3), False),
    "1x1 padded": (2, (3, 3), (1, 1), (1, 1), (1, 2), (1, 1), 1, (1, 2), (2, 2), False),
    "whole kernel in a cell": (2, (5, 6), (3, 2), (2, 1), (1, 1), (1, 1), 1, (2, 2), (2, 2), True),
    "1-D": (3, (11,), (5,), (2,), (2,), (1,), 1, (2, 2), (2, 1), False),
    "3-D": (2, (3, 4, 5), (3, 1, 2), (1, 2, 1), (1, 0, 1), (1, 1, 2), 1, (1, 2), (3, 1), False),
    "empty batch": (0, (5, 5), (3, 3), (1, 1), (1, 1), (1, 1), 1, (2, 1), (2, 2), False),
}


def make(case):
    batch, size, kernel, stride, padding, dilation, groups, blocks, cell, whole = CASES[case]
    geometry = Geometry(kernel, stride, padding, dilation, groups)
    grid = (1 if whole else geometry.positions, *blocks)
    cell_kernel = kernel if whole else (1,) * len(kernel)
    x = torch.randn(batch, blocks[1] * cell[1] * groups, *size, dtype=torch.float64)
    cells = torch.randn(4, *cell, *cell_kernel, dtype=torch.float64)
    attention = torch.randn(batch, grid[0] * grid[1] * grid[2], 4, dtype=torch.float64)
    kernels = oracles.mixed_kernels(attention, cells, grid, kernel)
    expected = oracles.conv(x, kernels, stride, padding, dilation, groups)
    return geometry, grid, x, attention, cells, kernels, expected


@pytest.mark.parametrize("case", CASES)
def test_mixing_is_the_equation(case):
    geometry, grid, _, attention, cells, kernels, _ = make(case)
    mixed = assemble_kernels(mix_cells(attention, cells), grid, geometry.kernel_size)
    torch.testing.assert_close(mixed, kernels, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("case", "backend"), list(itertools.product(CASES, ["auto", *CONV_BACKENDS])))
def test_per_sample_convolution(case, backend):
    geometry, _, x, _, _, kernels, expected = make(case)
    torch.testing.assert_close(per_sample_conv(x, kernels, geometry, backend), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("case", "backend"), list(itertools.product(CASES, ["auto", *CONV_BACKENDS])))
def test_per_sample_convolution_with_a_bias(case, backend):
    geometry, _, x, _, _, kernels, expected = make(case)
    bias = torch.randn(kernels.shape[1], dtype=torch.float64)
    expected = expected + bias.reshape(-1, *(1,) * (x.dim() - 2))
    y = per_sample_conv(x, kernels, geometry, backend, bias)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("shared", [(True, True), (True, False), (False, True), (None, True), (True, None)], ids=str)
@pytest.mark.parametrize(("case", "backend"), list(itertools.product(CASES, ["auto", "grouped"])))
def test_scale_and_shift_of_the_output(case, backend, shared, learning):
    """One for all samples, or a sample's own, or none."""
    geometry, grid, x, attention, cells, _, expected = make(case)
    batch, channels, ones = x.shape[0], expected.shape[1], (1,) * (x.dim() - 2)
    after = [
        None if one is None else torch.randn((channels,) if one else (batch, channels), dtype=torch.float64)
        for one in shared
    ]
    scale, shift = after
    expected = expected if scale is None else expected * scale.reshape(*scale.shape, *ones)
    expected = expected if shift is None else expected + shift.reshape(*shift.shape, *ones)
    x.requires_grad_(learning)
    with torch.set_grad_enabled(learning):
        y = mixture_conv(x, attention, cells, Mixture(grid, geometry), out_scale=scale, bias=shift, backend=backend)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)
    last = torch.randn_like(y).movedim(1, -1).contiguous().movedim(-1, 1)
    for z in (last, last.contiguous()):
        with torch.set_grad_enabled(learning):
            found = scale_and_shift(z, scale, shift)
        expected = z if scale is None else z * scale.reshape(*scale.shape, *ones)
        expected = expected if shift is None else expected + shift.reshape(*shift.shape, *ones)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", CONV_BACKENDS)
def test_backend_gradients(backend):
    geometry, _, x, _, _, kernels, _ = make("strided, one sample")
    inputs = (x.requires_grad_(), kernels.requires_grad_())
    assert torch.autograd.gradcheck(lambda *a: per_sample_conv(*a, geometry, backend), inputs, fast_mode=True)


@pytest.mark.parametrize("positions", [1, 300])
def test_linear(positions):
    x = torch.randn(2, positions, 6, dtype=torch.float64)
    cells = torch.randn(5, 4, 3, dtype=torch.float64)
    attention = torch.randn(2, 6, 5, dtype=torch.float64)
    kernels = oracles.mixed_kernels(attention, cells, (1, 3, 2), ())
    expected = torch.stack([x[b] @ kernels[b].T for b in range(2)])
    torch.testing.assert_close(mixture_linear(x, attention, cells, (1, 3, 2)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["auto", "outputs", "matmul"])
def test_non_contiguous_and_channels_last_input(backend):
    geometry, grid, x, attention, cells, _, expected = make("3x3")
    strided = torch.empty(2, x.shape[1], 5, 14, dtype=torch.float64)[..., ::2].copy_(x)
    for layout in (strided, x.contiguous(memory_format=torch.channels_last)):
        y = mixture_conv(layout, attention, cells, Mixture(grid, geometry), backend=backend)
        torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)


def test_cost_model_counts_by_the_formula():
    mixture = Mixture((9, 1, 1), Geometry((3, 3), (1, 1), (1, 1), (1, 1)))
    x, cells = (8, 128, 4, 4), (47, 128, 128, 1, 1)
    assert kernels_first_madds(x, cells, mixture) == 47 * 9 * 128 * 128 + 9 * 128 * 128 * 16
    assert outputs_first_madds(x, cells, mixture) == 47 * 128 * 128 * 16 + 9 * 47 * 128 * 16


def test_cost_model_mixes_outputs_on_small_maps_only():
    mixture, cells = Mixture((9, 1, 1), Geometry((3, 3), (1, 1), (1, 1), (1, 1))), (27, 512, 512, 1, 1)
    assert cheapest_order((8, 512, 1, 1), cells, mixture) == "outputs"
    assert cheapest_order((8, 512, 14, 14), cells, mixture) == "kernels"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, k: (x[:1], k), "1 samples, but kernels for 2"),
        (lambda x, k: (x[:, :3], k), "input has 3 channels.*expect 4"),
    ],
)
def test_shapes_that_do_not_fit(change, message):
    geometry, _, x, _, _, kernels, _ = make("3x3")
    with pytest.raises(ValueError, match=message):
        per_sample_conv(*change(x, kernels), geometry)


def test_unknown_names():
    geometry, grid, x, attention, cells, kernels, _ = make("3x3")
    with pytest.raises(ValueError, match="backend 'magic' is not known"):
        per_sample_conv(x, kernels, geometry, "magic")
    with pytest.raises(ValueError, match="backend 'magic' is not known"):
        mixture_conv(x, attention, cells, Mixture(grid, geometry), backend="magic")
    geometry, grid, x, attention, cells, _, _ = make("grouped")
    with pytest.raises(ValueError, match=r"backend 'outputs' .* can not do this layer here; expected one of textbook"):
        mixture_conv(x, attention, cells, Mixture(grid, geometry), backend="outputs")
    with pytest.raises(ValueError, match=r"attention of shape \(2, 36, 4\); expected \(2, 9, 4\)"):
        mixture_conv(x, attention, cells, Mixture((9, 1, 1), geometry))
    with pytest.raises(ValueError, match="attention is over 3 cells, but the warehouse holds 4"):
        mix_cells(attention[..., :3], cells)
