"""Public key names of ODConv, DY-Conv, CondConv and DCD: loaded by name, refused clearly where they do not fit."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import dynaconv
from dynaconv.checkpoints import translate_reference_keys
from dynaconv.errors import CheckpointError
from tests.golden import read_model, weights_from_names


def test_odconv_network_and_its_temperature():
    state = weights_from_names(read_model("od_mobilenetv2_100_1x")["keys"])
    model = dynaconv.create_model("od1x_mobilenetv2_100")
    dynaconv.set_temperature(model, 17.0)
    dynaconv.load_reference_checkpoint(model, {f"module.{k}": v for k, v in state.items()})
    expected = state["features.3.conv.2.attention.channel_fc.weight"].float().flatten(1)
    assert torch.equal(model.blocks[1][1].conv_pwl.attention.heads["channel"].weight, expected)
    assert dynaconv.get_temperature(model) == 1.0


def kaijieshi_keys(model):
    """State dict of that repository's ResNet, from ours: 1x1 convolutions as branch, no temperature."""
    renamed = {}
    for key, value in model.state_dict().items():
        if "temperature" not in key:
            branch = ".attention.fc" in key and key.endswith("weight")
            name = key.removesuffix("kernel") + "weight" if key.endswith(".kernel") else key
            renamed[name] = value[..., None, None] if branch else value
    return renamed


def test_dyconv_of_kaijieshi7():
    config = dynaconv.DYConvConfig(branch="kaijieshi7")
    source = dynaconv.create_model("resnet18", config=config, num_classes=5)
    state = kaijieshi_keys(source)
    assert state["layer2.0.conv1.attention.fc1.weight"].shape == (17, 64, 1, 1)
    assert "layer2.0.conv1.attention.fc1.bias" not in state
    model = dynaconv.create_model("resnet18", config=config, num_classes=5)
    dynaconv.load_reference_checkpoint(model, state)
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in model.state_dict().items())
    paper = dynaconv.create_model("dy4x_resnet18", num_classes=5)
    with pytest.raises(CheckpointError, match=r"layers of DY-Conv with another config \(57\)"):
        dynaconv.load_reference_checkpoint(paper, state)


def test_timms_flat_experts():
    reference = timm.create_model("efficientnet_cc_b0_4e")
    config = dynaconv.CondConvConfig(num_experts=4)
    where = [f"blocks.[456].*.{kind}" for kind in ("conv_pw", "conv_dw", "conv_pwl")]
    model = dynaconv.create_model("efficientnet_b0", config=config, where=where)
    dynaconv.load_reference_checkpoint(model, reference.state_dict())
    flat = reference.blocks[5][0].conv_dw.weight
    assert flat.dim() == 2
    assert torch.equal(model.blocks[5][0].conv_dw.kernel.flatten(1), flat)
    assert torch.equal(model.blocks[5][0].conv_pw.attention.weight, reference.blocks[5][0].routing_fn.weight)


def dcd_keys(model):
    rules = {
        "kernel": "conv.weight",
        "residual.reduce.weight": "q.weight",
        "residual.expand.weight": "p.weight",
        "attention.squeeze.weight": "fc.0.weight",
        "attention.gate.weight": "fc.1.fc.0.weight",
        "attention.phi.weight": "fc_phi.weight",
        "attention.scale.weight": "fc_scale.weight",
    }
    layers = [name for name, m in model.named_modules() if isinstance(m, dynaconv.DCDConv2d | dynaconv.DCDLinear)]
    renamed = {}
    for key, value in model.state_dict().items():
        home = next((name for name in layers if key.startswith(f"{name}.")), None)
        if home is not None:
            rest = key.removeprefix(f"{home}.")
            rest = rules.get(rest, rest.replace("residual.norm", "bn"))
            if home == "fc":
                home = "classifier.0"
                rest = rest.replace("conv.weight", "cls.weight").replace("q.w", "cls_q.w").replace("p.w", "cls_p.w")
                rest = "cls.bias" if rest == "bias" else rest
            key = f"{home}.{rest}"
        renamed[key] = value
    return renamed


def test_dcd_network():
    source = dynaconv.create_model("dcd_resnet18", num_classes=5)
    state = dcd_keys(source)
    assert {"layer1.0.conv1.conv.weight", "layer1.0.conv1.bn2.bias", "classifier.0.cls.bias"} < set(state)
    model = dynaconv.create_model("dcd_resnet18", num_classes=5)
    dynaconv.load_reference_checkpoint(model, state)
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in model.state_dict().items())


def test_keys_that_mean_the_same_twice():
    layer = dynaconv.ODConv2d(8, 8, 3)
    names = ("attention.bn.weight", "attention.norm.weight")
    with pytest.raises(CheckpointError, match=r"both mean 'attention\.norm\.weight'"):
        translate_reference_keys(layer, dict.fromkeys(names, torch.ones(16)))


def test_wrong_shape_and_static_network():
    layer = dynaconv.CondConv2d(8, 12, 3, num_experts=4, bias=False)
    state = {
        "conv.weight": torch.zeros(4, 12 * 8 * 9),
        "routing.weight": torch.zeros(4, 8),
        "routing.bias": torch.zeros(4),
    }
    dynaconv.load_reference_checkpoint(layer, state)
    with pytest.raises(CheckpointError, match=r"kernel \(8, 432\), here \(4, 12, 8, 3, 3\)"):
        dynaconv.load_reference_checkpoint(layer, state | {"conv.weight": torch.zeros(8, 432)})
    with pytest.raises(CheckpointError, match="has no dynamic layers"):
        dynaconv.load_reference_checkpoint(nn.Conv2d(3, 3, 3), state)
