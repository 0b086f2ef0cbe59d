"""Layers show their attention to whoever watches, and compute with what is put in its place."""

from __future__ import annotations

import copy

import pytest
import torch

import dynaconv
from dynaconv import DynaconvError
from dynaconv.nn import attending_layers, watching
from dynaconv.nn.base import pool
from tests.nn.cases import animate

MAKE = {
    "kernel_warehouse": lambda: dynaconv.KWConv2d(8, 8, 3, padding=1),
    "linear": lambda: dynaconv.KWLinear(8, 8),
    "odconv": lambda: dynaconv.ODConv2d(8, 8, 3, padding=1, num_kernels=2),
    "dyconv": lambda: dynaconv.DYConv2d(8, 8, 3, padding=1),
    "condconv": lambda: dynaconv.CondConv2d(8, 8, 3, padding=1),
    "experts": lambda: dynaconv.CondLinear(8, 8),
}
KINDS = {"kernel_warehouse": ["cells"], "linear": ["cells"], "odconv": ["channel", "filter", "spatial", "kernel"]}


@pytest.fixture(params=MAKE)
def layer(request):
    torch.manual_seed(0)
    made = animate(MAKE[request.param]()).eval()
    made.method = request.param
    return made


def input_of(layer, batch=3):
    return torch.randn(batch, 5, 8) if layer.method in ("linear", "experts") else torch.randn(batch, 8, 5, 4)


@torch.no_grad()
def test_attention_is_shown_and_the_output_stays(layer):
    x, seen = input_of(layer), []
    expected = layer(x)
    with watching({layer: lambda attentions: seen.append(attentions)}):
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)
    layer(x)
    assert len(seen) == 1
    assert list(seen[0]) == KINDS.get(layer.method, ["kernel"])
    assert all(len(attention) == 3 for attention in seen[0].values())


@torch.no_grad()
def test_what_is_shown_is_the_branchs_attention():
    layer, seen = animate(MAKE["kernel_warehouse"]()).eval(), []
    x = torch.randn(3, 8, 5, 4)
    with watching({layer: lambda attentions: seen.append(attentions["cells"])}):
        layer(x)
    torch.testing.assert_close(seen[0], layer.attention(pool(x)))


@torch.no_grad()
def test_another_attention_takes_its_place(layer):
    x = input_of(layer)
    with watching({layer: lambda attentions: {kind: a.flip(0) for kind, a in attentions.items()}}):
        turned = layer(x)
    alone = torch.cat([layer(x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(layer(x), alone)
    assert (turned[0] - alone[0]).abs().max() > 1e-3
    torch.testing.assert_close(turned[1], alone[1])


@torch.no_grad()
def test_prepared_layers_show_it_too(layer):
    x, seen = input_of(layer), []
    expected = layer(x)
    dynaconv.prepare_inference(layer)
    with watching({layer: lambda attentions: seen.append(attentions)}):
        torch.testing.assert_close(layer(x), expected)
    assert seen


def test_a_layer_is_watched_by_one_and_copies_by_none():
    layer = MAKE["dyconv"]()
    with watching({layer: lambda attentions: None}):
        assert copy.deepcopy(layer).watcher is None
        with pytest.raises(DynaconvError, match="watched already"), watching({layer: lambda attentions: None}):
            pass
        assert layer.watcher is not None
    assert layer.watcher is None


def test_layers_without_mixing_are_refused_and_not_found():
    layer = dynaconv.DCDConv2d(8, 8, 3)
    with pytest.raises(DynaconvError, match="does not mix kernels by attention"), watching({layer: lambda a: None}):
        pass
    model = torch.nn.Sequential(layer, MAKE["dyconv"]())
    assert list(attending_layers(model)) == ["1"]


@torch.no_grad()
def test_kernels_are_those_of_what_is_put_in_its_place(layer):
    x = input_of(layer)
    own = layer.kernels(x)
    with watching({layer: lambda attentions: {kind: a.flip(0) for kind, a in attentions.items()}}):
        turned = layer.kernels(x)
    assert (turned - own).abs().max() > 1e-4
    torch.testing.assert_close(turned, own.flip(0))
