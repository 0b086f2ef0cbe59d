"""Every backend of the mixture's convolution against the slow oracle: values and gradients, in float64 and float32."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from dynaconv.ops import Geometry, Mixture, empty_cells, mixture_conv, pinned_backend, use_backend
from dynaconv.ops.native.build import library

BACKENDS = ("textbook", "grouped", "loop", "matmul", "outputs", "native", "auto", "autotune")
CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def oracle(x, attention, cells, mixture):
    """Eq. 3 block by block and sample by sample: every block of the kernel is its weighted sum of cells."""
    (spatial, rows, columns), geometry = mixture.grid, mixture.geometry
    samples = []
    for sample, weights in zip(x, attention, strict=True):
        weights = weights.reshape(spatial, rows, columns, -1)
        outputs = cells.shape[1] // (rows if mixture.own_cells else 1)
        inputs = cells.shape[2] // (columns if mixture.own_cells else 1)
        flat = cells.reshape(*cells.shape[:3], -1)
        each = geometry.positions // spatial
        bands = []
        for p in range(rows):
            band = []
            for q in range(columns):
                places = []
                for s in range(spatial):
                    part = flat
                    if mixture.own_cells:
                        part = flat[:, p * outputs : (p + 1) * outputs, q * inputs : (q + 1) * inputs]
                        part = part[..., s * each : (s + 1) * each]
                    places.append(sum(w * cell for w, cell in zip(weights[s, p, q], part, strict=True)))
                band.append(torch.cat(places, dim=-1))
            bands.append(torch.cat(band, dim=1))
        kernel = torch.cat(bands, dim=0).reshape(-1, columns * inputs, *geometry.kernel_size)
        convolve = CONVOLUTIONS[len(geometry.kernel_size)]
        samples.append(
            convolve(
                sample.unsqueeze(0), kernel, None, geometry.stride, geometry.padding, geometry.dilation, geometry.groups
            )
        )
    outputs = mixture.out_channels(cells)
    return torch.cat(samples) if samples else x.new_zeros(0, outputs, *geometry.output_size(x.shape[2:]))


def make(batch, channels, outputs, size, k, stride, padding, dilation, groups, grid, count, own, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    spatial, rows, columns = grid
    geometry = Geometry(k, stride, padding, dilation, groups)
    x = torch.randn(batch, channels, *size, generator=draw, dtype=dtype)
    attention = torch.randn(batch, math.prod(grid), count, generator=draw, dtype=dtype)
    shape = (outputs, channels // groups, *k)
    if not own:
        shape = (outputs // rows, channels // groups // columns, *((1,) * len(k) if spatial > 1 else k))
    cells = empty_cells(count, *shape, dtype=dtype)
    cells.copy_(torch.randn(count, *shape, generator=draw, dtype=dtype))
    return [t.requires_grad_() for t in (x, attention, cells)], Mixture(grid, geometry, own)


# channels, outputs, size, kernel, stride, padding, dilation, groups, grid, cells, cells of their own
CASES = {
    "3x3": (8, 8, (5, 7), (3, 3), (1, 1), (1, 1), (1, 1), 1, (9, 1, 1), 5, False),
    "many blocks, uneven": (40, 72, (9, 7), (3, 3), (2, 1), (1, 0), (1, 2), 1, (9, 2, 2), 7, False),
    "point-wise": (6, 10, (5, 5), (1, 1), (1, 1), (0, 0), (1, 1), 1, (1, 2, 3), 4, False),
    "point-wise, strided": (64, 96, (7, 7), (1, 1), (2, 2), (0, 0), (1, 1), 1, (1, 3, 2), 30, False),
    "narrow out-blocks": (24, 48, (6, 5), (1, 1), (1, 1), (0, 0), (1, 1), 1, (1, 6, 1), 9, False),
    "1-D": (33, 37, (6,), (5,), (1,), (2,), (1,), 1, (5, 1, 1), 3, False),
    "3-D": (5, 6, (3, 4, 5), (2, 3, 1), (1, 2, 1), (1, 1, 0), (1, 1, 1), 1, (6, 1, 1), 3, False),
    "whole kernels": (16, 24, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), 1, (1, 1, 1), 4, False),
    "whole kernels in blocks": (16, 24, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), 1, (1, 2, 2), 4, False),
    "own cells, spatial": (16, 24, (8, 8), (3, 3), (2, 2), (1, 1), (1, 1), 1, (9, 1, 1), 4, True),
    "own cells, all": (16, 24, (8, 8), (3, 3), (2, 2), (1, 1), (1, 1), 1, (9, 2, 2), 4, True),
    "own cells, channels": (16, 24, (8, 8), (3, 3), (2, 2), (1, 1), (1, 1), 1, (1, 2, 2), 4, True),
    "groups": (16, 32, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), 2, (9, 2, 1), 4, False),
    "groups and in-blocks": (16, 32, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), 2, (9, 4, 2), 4, False),
    "groups, whole kernels": (16, 48, (8, 8), (3, 3), (1, 1), (1, 1), (1, 1), 4, (1, 1, 1), 4, False),
    "depth-wise, strided": (24, 24, (8, 9), (3, 3), (2, 2), (1, 1), (1, 1), 24, (9, 1, 1), 4, False),
    "depth-wise, out-blocks": (24, 24, (8, 9), (3, 3), (1, 1), (1, 1), (1, 1), 24, (9, 3, 1), 4, False),
    "depth-wise, whole kernels": (20, 20, (8, 9), (5, 3), (1, 1), (2, 1), (1, 1), 20, (1, 1, 1), 4, False),
    "depth-wise, twice the outputs": (6, 12, (5, 5), (3, 3), (1, 1), (1, 1), (1, 1), 6, (9, 1, 1), 3, False),
    "small map": (130, 64, (2, 2), (3, 3), (1, 1), (1, 1), (1, 1), 1, (9, 1, 1), 40, False),
    "cut into chunks": (160, 64, (4, 4), (3, 3), (2, 2), (1, 1), (1, 1), 1, (9, 2, 1), 60, False),
}


def can(backend, case):
    """Backends that do not do a case fall back when pinned and refuse when asked; both are tested below."""
    groups, own = case[7], case[10]
    if backend == "native":
        return library() is not None
    return backend != "outputs" or (groups == 1 and not own)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("batch", [0, 1, 2, 5, 17])
@pytest.mark.parametrize("name", list(CASES))
def test_values_and_gradients(name, batch, dtype):
    case = CASES[name]
    exact, mixture = make(batch, *case)
    inputs = [t.detach().to(dtype).requires_grad_() for t in exact]
    expected = oracle(*exact, mixture)
    incoming = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(expected, exact, incoming) if batch else [torch.zeros_like(t) for t in exact]
    for backend in BACKENDS:
        if not can(backend, case):
            continue
        with use_backend(backend):
            y = mixture_conv(*inputs, mixture)
            found = torch.autograd.grad(y, inputs, incoming.to(dtype))
            with torch.no_grad():
                inference = mixture_conv(*inputs, mixture)
        for got, want in zip((y, inference, *found), (expected, expected, *gradients), strict=True):
            assert got.shape == want.shape
            scale = want.abs().max().item() if want.numel() else 0.0
            bound = (1e-11 if dtype == torch.float64 else 2e-5) * (scale + 1e-30)
            torch.testing.assert_close(
                got.double(), want, rtol=0, atol=bound, msg=lambda text, b=backend: f"{b}: {text}"
            )


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_geometry(data):
    """Sizes, strides, paddings and dilations nobody thought of, by all backends."""
    dims = data.draw(st.integers(1, 3))
    several = st.lists(st.integers(1, 3), min_size=dims, max_size=dims).map(tuple)
    k, stride, dilation = data.draw(several), data.draw(several), data.draw(several)
    padding = data.draw(st.lists(st.integers(0, 2), min_size=dims, max_size=dims).map(tuple))
    least = [max(1, d * (a - 1) + 1 - 2 * p) for a, d, p in zip(k, dilation, padding, strict=True)]
    size = tuple(low + data.draw(st.integers(0, 4)) for low in least)
    groups, rows, columns = (data.draw(st.integers(1, 3)) for _ in range(3))
    own = data.draw(st.booleans())
    spatial = data.draw(st.sampled_from([1, math.prod(k)]))
    channels = groups * columns * data.draw(st.integers(1, 20))
    outputs = math.lcm(groups, rows) * data.draw(st.integers(1, 20))
    case = (channels, outputs, size, k, stride, padding, dilation, groups, (spatial, rows, columns), 3, own)
    inputs, mixture = make(data.draw(st.integers(1, 3)), *case)
    expected = oracle(*inputs, mixture)
    incoming = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, inputs, incoming)
    for backend in ("textbook", "loop", "matmul", "outputs", "native"):
        with use_backend(backend):
            y = mixture_conv(*inputs, mixture)
            found = torch.autograd.grad(y, inputs, incoming)
            with torch.no_grad():
                inference = mixture_conv(*inputs, mixture)
        for got, want in zip((y, inference, *found), (expected, expected, *gradients), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("backend", ["textbook", "outputs", "native", "matmul"])
def test_gradients_of_gradients(backend):
    inputs, mixture = make(2, 3, 4, (4, 3), (3, 3), (1, 1), (1, 1), (1, 1), 1, (9, 1, 1), 3, False)
    with use_backend(backend):
        assert torch.autograd.gradgradcheck(lambda *t: mixture_conv(*t, mixture), inputs, fast_mode=True)


@pytest.mark.skipif(library() is None, reason="no C compiler")
def test_gradients_of_gradients_depthwise():
    inputs, mixture = make(2, 4, 4, (4, 3), (3, 3), (1, 1), (1, 1), (1, 1), 4, (9, 1, 1), 3, False)
    assert torch.autograd.gradgradcheck(lambda *t: mixture_conv(*t, mixture), inputs, fast_mode=True)


@pytest.mark.parametrize("backend", ["auto", "matmul", "native"])
def test_scales_and_bias(backend):
    (x, attention, cells), mixture = make(3, 8, 12, (5, 4), (3, 3), (1, 1), (1, 1), (1, 1), 1, (9, 1, 1), 4, False)
    draw = torch.Generator().manual_seed(2)
    inward, outward = torch.rand(3, 8, generator=draw).double(), torch.rand(3, 12, generator=draw).double()
    for bias in (torch.rand(12, generator=draw).double(), torch.rand(3, 12, generator=draw).double()):
        around = [t.requires_grad_() for t in (inward, outward, bias)]
        expected = oracle(x * inward[..., None, None], attention, cells, mixture) * outward[..., None, None]
        expected = expected + bias.reshape(-1, 12, 1, 1)
        with use_backend(backend):
            y = mixture_conv(x, attention, cells, mixture, in_scale=inward, out_scale=outward, bias=bias)
            with torch.no_grad():
                still = mixture_conv(x, attention, cells, mixture, in_scale=inward, out_scale=outward, bias=bias)
        torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(still, expected, rtol=1e-11, atol=1e-11)
        inputs = [x, attention, cells, *around]
        for got, want in zip(
            torch.autograd.grad(y.sin().sum(), inputs), torch.autograd.grad(expected.sin().sum(), inputs), strict=True
        ):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_same_result_every_time():
    inputs, mixture = make(9, *CASES["cut into chunks"], dtype=torch.float32)
    first = mixture_conv(*inputs, mixture)
    incoming = torch.ones_like(first)
    gradients = torch.autograd.grad(first, inputs, incoming)
    for _ in range(3):
        again = mixture_conv(*inputs, mixture)
        assert torch.equal(again, first)
        for a, b in zip(torch.autograd.grad(again, inputs, incoming), gradients, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads(threads):
    before = torch.get_num_threads()
    inputs, mixture = make(5, *CASES["many blocks, uneven"])
    expected = oracle(*inputs, mixture)
    incoming = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, inputs, incoming)
    try:
        torch.set_num_threads(threads)
        y = mixture_conv(*inputs, mixture)
        found = torch.autograd.grad(y, inputs, incoming)
    finally:
        torch.set_num_threads(before)
    for got, want in zip((y, *found), (expected, *gradients), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_unused_gradients_are_not_made():
    (x, attention, cells), mixture = make(3, *CASES["3x3"])
    y = mixture_conv(x.detach(), attention, cells.detach(), mixture)
    (found,) = torch.autograd.grad(y.sum(), attention)
    (want,) = torch.autograd.grad(oracle(x, attention, cells, mixture).sum(), attention)
    torch.testing.assert_close(found, want)


def test_activation_checkpointing_and_autocast():
    from torch.utils.checkpoint import checkpoint

    inputs, mixture = make(3, *CASES["3x3"], dtype=torch.float32)

    def layer(*tensors):
        return mixture_conv(*tensors, mixture).sin().sum()

    expected = torch.autograd.grad(layer(*inputs), inputs)
    for got, want in zip(
        torch.autograd.grad(checkpoint(layer, *inputs, use_reentrant=False), inputs), expected, strict=True
    ):
        torch.testing.assert_close(got, want)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = mixture_conv(*inputs, mixture)
    assert y.dtype == torch.bfloat16
    incoming = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    expected = torch.autograd.grad(oracle(*inputs, mixture), inputs, incoming)
    for got, want in zip(torch.autograd.grad(y, inputs, incoming.to(y.dtype)), expected, strict=True):
        assert got.dtype == torch.float32
        assert F.cosine_similarity(got.flatten(), want.flatten(), dim=0) > 0.999


def test_blocks_of_samples_do_not_change_the_result(monkeypatch):
    inputs, mixture = make(5, *CASES["3x3"])
    expected = oracle(*inputs, mixture)
    wanted = torch.autograd.grad(expected.sin().sum(), inputs)
    monkeypatch.setattr("dynaconv.ops.recompute.BLOCK_BYTES", 1)
    for backend in ("loop", "outputs", "matmul"):
        with use_backend(backend):
            y = mixture_conv(*inputs, mixture)
        torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)
        for got, want in zip(torch.autograd.grad(y.sin().sum(), inputs), wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("present", [(True, True), (True, False), (False, True)])
def test_gradients_of_scales(zero, present):
    (x, attention, cells), mixture = make(3, *CASES["own cells, spatial"])
    draw = torch.Generator().manual_seed(2)
    scales = [torch.rand(3, n, generator=draw).double() + 0.1 for n in (16, 24)]
    if zero:  # by which the fast way would divide
        scales[0][0, 0] = scales[1][1, 1] = 0
    inward, outward = (s.requires_grad_() if there else None for s, there in zip(scales, present, strict=True))
    expected = oracle(x if inward is None else x * inward[..., None, None], attention, cells, mixture)
    expected = expected if outward is None else expected * outward[..., None, None]
    inputs = [t for t in (x, attention, cells, inward, outward) if t is not None]
    incoming = torch.randn_like(expected)
    y = mixture_conv(x, attention, cells, mixture, in_scale=inward, out_scale=outward)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)
    for got, want in zip(
        torch.autograd.grad(y, inputs, incoming, retain_graph=True),
        torch.autograd.grad(expected, inputs, incoming),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)

    def layer(*tensors):
        given = iter(tensors[3:])
        a, b = (next(given) if there else None for there in present)
        return mixture_conv(*tensors[:3], mixture, in_scale=a, out_scale=b)

    assert torch.autograd.gradgradcheck(layer, inputs, fast_mode=True)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_blocks_of_several_threads_may_end_in_any_order(order):
    pins = [use_backend(name).__enter__() for name in ("textbook", "loop", "matmul")]
    left = dict(enumerate(pins))
    for number in order:
        left.pop(number).__exit__(None, None, None)
        assert pinned_backend() == (("textbook", "loop", "matmul")[max(left)] if left else "auto")


def test_a_pin_without_a_block_lasts():
    with use_backend("textbook"):
        use_backend("loop")
        assert pinned_backend() == "loop"
    assert pinned_backend() == "auto"
    with use_backend("auto"):  # so that other tests have it again
        use_backend("matmul")
        with pytest.raises(KeyError), use_backend("loop"):
            raise KeyError
        assert pinned_backend() == "matmul"
    assert pinned_backend() == "auto"
