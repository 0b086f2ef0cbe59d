"""Every layer against its paper's formula, in float64: outputs over the whole signature of nn.ConvNd, and gradients.

FDConv's formulas fill a file of their own, ``test_fdconv.py``.
"""

from __future__ import annotations

import pytest
import torch

import dynaconv
from tests import oracles_methods
from tests.nn.cases import CASES, animate

# The oracle of a convolution walks over every output value: few of them are enough.
SIZES = {1: (9,), 2: (5, 4), 3: (4, 3, 3)}
GEOMETRIES = [
    {},
    {"stride": 2, "padding": 1},
    {"dilation": 2, "padding": 2},
    {"padding": "same", "dilation": 2},
    {"padding": "same", "kernel_size": 2},
    {"padding": "same", "stride": 2},
    {"padding": "valid", "bias": False},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": 1, "groups": 2, "bias": False},
    {"groups": 2, "padding": 1},
    {"groups": 4, "channels": (4, 4), "padding": 1, "stride": 2},
    {"groups": 4, "channels": (4, 8), "padding": 1, "kernel_size": 2},
    {"padding": 1, "padding_mode": "circular"},
    {"padding": 2, "padding_mode": "reflect", "stride": 2},
    {"padding": 1, "padding_mode": "replicate", "dilation": 2},
    {"padding": "same", "padding_mode": "reflect", "stride": 2},
]
CONVOLUTIONS = {n: case for n, case in CASES.items() if case.is_convolution and case.config.method != "fdconv"}
OTHERS = {n: case for n, case in CASES.items() if not case.is_convolution}
# Branches of other forms than the table's, which have a formula of their own.
VARIANTS = {
    "dyconv of kaijieshi7": (dynaconv.DYConv2d, {"branch": "kaijieshi7"}),
    "odconv one kernel": (dynaconv.ODConv2d, {"num_kernels": 1}),
    "odconv two attentions": (dynaconv.ODConv2d, {"num_kernels": 2, "attentions": ("kernel", "channel")}),
    "odconv filter alone": (dynaconv.ODConv2d, {"attentions": ("filter",)}),
    "dcd one position": (dynaconv.DCDConv2d, {"layout": "bottleneck"}),
    "dcd mobile": (dynaconv.DCDConv2d, {"layout": "mobile", "squeeze": 8}),
    "weightnet one group": (dynaconv.WeightNetConv2d, {"expansion": 3, "grouping": 1}),
    "weightnet four groups": (dynaconv.WeightNetConv2d, {"expansion": 4, "grouping": 4}),
    "cgc all channels": (dynaconv.CGConv2d, {"group_size": 16}),
    "cgc pairs": (dynaconv.CGConv2d, {"group_size": 2}),
}


def agree(layer, x):
    """In evaluation and in training, where there is a temperature at another one."""
    for training, temperature in ((False, 1.0), (True, 0.75)):
        layer.train(training).set_temperature(temperature)
        expected = oracles_methods.output(layer, x)  # first: the layer's own run moves its running statistics
        torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("name", list(CONVOLUTIONS))
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_convolutions(name, geometry, device):
    case, arguments = CONVOLUTIONS[name], {"kernel_size": 3, "channels": (4, 6), **geometry}
    if case.config.method == "cgc" and arguments["kernel_size"] == 1:
        pytest.skip("CGC leaves point-wise layers static")
    channels = arguments.pop("channels")
    layer = animate(case.kind(*channels, **arguments, config=case.config, device=device, dtype=torch.float64))
    agree(layer, torch.randn(2, channels[0], *SIZES[case.kind.dims], device=device, dtype=torch.float64))


@pytest.mark.parametrize("name", list(OTHERS))
def test_gates_and_linear_layers(name, device):
    case = OTHERS[name]
    agree(case.make(device=device, dtype=torch.float64), case.input(3, device=device, dtype=torch.float64))


@pytest.mark.parametrize("channels", [(16, 8), (8, 16)], ids=str)
@pytest.mark.parametrize("name", list(VARIANTS))
def test_variants(name, channels, device):
    kind, fields = VARIANTS[name]
    layer = animate(kind(*channels, 3, padding=1, **fields, device=device, dtype=torch.float64))
    agree(layer, torch.randn(3, channels[0], 4, 3, device=device, dtype=torch.float64))


@pytest.mark.parametrize("name", list(CASES))
def test_gradients(name, device):
    """Of the input and of every parameter, against differences."""
    case = CASES[name]
    layer = case.make(device=device, dtype=torch.float64).eval()
    x = case.input(2, device=device, dtype=torch.float64).requires_grad_()
    parameters = dict(layer.named_parameters())

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters.values()), fast_mode=True)
