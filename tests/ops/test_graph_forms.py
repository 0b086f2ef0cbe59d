"""Forms of per-sample convolution for graphs: each the oracle's function, of any batch."""

from __future__ import annotations

import math

import pytest
import torch

from dynaconv.ops import Geometry, Mixture
from dynaconv.ops.graph_forms import mixture_in_graph
from dynaconv.ops.graphs import LARGEST_CONV_KERNEL, GraphTarget, choose_form, graph_for, graph_target
from dynaconv.ops.patches import shifted_inputs
from dynaconv.ops.per_sample_conv import conv_in_graph
from tests import oracles

GEOMETRIES = {
    "1-d": ((9,), Geometry((4,), (1,), (2,), (1,))),
    "point-wise": ((5, 4), Geometry((1, 1), (1, 1), (0, 0), (1, 1))),
    "point-wise with stride": ((7, 6), Geometry((1, 1), (2, 3), (0, 0), (1, 1))),
    "point-wise, padded": ((5, 4), Geometry((1, 1), (2, 2), (1, 0), (1, 1))),
    "3x3": ((6, 5), Geometry((3, 3), (1, 1), (1, 1), (1, 1))),
    "stride, odd sizes": ((9, 7), Geometry((3, 3), (2, 2), (1, 1), (1, 1))),
    "stride, even sizes": ((8, 10), Geometry((3, 3), (2, 2), (1, 1), (1, 1))),
    "stride over what is left": ((8, 9), Geometry((2, 3), (3, 4), (0, 1), (1, 1))),
    "stride, dilation, uneven kernel": ((11, 12), Geometry((3, 2), (2, 3), (2, 1), (2, 3))),
    "stride of one dimension": ((8, 7), Geometry((3, 3), (1, 2), (0, 2), (2, 1))),
    "no padding": ((7, 5), Geometry((5, 3), (2, 1), (0, 0), (1, 1))),
    "groups": ((6, 5), Geometry((3, 3), (2, 1), (1, 1), (1, 1), 2)),
    "depth-wise": ((6, 7), Geometry((3, 3), (2, 2), (1, 1), (1, 1), 6)),
    "3-d": ((5, 4, 6), Geometry((2, 3, 1), (1, 2, 2), (1, 0, 0), (1, 1, 1))),
}


def build(name: str, batch: int):
    size, geometry = GEOMETRIES[name]
    torch.manual_seed(len(name))
    channels, outputs = (6, 6) if name == "depth-wise" else (4, 6)
    x = torch.randn(batch, channels, *size, dtype=torch.float64)
    kernels = torch.randn(batch, outputs, channels // geometry.groups, *geometry.kernel_size, dtype=torch.float64)
    return x, kernels, geometry


def expected(x, kernels, geometry):
    return oracles.conv(x, kernels, geometry.stride, geometry.padding, geometry.dilation, geometry.groups)


@pytest.mark.parametrize("form", ["patches", "conv"])
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_given_kernels(name, batch, form):
    if form == "conv" and not batch:
        pytest.skip("its number of groups is that of the samples, which is fixed and not 0")
    x, kernels, geometry = build(name, batch)
    torch.testing.assert_close(conv_in_graph(x, kernels, geometry, form), expected(x, kernels, geometry))


BLOCKS = {
    "cells of a position": (True, 2, 1, False),
    "cells of a position in input blocks": (True, 3, 2, False),
    "cells of all positions": (False, 2, 2, False),
    "whole kernels": (False, 1, 1, False),
    "own cells, by position": (True, 1, 1, True),
    "own cells, by block": (True, 2, 2, True),
    "own cells, whole": (False, 1, 1, True),
}


def own_kernels(attention, cells, grid):
    """Every block of a kernel has weights of its own for cells as large as the kernel."""
    spatial, outer, inner = grid
    weights = attention.reshape(len(attention), spatial, outer, inner, len(cells)).permute(0, 2, 3, 1, 4)
    weights = weights.repeat_interleave(cells.shape[1] // outer, 1).repeat_interleave(cells.shape[2] // inner, 2)
    flat = cells.flatten(3)
    kernels = [sum(w[..., n] * flat[n] for n in range(len(cells))) for w in weights]
    return torch.stack(kernels).reshape(-1, *cells.shape[1:])


@pytest.mark.parametrize("form", ["patches", "conv"])
@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize("name", ["1-d", "3x3", "stride, odd sizes", "groups", "point-wise with stride"])
def test_mixtures(name, blocks, form):
    by_position, outer, inner, own = BLOCKS[blocks]
    x, kernels, geometry = build(name, 3)
    if kernels.shape[2] % inner:
        inner = 1
    spatial = geometry.positions if by_position else 1
    grid = (spatial, outer, inner)
    positions = (1,) * len(geometry.kernel_size) if by_position and not own else geometry.kernel_size
    channels = kernels.shape[1:3] if own else (kernels.shape[1] // outer, kernels.shape[2] // inner)
    cells = torch.randn(5, *channels, *positions, dtype=torch.float64)
    attention = torch.randn(3, math.prod(grid), 5, dtype=torch.float64)
    mixture = Mixture(grid, geometry, own_cells=own)
    if own:
        kernels = own_kernels(attention, cells, grid)
    else:
        kernels = oracles.mixed_kernels(attention, cells, grid, geometry.kernel_size)
    found = mixture_in_graph(x, attention, cells, mixture, form)
    torch.testing.assert_close(found, expected(x, kernels, geometry))


def test_no_step_of_more_than_one_behind_the_phases():
    x = torch.randn(1, 2, 9, 9)
    parts = shifted_inputs(x, Geometry((3, 3), (2, 2), (1, 1), (1, 1)))
    assert len(parts) == 9
    assert all(part.shape == (1, 2, 5, 5) and part.stride(-1) == 2 for part in parts)  # a view of the split input


def test_choice():
    three, point = Geometry((3, 3), (1, 1), (1, 1), (1, 1)), Geometry((1, 1), (1, 1), (0, 0), (1, 1))
    one, many = GraphTarget("onnxruntime", any_batch=False), GraphTarget("onnxruntime", any_batch=True)
    assert choose_form(one, (64, 64, 3, 3), three) == "conv"
    assert choose_form(many, (64, 64, 3, 3), three) == "patches"
    assert choose_form(one, (64, 64, 1, 1), point) == "patches"  # a plain product
    assert choose_form(one, (512, 512, 3, 3), three) == "patches"
    assert choose_form(GraphTarget("tensorrt", any_batch=False), (64, 64, 3, 3), three) == "patches"
    assert set(LARGEST_CONV_KERNEL) == {"onnxruntime", "openvino", "tensorrt", "inductor"}


def test_target_ends_with_its_block_and_is_for_exports_alone():
    with graph_for("openvino", any_batch=True):
        assert graph_target() is None  # nothing is exported here
