"""Levels and what they need, on networks of several families and on odd ones."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

import dynaconv
from dynaconv.detection.models.backbone import PyramidBackbone
from dynaconv.detection.models.levels import find_levels
from dynaconv.errors import DynaconvError, LostWarehouseError
from tests.detection.models.tiny import tiny_detector

CHANNELS = {
    "resnet50": (256, 512, 1024, 2048),
    "mobilenetv2_100": (24, 32, 96, 1280),
    "mobilenetv3_small_050": (8, 16, 24, 288),
    "convnext_tiny": (96, 192, 384, 768),
    "regnety_002": (24, 56, 152, 368),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_networks_of_timm(name):
    with torch.device("meta"):
        network = dynaconv.create_model(name)
    levels = find_levels(network)
    assert levels.channels == CHANNELS[name]
    assert levels.strides == (4, 8, 16, 32)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert network.training
    inside = [name for name, _ in network.named_parameters() if name not in levels.needs[-1]]
    head = {"convnext_tiny": 4, "mobilenetv3_small_050": 4}.get(name, 2)
    assert len(inside) == head  # the classifier, and what stands before it behind the pooling
    assert levels.needs[0] < levels.needs[1] < levels.needs[2] < levels.needs[3]


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", (64, 128, 256, 512)),
        ("mobilenet_v2", (24, 32, 96, 1280)),
        ("convnext_tiny", (96, 192, 384, 768)),
        ("shufflenet_v2_x0_5", (24, 48, 96, 1024)),
    ],
)
def test_networks_of_torchvision(name, channels):
    with torch.device("meta"):
        network = getattr(torchvision.models, name)(weights=None)
    assert find_levels(network).channels == channels


class Odd(nn.Module):
    """Steps down by functions, so that no module begins a stage."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, 4)
        self.parts = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        for part in self.parts:
            x = nn.functional.max_pool2d(part(x), 2)
        return self.out(x.mean((2, 3)))


def test_named_features():
    names = ["parts.0", "parts.1", "parts.2", "parts.3"]
    with pytest.raises(DynaconvError, match=r"Odd has no stage that ends at stride 4.*features="):
        find_levels(Odd())
    detector = tiny_detector(Odd(), features=names)
    assert detector.backbone.level_names == tuple(names)
    assert isinstance(detector.backbone.body.out, nn.Identity)
    shapes = [tuple(map.shape) for map in detector.backbone(torch.rand(1, 3, 64, 96)).values()]
    assert shapes == [(1, 16, 16, 24), (1, 16, 8, 12), (1, 16, 4, 6), (1, 16, 2, 3), (1, 16, 1, 2)]
    with pytest.raises(DynaconvError, match=r"Odd has no \['part'\]; expected names of its modules, such as \['stem'"):
        find_levels(Odd(), ["part"])
    with pytest.raises(DynaconvError, match=r"\['out'\] give no feature maps in Odd"):
        find_levels(Odd(), ["stem", "out"])
    with pytest.raises(DynaconvError, match=r"these have the strides \[8, 4\] in Odd; expected .* twice the stride"):
        find_levels(Odd(), ["parts.1", "parts.0"])


def test_a_warehouse_of_the_classifier_goes_with_it():
    with torch.device("meta"):
        network = dynaconv.create_model("kw1d2x_mobilenetv2_050")
    assert "stage5_linear_reduce" in network.warehouses
    before = set(network.warehouses)
    body = PyramidBackbone(network, find_levels(network), 8).body
    assert before - set(body.warehouses) == {"stage5_linear_reduce"}


def test_a_warehouse_that_the_classifier_shares_stays():
    config = dynaconv.KernelWarehouseConfig(sharing="model", cell_scale=0.5)
    where = ["*.mlp.*", "head.fc"]
    network = dynaconv.create_model("test_convnext", config=config, where=where, num_classes=256)
    shared = network.head.fc.plan.warehouse
    assert sum(layer.plan.warehouse == shared for layer in dynaconv.dynamic_layers(network)) > 1
    body = PyramidBackbone(network, find_levels(network), 8).body
    assert isinstance(body.head, nn.Identity)
    assert shared in body.warehouses
    assert all(parameter.requires_grad for parameter in body.parameters())


def test_parts_of_a_converted_network_are_refused():
    network = dynaconv.create_model("test_resnet", config=dynaconv.KernelWarehouseConfig(cell_scale=0.5))
    names = ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3", "layer4")
    parts = nn.Sequential(*(getattr(network, name) for name in names))
    with pytest.raises(LostWarehouseError):
        tiny_detector(parts)
