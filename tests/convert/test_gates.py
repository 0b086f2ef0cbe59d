"""SE, CBAM and ECA in real networks: one behind every block's residual branch, and nothing else is touched."""

from __future__ import annotations

import copy
import re

import pytest
import timm
import torch
import torchvision
from torch import nn

import dynaconv
from dynaconv import CBAMConfig, ECAConfig, SEConfig
from dynaconv.errors import NothingSelectedError, PlanError
from dynaconv.nn import Gate, Gated
from tests import oracles_methods
from tests.nn.cases import animate

CONFIGS = [SEConfig(), CBAMConfig(), ECAConfig()]
# network -> number of blocks, and the last norms of two: one that keeps its size, one that does not
NETWORKS = {
    "timm resnet18": (8, ["layer1.1.bn2", "layer2.0.bn2"]),
    "timm resnet50": (16, ["layer1.1.bn3", "layer1.0.bn3"]),
    "timm mobilenetv2_050": (17, ["blocks.1.1.bn3", "blocks.0.0.bn2"]),
    "torchvision resnet18": (8, ["layer1.1.bn2", "layer2.0.bn2"]),
}
every_gate = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.method)


def make(name):
    library, architecture = name.split()
    create = timm.create_model if library == "timm" else torchvision.models.get_model
    model = create(architecture, num_classes=10).eval()
    for norm in model.modules():  # timm starts a block's last norm at zero, and behind zeros no gate is seen
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)
    return model


def gates(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, Gate)}


@every_gate
@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_gate_behind_every_block(name, config):
    """After the last norm of the residual branch, before the addition, and none on the shortcut: by numbers."""
    blocks, norms = NETWORKS[name]
    model = make(name).double()
    before = copy.deepcopy(model)
    dynaconv.convert(model, config, init="scratch")
    assert len(gates(model)) == blocks
    assert not [place for place in gates(model) if "downsample" in place]
    for norm in norms:
        gate = animate(model.get_submodule(f"{norm}.gate"))
        block = norm.rpartition(".")[0]
        old, new = before.get_submodule(block), model.get_submodule(block)
        first = next(module for module in old.modules() if isinstance(module, nn.Conv2d))
        x = torch.randn(2, first.in_channels, 4, 3, dtype=torch.float64)
        last = before.get_submodule(norm)
        handle = last.register_forward_hook(lambda module, inputs, y, gate=gate: oracles_methods.output(gate, y))
        torch.testing.assert_close(new(x), old(x), rtol=1e-9, atol=1e-9)
        handle.remove()
        assert not torch.allclose(new(x), old(x))


@every_gate
@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_old_entry_is_still_there(name, config):
    model = make(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    old = sum(p.numel() for p in model.parameters())
    plan = dynaconv.plan(model, config)
    dynaconv.convert(model, plan, init="scratch")
    after = model.state_dict()
    found = {re.sub(r"\.body(?=\.)", "", key): value for key, value in after.items() if ".gate." not in key}
    assert found.keys() == before.keys()
    assert all(torch.equal(found[key], before[key]) for key in before)
    places = [place.removesuffix(".gate") for place in gates(model)]
    assert all(isinstance(model.get_submodule(place), Gated) for place in places)
    wrapped = {key for key in after if ".body." in key}
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert wrapped == {f"{place}.body.{part}" for place in places for part in parts}
    added = sum(p.numel() for gate in gates(model).values() for p in gate.parameters())
    assert sum(p.numel() for p in model.parameters()) == old + added == plan.parameters_after


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("resnet18", SEConfig(), 11_776_552),
        ("resnet18", SEConfig(bias=True), 11_778_592),
        ("resnet18", CBAMConfig(), 11_777_336),
        ("resnet18", ECAConfig(), 11_689_548),
        ("resnet50", SEConfig(), 28_071_976),  # 28.07M in the paper's table, as are CBAM's
        ("resnet50", CBAMConfig(), 28_073_544),
        ("resnet50", ECAConfig(), 25_557_118),
    ],
    ids=str,
)
def test_parameters_of_the_papers(name, config, expected):
    model = timm.create_model(name)
    plan = dynaconv.plan(model, config)
    assert (
        sum(p.numel() for p in dynaconv.convert(model, plan, init="scratch").parameters())
        == expected
        == plan.parameters_after
    )


@every_gate
def test_training(config):
    model = dynaconv.convert(make("timm resnet18"), config, init="scratch").train()
    assert all(gate.training for gate in gates(model).values())
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    for name, gate in gates(model).items():
        assert all(p.grad.isfinite().all() and p.grad.any() for p in gate.parameters()), name


@every_gate
@pytest.mark.parametrize(
    ("where", "places"),
    [
        ("layer4.*.conv2", ["layer4.0.bn2", "layer4.1.bn2"]),
        ("layer4", ["layer4.0.bn2", "layer4.1.bn2"]),
        ("layer4.*.conv1", ["layer4.0.bn1", "layer4.1.bn1"]),
        (["layer1.0.conv2", "layer3.1.conv2"], ["layer1.0.bn2", "layer3.1.bn2"]),
        (["!layer1.*", "!layer2.*", "!layer3.*"], ["layer4.0.bn2", "layer4.1.bn2"]),
        (lambda name, module: name == "layer2.1.conv2", ["layer2.1.bn2"]),
    ],
    ids=["pattern", "stage", "no end of a block", "names", "all but", "function"],
)
def test_where_picks_blocks(config, where, places):
    model = dynaconv.convert(make("timm resnet18"), config, where=where)
    assert [name.removesuffix(".gate") for name in gates(model)] == places
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_a_convolution_without_a_norm_behind_it_is_gated_itself():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    dynaconv.convert(model, SEConfig(), where="2")
    assert isinstance(model[2], Gated)
    assert isinstance(model[2].body, nn.Conv2d)
    alone = dynaconv.convert(nn.Conv1d(3, 16, 3), ECAConfig())
    assert isinstance(alone, Gated)
    assert alone(torch.randn(2, 3, 9)).shape == (2, 16, 7)


@every_gate
def test_linear_layers_get_none(config):
    with pytest.raises(NothingSelectedError, match="a gate stands behind a convolution"):
        dynaconv.convert(make("timm resnet18"), config, where="fc")


def test_copies_keep_their_gates():
    model = dynaconv.convert(make("timm resnet18"), CBAMConfig())
    twin, x = copy.deepcopy(model), torch.randn(1, 3, 32, 32)
    assert torch.equal(twin(x), model(x))
    fresh = dynaconv.convert(make("timm resnet18"), CBAMConfig())
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh(x), model(x))


def test_a_block_is_gated_once():
    model = dynaconv.convert(make("timm resnet18"), SEConfig())
    with pytest.raises(PlanError, match=r"'layer1\.0\.conv2' has a SE gate behind it already"):
        dynaconv.convert(model, SEConfig())


def test_names_given_in_full_are_kept_beside_stages():
    plan = dynaconv.plan(make("timm resnet18"), SEConfig(), where=["layer4.0.conv1", "layer3"])
    assert [layer.name for layer in plan.layers] == ["layer3.0.conv2", "layer3.1.conv2", "layer4.0.conv1"]


def test_blocks_that_end_in_a_dynamic_layer_are_left_out():
    model = dynaconv.convert(make("timm resnet18"), dynaconv.ODConvConfig(), where="layer4.*.conv2")
    plan = dynaconv.plan(model, SEConfig())
    assert {layer.name.partition(".")[0] for layer in plan.layers} == {"layer1", "layer2", "layer3"}


def test_a_gate_stands_behind_frozen_normalisation_too():
    norm = torchvision.ops.FrozenBatchNorm2d
    model = dynaconv.convert(torchvision.models.resnet18(num_classes=4, norm_layer=norm), SEConfig())
    assert isinstance(model.layer1[0].bn2.body, norm)


class PlainBlock(torch.nn.Module):
    """A residual block whose shortcut has a name of its own, registered last."""

    def __init__(self, channels, out, stride):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(channels, out, 3, stride, 1)
        self.n1 = torch.nn.BatchNorm2d(out)
        self.conv2 = torch.nn.Conv2d(out, out, 3, 1, 1)
        self.n2 = torch.nn.BatchNorm2d(out)
        self.short = torch.nn.Sequential(torch.nn.Conv2d(channels, out, 1, stride), torch.nn.BatchNorm2d(out))

    def forward(self, x):
        return self.n2(self.conv2(self.n1(self.conv1(x)))) + self.short(x)


@pytest.mark.parametrize(("channels", "out", "stride"), [(16, 32, 2), (16, 32, 1), (32, 32, 2)])
def test_a_shortcut_of_any_name_is_left_alone(channels, out, stride):
    def ends(where=None):
        blocks = torch.nn.Sequential(PlainBlock(channels, out, stride), PlainBlock(out, out, 1))
        net = torch.nn.Sequential(torch.nn.Conv2d(3, channels, 3), blocks)
        return [layer.name for layer in dynaconv.plan(net, SEConfig(), where).layers]

    assert ends()[0] == "1.0.conv2"
    assert ends("*.conv2") == ["1.0.conv2", "1.1.conv2"]
    assert ends("1.0") == ["1.0.conv2"]
