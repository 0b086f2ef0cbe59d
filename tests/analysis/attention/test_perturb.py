"""Attention that is replaced: each way against a network that is made that way by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import dynaconv
from dynaconv import DynaconvError
from dynaconv.analysis.attention import PERTURBATIONS, collect_attention, perturbed
from dynaconv.analysis.attention.collect import attention_to
from tests.nn.cases import animate


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return animate(dynaconv.KWConv2d(8, 8, 3, padding=1)).eval()


@pytest.fixture
def x():
    return torch.randn(6, 8, 5, 5)


def attention_within(layer, maps, how, x, **options):
    with perturbed(layer, maps, how, **options):
        seen = []
        watcher = layer.watcher
        layer.watcher = lambda attentions: seen.append(watcher(attentions)) or seen[-1]
        y = layer(x)
        layer.watcher = watcher
    return y, seen[0]["cells"]


@torch.no_grad()
def test_the_average_is_a_static_convolution(layer, x):
    maps = collect_attention(layer, [x])
    with perturbed(layer, maps, "average"):
        y = layer(x)
    mean = maps.maps[0].mean.float()
    kernel = layer.mixture.kernels(mean.unsqueeze(0), layer.cells)[0]
    torch.testing.assert_close(y, F.conv2d(x, kernel, layer.bias, padding=1), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_maximum_has_all_weight_and_its_sign(layer, x):
    maps, own = collect_attention(layer, [x]), attention_to(layer, x)["", "cells"]
    _, found = attention_within(layer, maps, "maximum", x)
    assert ((found != 0).sum(-1) == 1).all()
    torch.testing.assert_close(found.abs().sum(-1), own.abs().sum(-1))
    where = own.abs().argmax(-1, keepdim=True)
    assert torch.equal(found.gather(-1, where).sign(), own.gather(-1, where).sign())


@torch.no_grad()
def test_shuffled_within_images_keeps_every_mixtures_weights(layer, x):
    maps, own = collect_attention(layer, [x]), attention_to(layer, x)["", "cells"]
    _, found = attention_within(layer, maps, "shuffled within images", x)
    torch.testing.assert_close(found.sort(-1).values, own.sort(-1).values)
    assert not torch.allclose(found, own)


@torch.no_grad()
def test_shuffled_across_images_is_that_of_another(layer, x):
    maps, own = collect_attention(layer, [x]), attention_to(layer, x)["", "cells"]
    _, found = attention_within(layer, maps, "shuffled across images", x)
    same = (found.unsqueeze(1) - own.unsqueeze(0)).abs().flatten(2).amax(-1) < 1e-7
    assert (same.sum(0) == 1).all()
    assert (same.sum(1) == 1).all()
    assert not same.diagonal().all()


@torch.no_grad()
@pytest.mark.parametrize("how", PERTURBATIONS)
def test_a_seed_repeats_it_and_afterwards_all_is_as_before(layer, x, how):
    maps, before = collect_attention(layer, [x]), layer(x)
    first, _ = attention_within(layer, maps, how, x, seed=3)
    again, _ = attention_within(layer, maps, how, x, seed=3)
    assert torch.equal(first, again)
    assert (first - before).abs().max() > 1e-3
    torch.testing.assert_close(layer(x), before, rtol=0, atol=0)


@torch.no_grad()
def test_only_the_layers_that_are_named(x):
    torch.manual_seed(0)
    model = animate(torch.nn.Sequential(dynaconv.DYConv2d(8, 8, 3), dynaconv.ODConv2d(8, 8, 3, num_kernels=2))).eval()
    maps = collect_attention(model, [x])
    with perturbed(model, maps, "average", layers={"1": None}):
        assert model[0].watcher is None
        assert model[1].watcher is not None
    for options in ({"how": "twice"}, {"how": "average", "layers": {"2": None}}):
        with (
            pytest.raises(DynaconvError, match=r"expected one of|no attention of 2"),
            perturbed(model, maps, **options),
        ):
            pass
