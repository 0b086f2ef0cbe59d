"""Conversion by every method: what is chosen by default, what is refused and why, what stays."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torchvision.models.regnet import BlockParams, RegNet

import dynaconv
from dynaconv.convert import config_from_dict, config_types, find_candidates
from dynaconv.errors import DynaconvError, NothingSelectedError

METHODS = sorted(config_types())


def resnet():
    return timm.create_model("resnet18", num_classes=4, channels=[32, 32, 64, 64], stem_width=32)


def mobilenet():
    return timm.create_model("mobilenetv2_050", num_classes=4)


def regnet():
    blocks = BlockParams.from_init_params(depth=6, w_0=32, w_a=16.0, w_m=2.0, group_width=16, se_ratio=0.25)
    return RegNet(blocks, num_classes=4)


IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def step(model):
    """One training step; names of parameters without a gradient."""
    model.train()
    model(IMAGES).square().mean().backward()
    return [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.slow
@pytest.mark.parametrize("make", [resnet, mobilenet, regnet])
@pytest.mark.parametrize("method", METHODS)
def test_one_line(method, make):
    model = make()
    config = config_from_dict({"method": method})
    plan = dynaconv.plan(model, config)
    assert dynaconv.convert(model, config) is model
    assert sum(p.numel() for p in model.parameters()) == plan.parameters_after
    assert f"{plan.parameters_after:,}" in str(plan)
    assert step(model) == []
    twin = dynaconv.convert(make(), config)
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        # In training mode: DCD is quadratic, and deep networks overflow on running statistics of one step.
        torch.testing.assert_close(twin.train()(IMAGES), model(IMAGES))


@pytest.mark.parametrize("method", METHODS)
def test_config_survives_a_file(method):
    config = config_from_dict({"method": method})
    assert config_from_dict(config.to_dict()) == config
    assert hash(config) == hash(config_from_dict(config.to_dict()))
    with pytest.raises(DynaconvError, match=f"unknown fields .*{type(config).__name__}"):
        config_from_dict({"method": method, "no_such_field": 1})


def test_unknown_method():
    with pytest.raises(DynaconvError, match=r"method='odcon' is not known; expected one of \['cbam'"):
        config_from_dict({"method": "odcon"})


def test_dcd_leaves_depthwise_layers_and_says_so():
    plan = dynaconv.plan(mobilenet(), dynaconv.DCDConfig(), where="*")
    reasons = dict(plan.refused)
    assert "depth-wise" in reasons["blocks.1.0.conv_dw"]
    assert "depth-wise" in str(plan)
    names = {layer.name for layer in plan.layers}
    assert {"conv_stem", "classifier", "blocks.1.0.conv_pw"} <= names
    assert dynaconv.convert(mobilenet(), plan).blocks[1][0].conv_dw.groups > 1


def test_cgc_takes_spatial_kernels_alone():
    plan = dynaconv.plan(timm.create_model("resnet50"), dynaconv.CGCConfig())
    assert all(layer.spec.is_spatial for layer in plan.layers)
    with pytest.raises(NothingSelectedError, match=r"cgc converts none of the 1 .*'layer1\.0\.conv1': CGC"):
        dynaconv.plan(timm.create_model("resnet50"), dynaconv.CGCConfig(), where="layer1.0.conv1")


def test_methods_without_linear_layers_say_so():
    with pytest.raises(NothingSelectedError, match="the method odconv has no linear layer"):
        dynaconv.plan(resnet(), dynaconv.ODConvConfig(), where="fc")


def test_bias_of_experts_starts_from_the_static_one():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3))
    bias = net[1].bias.detach().clone()
    dynaconv.convert(net, dynaconv.DYConvConfig(num_kernels=3))
    assert torch.equal(net[1].bias, bias.expand(3, -1))
    net = dynaconv.convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)), dynaconv.ODConvConfig())
    assert net[1].bias.shape == (6,)


def test_one_network_may_mix_methods_and_each_keeps_its_schedule():
    model = dynaconv.convert(resnet(), dynaconv.ODConvConfig(), "layer4")
    dynaconv.convert(model, dynaconv.KernelWarehouseConfig(), "layer3")
    dynaconv.convert(model, dynaconv.SEConfig(), ["layer1.*.conv2"])
    assert dynaconv.schedule_temperature(model, 0.5) == pytest.approx(0.5)
    assert model.layer4[0].conv1.get_temperature() == pytest.approx(15.5)
    assert model.layer3[0].conv1.get_temperature() == pytest.approx(0.5)
    assert step(model) == []


def test_schedule_temperature_of_a_static_network():
    assert dynaconv.schedule_temperature(resnet(), 0.5) is None


def test_tensorflow_padding_converts():
    net = timm.create_model("tf_efficientnet_b0", num_classes=4)
    same = [name for name, m in net.named_modules() if type(m).__name__ == "Conv2dSame"]
    assert same
    assert not set(same) & set(find_candidates(net).refused)
    sizes = {}
    hooks = [
        net.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: sizes.update({name: o.shape}))
        for name in same
    ]
    with torch.no_grad():
        net.eval()(torch.randn(1, 3, 61, 50))
        before = dict(sizes)
        dynaconv.convert(net, dynaconv.ODConvConfig())(torch.randn(1, 3, 61, 50))
    assert sizes == before
    assert len(hooks) == len(same)
    assert type(net.blocks[1][0].conv_dw) is dynaconv.ODConv2d


def test_configs_take_lists_and_no_texts_for_flags():
    assert dynaconv.ODConvConfig(attentions=["channel", "kernel"]).attentions == ("channel", "kernel")
    assert hash(dynaconv.FDConvConfig(bands=[2, 4])) == hash(dynaconv.FDConvConfig(bands=(2, 4)))
    for make, message in (
        (lambda: dynaconv.CondConvConfig(shared_branch="false"), "shared_branch='false'; expected True or False"),
        (lambda: dynaconv.SEConfig(bias="no"), "bias='no'"),
        (lambda: dynaconv.ODConvConfig(attentions="channel"), "expected several values"),
        (lambda: dynaconv.ODConvConfig(attentions=()), r"attentions=\(\); expected some of"),
        (lambda: dynaconv.DYConvConfig(initial_temperature=float("inf")), "initial_temperature=inf is out of range"),
        (lambda: dynaconv.ODConvConfig.from_dict({"method": "dyconv"}), "method='dyconv'; the method of ODConvConfig"),
        (lambda: dynaconv.ODConv2d(16, 0, 3), "out_channels=0"),
        (lambda: dynaconv.ECA(0), "channels=0"),
    ):
        with pytest.raises(DynaconvError, match=message):
            make()


@pytest.mark.parametrize("name", ["cond8x_resnet18", "dcd_resnet18", "se_resnet18"])
def test_presets_as_feature_extractors(name):
    model = dynaconv.create_model(name, features_only=True)
    with torch.no_grad():
        maps = model(torch.randn(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == [64, 64, 128, 256, 512]


def test_a_parent_that_reads_the_weight_is_told():
    """timm's BEiT hands the matrix of qkv to a function itself."""
    model = timm.create_model("beit_base_patch16_224", img_size=32, patch_size=16, depth=1, embed_dim=32, num_heads=2)
    dynaconv.convert(model, dynaconv.DCDConfig())
    with pytest.raises(AttributeError, match=r"DCDLinear has no static weight.*where='!blocks.0.attn.qkv'"):
        model(torch.randn(2, 3, 32, 32))


def test_set_temperature_is_all_or_nothing():
    model = dynaconv.convert(resnet(), dynaconv.DYConvConfig(), "layer3")
    dynaconv.convert(model, dynaconv.KernelWarehouseConfig(), "layer4")
    with pytest.raises(DynaconvError, match="schedule_temperature"):
        dynaconv.set_temperature(model, 30.0)
    assert model.layer3[0].conv1.get_temperature() == 1.0


@pytest.mark.parametrize("name", ["kw1x_resnet18", "dy4x_mobilenetv2_050"])
def test_half_precision_keeps_the_temperature(name):
    model = dynaconv.create_model(name, num_classes=4).bfloat16()
    value = dynaconv.schedule_temperature(model, 0.001)
    assert dynaconv.get_temperature(model) == pytest.approx(value, abs=1e-6)
    assert next(model.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("assign", [True, False])
def test_made_without_memory_then_loaded(method, assign):
    def small():
        return nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32))

    config, where = config_from_dict({"method": method}), "2"
    source = dynaconv.convert(small(), config, where).eval()
    with torch.device("meta"):
        empty = dynaconv.convert(small(), config, where)
    if not assign:
        empty = empty.to_empty(device="cpu")
    empty.load_state_dict(source.state_dict(), assign=assign)
    x = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(empty.eval()(x), source(x))
