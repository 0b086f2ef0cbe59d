"""Sums over batches against the same figures taken from all images at once."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import dynaconv
from dynaconv import DynaconvError
from dynaconv.analysis.attention import AttentionMaps, collect_attention
from dynaconv.analysis.attention.batches import by_image
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
    changed = copy.deepcopy(maps)
    group = changed.maps[0].group
    assert changed.dead_cells(group) == []
    for one in changed.groups()[group]:
        one.size[:, 1] = 0
    assert changed.dead_cells(group) == [1]


def test_what_can_not_be_collected_is_told(network, data):
    with pytest.raises(DynaconvError, match="no layer that mixes kernels"):
        collect_attention(nn.Conv2d(3, 4, 1), [data[0]])
    with pytest.raises(DynaconvError, match="no image"):
        collect_attention(network, [])
    with pytest.raises(
        DynaconvError, match=r"batches is one tensor of shape .*; expected batches, such as images.split"
    ):
        collect_attention(network, data[0])
    with pytest.raises(DynaconvError, match="class numbers"):
        collect_attention(network, [data[0]], classes={0: "a"})


def test_classes_by_name_and_number():
    names = ["cat", "dog", "7"]
    assert class_names(names, None, 2) == [0, 1]
    assert class_names(names, ["dog", "0", "7"], 2) == [1, 0, 2]
    with pytest.raises(DynaconvError, match="no class 'cow'"):
        class_names(names, ["cow"], 2)


def test_classes_without_images_have_no_average(network, data, tmp_path):
    images, _ = data
    found = collect_attention(network, [(images, torch.zeros(11, dtype=torch.long))], classes={0: "a", 1: "b"})
    assert (found.class_images, found.without_images) == ((11, 0), ("b",))
    for one in found.maps:
        torch.testing.assert_close(one.by_class[0], one.mean)
        assert one.by_class[1].isnan().all()
    loaded = AttentionMaps.load(found.save(tmp_path / "a.npz"))
    assert loaded.class_images == (11, 0)
    assert loaded.maps[0].by_class[1].isnan().all()
    assert "no image of the classes b" in str(loaded)


def test_batches_without_labels_and_without_images(network, data):
    images, labels = data
    expected = collect_attention(network, [images])
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=4)
    for found in (
        collect_attention(network, loader),
        collect_attention(network, [(images[:0], labels[:0]), (images, labels), images[:0]]),
        collect_attention(network, [(images, {"boxes": 1}, "more")]),  # not asked for
    ):
        for one, other in zip(found.maps, expected.maps, strict=True):
            assert one.images == 11
            torch.testing.assert_close(one.mean, other.mean)
            torch.testing.assert_close(one.spread, other.spread)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"image": torch.zeros(1, 3, 8, 8)}, "begins with dict"),
        ((), "begins with tuple"),
        ((torch.zeros(2, 3, 8, 8), torch.zeros(2, 4)), r"shape \(2, 4\) for 2 images"),
    ],
)
def test_batches_of_something_else_are_told(network, batch, said):
    with pytest.raises(DynaconvError, match=said):
        collect_attention(network, [batch], classes={0: "a"})


class Windows(nn.Module):
    """A layer that sees the four quarters of a map as samples, one image's after another's, as Swin's windows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dynaconv.KWLinear(3, 8)

    def forward(self, x):
        parts = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1)  # (B, 2, 2, 4, 4, C)
        return self.inner(parts.reshape(-1, 16, 3)).reshape(len(x), -1)


class Twice(nn.Module):
    """One layer for two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = dynaconv.DYConv2d(3, 8, 3)

    def forward(self, x):
        return self.inner(x).mean((2, 3)) + self.inner(x.flip(1)).mean((2, 3))


def calls(model, x):
    """Attention of every call of a layer alone, shape (B, k, m, n) for k parts of an image in all."""
    seen = []
    with dynaconv.nn.watching({model.inner: lambda attentions: seen.append(next(iter(attentions.values())))}):
        model(x)
    parts = [one.unsqueeze(1) if one.dim() == 2 else one for one in seen]
    return torch.cat([one.reshape(len(x), -1, *one.shape[1:]) for one in parts], dim=1).double()


@torch.no_grad()
@pytest.mark.parametrize("kind", [Windows, Twice])
def test_an_image_that_is_seen_in_parts_is_one_image(data, kind):
    torch.manual_seed(0)
    model, (images, labels) = animate(kind()).eval(), data
    parts = calls(model, images)
    assert parts.shape[1] == (4 if kind is Windows else 2)
    own = parts.mean(1)
    ((place, attention),) = attention_to(model, images).items()
    torch.testing.assert_close(attention.double(), own, rtol=1e-5, atol=1e-7)
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    found = collect_attention(model, batches, classes={0: "a", 2: "c"})
    (one,) = found.maps
    assert (one.layer, one.kind) == place
    assert (one.images, found.class_images) == (11, (4, 3))
    torch.testing.assert_close(one.mean, own.mean(0), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(one.spread, own.std(0, correction=0), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(one.size, parts.abs().mean((0, 1)), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(one.by_class[1], own[labels == 2].mean(0), rtol=1e-5, atol=1e-7)
    assert one.negative + one.positive == int((parts != 0).sum())
    assert one.histogram.sum() == parts.numel()


def test_samples_that_are_no_multiple_of_the_images_are_told():
    class Halved(Windows):
        def forward(self, x):
            return self.inner(x.flatten(2).transpose(1, 2)[: len(x) // 2])

    with pytest.raises(DynaconvError, match="layer 'inner' sees 2 samples in a batch of 5 images"):
        collect_attention(Halved(), [torch.randn(5, 3, 8, 8)])
    with pytest.raises(DynaconvError, match="3 samples in a batch of 2 images"):
        by_image(torch.zeros(3, 1, 4), 2, "x")


def test_layers_are_together_by_their_cells_and_not_by_a_name(data):
    model = nn.Sequential(dynaconv.KWConv2d(3, 8, 3), dynaconv.KWConv2d(8, 16, 3))
    assert list(collect_attention(model, [data[0]]).groups()) == ["0", "1"]
    halves = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)) for _ in range(2)))
    for half in halves:
        dynaconv.convert(half, dynaconv.KernelWarehouseConfig(sharing={"*": "shared"}), where="*")
    found = collect_attention(halves, [data[0]])
    assert {group: [one.layer for one in layers] for group, layers in found.groups().items()} == {
        "0.warehouses.shared": ["0.0", "0.1"],
        "1.warehouses.shared": ["1.0", "1.1"],
    }
