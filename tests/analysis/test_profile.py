"""Profiles: static networks by known counts, dynamic layers by their formulas and by what really runs."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import dynaconv
from dynaconv import DynaconvError


def products(layer, x):
    """Multiply-adds of the matrix products and convolutions that run when kernels are mixed first."""
    with torch.no_grad(), dynaconv.use_backend("textbook"), FlopCounterMode(display=False) as counter:
        layer.eval()(x)
    return counter.get_total_flops() // 2


def linears(module):
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


KERNEL, POSITIONS, BATCH = 16 * 8 * 9, 5 * 4, 2
# layer, and the products that mix one sample's kernel
LAYERS = {
    "kw": (lambda: dynaconv.KWConv2d(8, 16, 3, padding=1, config=dynaconv.KernelWarehouseConfig(budget=2)), 18),
    "condconv": (lambda: dynaconv.CondConv2d(8, 16, 3, padding=1, num_experts=5), 5),
    "dyconv": (lambda: dynaconv.DYConv2d(8, 16, 3, padding=1, num_kernels=3), 3),
    "odconv": (lambda: dynaconv.ODConv2d(8, 16, 3, padding=1, num_kernels=4), 4),
    "weightnet": (lambda: dynaconv.WeightNetConv2d(8, 16, 3, padding=1), 0),
}


@pytest.mark.parametrize("name", list(LAYERS))
def test_formulas_against_the_products_that_run(name):
    make, mixing = LAYERS[name]
    layer = make()
    x = torch.randn(BATCH, 8, 5, 4)
    madds = layer.count_madds(tuple(x.shape))
    assert madds.convolution == BATCH * KERNEL * POSITIONS
    biases = BATCH * 16 * getattr(layer, "num_experts", 0)  # experts' biases are summed by a product, too
    branch = linears(layer.attention)
    assert products(layer, x) == madds.convolution + BATCH * (mixing * KERNEL + branch) + biases
    assert madds.attention == BATCH * (branch + 8 * POSITIONS)
    assert madds.kernel_elements == BATCH * KERNEL


def test_dcd_against_the_products_that_run():
    layer = dynaconv.DCDConv2d(64, 16, 3, stride=2, padding=1, bias=False)
    x = torch.randn(BATCH, 64, 5, 4)
    madds, positions = layer.count_madds(tuple(x.shape)), 3 * 2
    scaling = BATCH * 16 * positions
    pooling = x.numel()
    assert products(layer, x) == madds.total - scaling - pooling
    assert madds.kernel_elements == 0


def test_cgc_against_the_products_that_run():
    layer = dynaconv.CGConv2d(32, 16, 3, padding=1, bias=False)
    x = torch.randn(BATCH, 32, 5, 4)
    madds = layer.count_madds(tuple(x.shape))
    gating, pooling = BATCH * 16 * 32 * 9, x.numel()
    assert products(layer, x) == madds.total - gating - pooling


@pytest.mark.parametrize("kind", [dynaconv.SE, dynaconv.CBAM, dynaconv.ECA])
def test_gates(kind):
    gate, x = kind(32), torch.randn(BATCH, 32, 5, 4)
    madds = gate.count_madds(tuple(x.shape))
    elementwise = x.numel() * (4 if kind is dynaconv.CBAM else 2)
    assert products(gate, x) == madds.total - elementwise


@pytest.mark.parametrize("kind", [dynaconv.KWLinear, dynaconv.CondLinear, dynaconv.DCDLinear])
def test_linear_layers(kind):
    layer, x = kind(32, 16, bias=False), torch.randn(BATCH, 7, 32)
    madds = layer.count_madds(tuple(x.shape))
    assert madds.convolution == BATCH * 7 * 32 * 16
    scaling = BATCH * 7 * 16 if kind is dynaconv.DCDLinear else 0
    assert products(layer, x) == madds.total - x.numel() - scaling


@pytest.mark.parametrize(
    ("attentions", "kernels", "products_per_element"),
    [
        (("spatial", "channel", "filter", "kernel"), 4, 9),
        (("spatial", "channel", "filter"), 1, 2),
        (("spatial",), 1, 1),
        (("kernel",), 4, 4),
    ],
)
def test_odconv_counts_every_attention_on_the_kernels(attentions, kernels, products_per_element):
    layer = dynaconv.ODConv2d(8, 16, 3, padding=1, attentions=attentions, num_kernels=kernels)
    assert layer.count_madds((1, 8, 5, 4)).mixing == products_per_element * KERNEL


def test_a_network_by_layer():
    model = timm.create_model("resnet18", num_classes=10)
    profile = dynaconv.profile(model, (3, 64, 64), batch_size=2)
    by_name = {row.name: row for row in profile.rows}
    assert profile.parameters == sum(p.numel() for p in model.parameters())
    assert by_name["conv1"].convolution == 2 * 64 * 3 * 49 * 32 * 32
    assert by_name["fc"].convolution == 2 * 512 * 10
    assert by_name["conv1"].activation_bytes == 2 * 64 * 32 * 32 * 4
    assert profile.madds == profile.convolution == profile.executed_madds
    assert "layer1.0.conv1" in profile.table(by_layer=True)
    assert "layer1.0.conv1" not in str(profile)
    assert f"{profile.madds:,}" in str(profile)


def test_shared_parameters_and_branches_count_once():
    for config in (dynaconv.KernelWarehouseConfig(), dynaconv.CondConvConfig(), dynaconv.WeightNetConfig()):
        model = dynaconv.convert(timm.create_model("resnet18", num_classes=10), config)
        profile = dynaconv.profile(model, (3, 32, 32))
        assert profile.parameters == sum(p.numel() for p in model.parameters())
        assert profile.attention > 0
        assert profile.madds == sum(row.madds for row in profile.rows)
    first, second = (row for row in profile.rows if row.name in ("layer1.0.conv1", "layer1.0.conv2"))
    values = 64 * 16 * 2  # from the reduced input to M values for every output channel
    assert (first.attention, second.attention) == (64 * 8 * 8 + 64 * 16 + values, values)


@torch.no_grad()
def test_a_module_of_two_names():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    model.add_module("again", model[0])
    x = torch.randn(2, 3, 4, 4)
    y = model(x)
    profile = dynaconv.profile(model, (3, 4, 4))
    assert torch.equal(model(x), y)
    assert isinstance(model[0].weight, nn.Parameter)
    assert profile.parameters == 12
    assert profile.executed_madds == 2 * 9 * 16


def test_attention_layers_of_transformers_are_counted():
    """PyTorch's counter sees products that no convolution or linear module makes."""
    profile = dynaconv.profile(timm.create_model("vit_tiny_patch16_224"))
    scores = 12 * 2 * 197 * 197 * 192
    linear = sum(row.convolution for row in profile.rows if row.kind in ("Linear", "Conv2d"))
    assert profile.madds == linear + scores


def test_the_model_stays_as_it_is():
    model = dynaconv.create_model("od1x_mobilenetv2_050")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.blocks.eval()
    modes = [m.training for m in model.modules()]
    dynaconv.profile(model, (3, 32, 32))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks for m in model.modules())


def test_one_and_three_dimensions_and_single_layers():
    layer = dynaconv.ODConv3d(4, 8, 3, bias=False)
    profile = dynaconv.profile(layer, (4, 5, 6, 7))
    assert profile.convolution == 8 * 4 * 27 * 3 * 4 * 5
    assert math.prod((8, 3, 4, 5)) * 4 == profile.activation_bytes
    assert dynaconv.profile(dynaconv.SE(32, dims=1), (32, 9)).parameters == 128


@pytest.mark.parametrize(
    ("size", "batch", "message"),
    [
        ((3, 0, 8), 1, "above 0"),
        ((3, 8, 8), 0, "above 0"),
        ((5, 64, 64), 1, "could not be profiled"),
        ((3,), 1, "could not be profiled"),
    ],
)
def test_bad_requests(size, batch, message):
    with pytest.raises(DynaconvError, match=message):
        dynaconv.profile(timm.create_model("resnet18"), size, batch)
