"""Attention that is replaced: each way against a network that is made that way by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import dynaconv
from dynaconv import DynaconvError
from dynaconv.analysis.attention import PERTURBATIONS, collect_attention, perturbations_for, perturbed
from dynaconv.analysis.attention.collect import attention_to
from dynaconv.analysis.attention.perturb import derangement
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
    assert not same.diagonal().any()


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
    with perturbed(model, maps, "average", layers=["1"]):
        assert model[0].watcher is None
        assert model[1].watcher is not None
    for options in ({"how": "twice"}, {"how": "average", "layers": {"2"}}, {"how": "average", "layers": []}):
        with (
            pytest.raises(DynaconvError, match=r"expected one of|no attention of 2 .*layers: 0, 1|names none"),
            perturbed(model, maps, **options),
        ):
            pass


@pytest.mark.parametrize("count", [2, 3, 7])
def test_in_a_derangement_nothing_stays(count):
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([derangement(count, generator) for _ in range(40)])
    assert torch.equal(orders.sort(1).values, torch.arange(count).expand(40, -1))
    assert not (orders == torch.arange(count)).any()
    assert count == 2 or len(orders.unique(dim=0)) > 1


@torch.no_grad()
def test_one_image_has_no_other(layer, x):
    maps = collect_attention(layer, [x])
    with pytest.raises(DynaconvError, match="1 image in a batch"), perturbed(layer, maps, "shuffled across images"):
        layer(x[:1])


@torch.no_grad()
def test_shuffled_within_images_stays_among_the_cells_of_a_mixture(x):
    torch.manual_seed(0)
    layer = animate(
        dynaconv.KWConv2d(8, 8, 3, padding=1, config=dynaconv.KernelWarehouseConfig(sharing="none", budget=4))
    )
    maps, own = collect_attention(layer.eval(), [x]), attention_to(layer, x)["", "cells"]
    _, found = attention_within(layer, maps, "shuffled within images", x)
    assert (own == 0).any()
    assert torch.equal(found != 0, own != 0)
    torch.testing.assert_close(found.sort(-1).values, own.sort(-1).values)
    assert not torch.allclose(found, own)


def attention_of_all(model, maps, how, x):
    """What the layers of a network attend with, while it is replaced."""
    seen = {}
    with perturbed(model, maps, how):
        for name, layer in dynaconv.nn.attending_layers(model).items():

            def told(attentions, name=name, watcher=layer.watcher):
                seen[name] = watcher(attentions)
                return seen[name]

            layer.watcher = told
        return model(x), seen


@torch.no_grad()
@pytest.mark.parametrize("kernels", [1, 2])
def test_all_kinds_of_odconv_are_replaced(x, kernels):
    torch.manual_seed(0)
    model = animate(torch.nn.Sequential(dynaconv.ODConv2d(8, 8, 3, num_kernels=kernels))).eval()
    maps, own, before = collect_attention(model, [x]), attention_to(model, x), model(x)
    kinds = ["channel", "filter", "spatial", *["kernel"] * (kernels > 1)]
    y, seen = attention_of_all(model, maps, "average", x)
    assert list(seen["0"]) == kinds
    with perturbed(model, maps, "average"):
        kernel = model[0].kernels(x[:1])[0]
    torch.testing.assert_close(y, F.conv2d(x, kernel, model[0].bias), rtol=1e-4, atol=1e-5)
    _, seen = attention_of_all(model, maps, "shuffled across images", x)
    donors = set()
    for kind in kinds:
        same = (seen["0"][kind].unsqueeze(1) - own["0", kind].squeeze(1).unsqueeze(0)).abs().amax(-1) < 1e-7
        donors.add(tuple(same.int().argmax(1).tolist()))
    (donor,) = donors  # the same image's for all kinds
    assert all(image != place for place, image in enumerate(donor))
    _, seen = attention_of_all(model, maps, "shuffled within images", x)
    for kind in kinds:
        torch.testing.assert_close(seen["0"][kind].sort(-1).values, own["0", kind].squeeze(1).sort(-1).values)
    assert (model(x) == before).all()


@torch.no_grad()
def test_the_maximum_is_of_kernels_alone(x):
    torch.manual_seed(0)
    one, two = (animate(dynaconv.ODConv2d(8, 8, 3, num_kernels=kernels)).eval() for kernels in (1, 2))
    maps, own = collect_attention(two, [x]), attention_to(two, x)
    _, seen = attention_of_all(two, maps, "maximum", x)
    assert ((seen[""]["kernel"] != 0).sum(-1) == 1).all()
    torch.testing.assert_close(seen[""]["channel"], own["", "channel"].squeeze(1))
    assert perturbations_for(maps) == list(PERTURBATIONS)
    maps = collect_attention(one, [x])
    assert perturbations_for(maps) == [way for way in PERTURBATIONS if way != "maximum"]
    with pytest.raises(DynaconvError, match="expected one of average, shuffled"), perturbed(one, maps, "maximum"):
        pass


@torch.no_grad()
def test_parts_of_an_image_get_the_attention_of_another_image():
    class Quarters(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = animate(dynaconv.CondLinear(3, 8))

        def forward(self, x):
            return self.inner(x.reshape(-1, 2, 3)).reshape(len(x), 4, -1)

    torch.manual_seed(0)
    model, x = Quarters().eval(), torch.randn(5, 8, 3)
    own = model.inner.weigh(x.reshape(-1, 2, 3).mean(1)).reshape(5, 4, -1)
    _, seen = attention_of_all(model, collect_attention(model, [x]), "shuffled across images", x)
    found = seen["inner"]["kernel"].reshape(5, 4, -1)
    same = (found.unsqueeze(1) - own.unsqueeze(0)).abs().flatten(2).amax(-1) < 1e-7
    assert (same.sum(0) == 1).all()
    assert (same.sum(1) == 1).all()
    assert not same.diagonal().any()
