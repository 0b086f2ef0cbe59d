"""Traced programs: any batch from one on, any size where the network allows it, and clear words where it does not."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn

import dynaconv
from dynaconv import DynaconvError, KernelWarehouseConfig
from dynaconv.export.network import deployable
from dynaconv.export.program import check_groups, trace
from dynaconv.export.settings import ExportSettings
from tests.nn.cases import animate

ANY = ExportSettings(dynamic_batch=True, dynamic_size=True)


class Network(nn.Module):
    """Layers of both orders of products, a stride, shared cells, groups."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2),
            nn.BatchNorm2d(16),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.Conv2d(32, 32, 3, padding=1, groups=32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.Conv2d(32, 32, 1),
        )
        dynaconv.convert(self.body, KernelWarehouseConfig(budget=2), where=("2", "3", "5", "6"))
        self.head = nn.Linear(32, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(image).mean((2, 3)))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return deployable(animate(Network()).double())


@pytest.fixture(scope="module")
def reloaded(network):
    program = trace(network, (torch.randn(2, 3, 32, 32, dtype=torch.float64),), ANY)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


@pytest.mark.parametrize("batch", [1, 2, 5, 16])
@pytest.mark.parametrize("size", [(32, 32), (32, 47), (17, 16)])
def test_any_batch_and_size(network, reloaded, batch, size):
    x = torch.randn(batch, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(reloaded.module()(x), network(x))


def test_ranges_and_names(reloaded):
    signature = reloaded.graph_signature
    assert (signature.user_inputs, signature.user_outputs) == (("image",), ("output",))
    batch = next(n for n in reloaded.graph.nodes if n.name == "image").meta["val"].shape[0]
    assert reloaded.range_constraints[batch.node.expr].lower == 1


class Split(nn.Module):
    """Layers on a part of a map's channels each, as in YOLO's blocks: they lie apart in memory, but for one sample."""

    def __init__(self) -> None:
        super().__init__()
        layers = (dynaconv.KWConv2d, dynaconv.ODConv2d, dynaconv.DYConv2d, dynaconv.CondConv2d, dynaconv.DCDConv2d)
        self.layers = nn.ModuleList(layer(8, 8, 3, padding=1) for layer in layers)
        self.layers.append(dynaconv.KWConv2d(8, 8, 3, padding=1, groups=8))

    def forward(self, image: Tensor) -> Tensor:
        parts = image.relu().chunk(len(self.layers), dim=1)
        return torch.cat([layer(part) for layer, part in zip(self.layers, parts, strict=True)], dim=1)


def test_any_batch_where_layers_take_parts_of_the_channels():
    torch.manual_seed(0)
    network = deployable(animate(Split()).double())
    program = trace(network, (torch.randn(2, 48, 6, 5, dtype=torch.float64),), ExportSettings(dynamic_batch=True))
    for batch in (1, 3):
        x = torch.randn(batch, 48, 6, 5, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(x), network(x))


class Many(nn.Module):
    def forward(self, image: Tensor, other: Tensor):
        return {"logits": image + 1, "maps": [image * 2, other * 2]}


def test_names_of_many_outputs():
    x = torch.randn(2, 3, 4, 4)
    signature = trace(Many(), (x, x), ANY).graph_signature
    assert signature.user_inputs == ("image", "other")
    assert signature.user_outputs == ("logits", "maps_0", "maps_1")


def test_groups_that_depend_on_the_batch_are_refused():
    layer, x = deployable(dynaconv.KWConv2d(8, 8, 3)), torch.randn(2, 8, 6, 6)
    with dynaconv.use_backend("textbook"):
        with pytest.raises(DynaconvError, match="groups that depend on its input"):
            trace(layer, (x,), ANY)
        check_groups(trace(layer, (x,), ExportSettings()))  # a number, where the batch is fixed


class OneIsSpecial(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(0) if x.shape[0] == 1 else x


class OneSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x.new_ones(8, 8)


class Values(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (OneIsSpecial(), "can not follow OneIsSpecial: .*shape|size.* != 1"),
        (OneSize(), "fixes the size of its input, to 8 x 8; export it without dynamic_size"),
        (Values(), "can not follow Values: .*data-dependent"),
        (nn.Conv2d(1, 2, 3), r"Conv2d itself fails on inputs of shape \(2, 3, 8, 8\): .*; give input_size="),
    ],
    ids=["batch", "size", "values", "inputs"],
)
def test_what_can_not_be_followed_is_told_in_a_line(network, words):
    with pytest.raises(DynaconvError, match=words) as error:
        trace(network, (torch.randn(2, 3, 8, 8),), ANY)
    assert "\n" not in str(error.value)
