"""Sums over batches against the same figures taken from all images at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dynaconv
from dynaconv import DynaconvError
from dynaconv.analysis.attention import AttentionMaps, collect_attention
from dynaconv.analysis.attention.collect import attention_to
from dynaconv.analysis.attention.maps import class_names, effective_number
from tests.nn.cases import animate


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.last = nn.Conv2d(8, 8, 1)
        dynaconv.convert(self, dynaconv.KernelWarehouseConfig(), where=["conv1", "conv2"])
        dynaconv.convert(self, dynaconv.ODConvConfig(num_kernels=2), where=["last"])

    def forward(self, x):
        return self.last(self.conv2(self.conv1(x).relu())).mean((2, 3))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = animate(Network())
    dynaconv.set_temperature(model.conv2, 0.25)
    return model


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(11, 3, 8, 8, generator=generator), torch.arange(11) % 3


@pytest.fixture(scope="module")
def maps(network, data):
    images, labels = data
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    return collect_attention(network, batches, classes={0: "a", 2: "c"}, about={"data": "noise"})


def test_averages_are_those_of_all_images_at_once(network, data, maps):
    images, labels = data
    whole = attention_to(network, images)
    assert {(one.layer, one.kind) for one in maps.maps} == set(whole)
    for one in maps.maps:
        attention = whole[one.layer, one.kind].double()
        assert one.images == 11
        torch.testing.assert_close(one.mean, attention.mean(0))
        torch.testing.assert_close(one.size, attention.abs().mean(0))
        torch.testing.assert_close(one.spread, attention.std(0, correction=0), rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(one.by_class, torch.stack([attention[labels == c].mean(0) for c in (0, 2)]))
        assert one.negative == int((attention < 0).sum())
        assert one.positive == int((attention > 0).sum())
        assert one.histogram.sum() == attention.numel()


def test_cells_have_their_warehouse_and_assignment(network, maps):
    cells = [one for one in maps.maps if one.kind == "cells"]
    assert [one.layer for one in cells] == ["conv1", "conv2"]
    for one in cells:
        plan = network.get_submodule(one.layer).plan
        assert one.group == plan.warehouse
        assert one.mean.shape == (plan.num_mixtures, plan.num_cells)
        ones = torch.zeros(plan.num_mixtures, plan.num_cells)
        for i, j in one.assigned:
            ones[i, j] = 1
        torch.testing.assert_close(ones, network.get_submodule(one.layer).attention.beta[:, :-1])
    assert 0 < cells[0].on_assignment < cells[1].on_assignment  # a quarter of the second's is the assignment's


def test_the_network_stays_as_it_was(network, data):
    network.train()
    network.last.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    collect_attention(network, [data[0]])
    assert network.training
    assert not network.last.training
    assert network.conv1.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    network.eval()


def test_saved_and_loaded(maps, tmp_path):
    loaded = AttentionMaps.load(maps.save(tmp_path / "folder" / "a.npz"))
    assert (loaded.classes, loaded.about, loaded.temperature) == (maps.classes, maps.about, maps.temperature)
    assert str(loaded) == str(maps)
    for found, one in zip(loaded.maps, maps.maps, strict=True):
        assert found.assigned == one.assigned
        for key in ("mean", "size", "spread", "histogram", "by_class"):
            assert torch.equal(getattr(found, key), getattr(one, key))
    (tmp_path / "b.npz").write_text("no")
    with pytest.raises(DynaconvError, match="holds no attention"):
        AttentionMaps.load(tmp_path / "b.npz")


def test_effective_numbers_and_dead_cells(maps):
    weights = torch.tensor([[1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [2.0, 1.0, 1.0, 0.0]])
    expected = torch.tensor([4.0, 1.0, 0.0, 2**1.5])  # entropy of (1/2, 1/4, 1/4): 1.5 bits
    torch.testing.assert_close(effective_number(weights), expected)
    group = maps.maps[0].group
    one = next(m for m in maps.maps if m.group == group)
    assert maps.dead_cells(group) == []
    one.size[:, 1] = 0
    try:
        others = [m for m in maps.groups()[group] if m is not one]
        kept = [m.size[:, 1].clone() for m in others]
        for m in others:
            m.size[:, 1] = 0
        assert maps.dead_cells(group) == [1]
    finally:
        for m, values in zip(others, kept, strict=True):
            m.size[:, 1] = values


def test_what_can_not_be_collected_is_told(network, data):
    with pytest.raises(DynaconvError, match="no layer that mixes kernels"):
        collect_attention(nn.Conv2d(3, 4, 1), [data[0]])
    with pytest.raises(DynaconvError, match="no image"):
        collect_attention(network, [])
    with pytest.raises(DynaconvError, match="class numbers"):
        collect_attention(network, [data[0]], classes={0: "a"})


def test_classes_by_name_and_number():
    names = ["cat", "dog", "7"]
    assert class_names(names, None, 2) == [0, 1]
    assert class_names(names, ["dog", "0", "7"], 2) == [1, 0, 2]
    with pytest.raises(DynaconvError, match="no class 'cow'"):
        class_names(names, ["cow"], 2)
