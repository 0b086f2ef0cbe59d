"""Presets of the other methods: the exact counts and the multiply-adds of the papers, any head, any input."""

from __future__ import annotations

import pytest
import timm
import torch

import dynaconv
from dynaconv import DynaconvError
from dynaconv.convert import config_types, draft_plan
from dynaconv.models import get_preset
from dynaconv.models.backbone import make_backbone

# Counted by building the methods' public code, not this library.
EXACT = {
    "od1x_resnet18": 11_943_944,
    "od2x_resnet18": 22_930_056,
    "od4x_resnet18": 44_901_640,
    "od1x_resnet34": 22_290_168,
    "od1x_resnet50": 28_635_112,
    "od2x_resnet50": 49_314_696,
    "od4x_resnet50": 90_670_888,
    "od1x_resnet101": 50_818_769,
    "od2x_resnet101": 90_441_623,
    "od1x_mobilenetv2_100": 4_940_185,
    "od2x_mobilenetv2_100": 7_131_719,
    "od4x_mobilenetv2_100": 11_512_149,
    "od1x_mobilenetv2_075": 3_507_113,
    "od2x_mobilenetv2_075": 4_837_495,
    "od4x_mobilenetv2_075": 7_496_013,
    "od1x_mobilenetv2_050": 2_425_537,
    "od2x_mobilenetv2_050": 3_096_167,
    "od4x_mobilenetv2_050": 4_435_501,
    "dy4x_resnet18": 45_472_052,
    "dy4x_resnet50": 100_878_072,
    "cond8x_resnet18": 81_345_120,
    "cond8x_resnet50": 129_864_800,
    "cond8x_mobilenetv2_100": 22_877_496,
    "cond8x_mobilenetv2_075": 17_513_176,
    "cond8x_mobilenetv2_050": 13_612_920,
    "cond4x_efficientnet_b0": 13_314_116,
    "cond8x_efficientnet_b0": 24_013_284,
    "cond8x_efficientnet_b1": 39_715_968,
    "dcd_resnet18": 14_703_332,
    "dcd_resnet50": 29_835_056,
    "dcd_resnet101": 53_227_056,
    "dcd_mobilenetv2_100": 5_720_028,
    "dcd_mobilenetv2_075": 4_081_621,
    "dcd_mobilenetv2_050": 3_056_616,
    "se_resnet18": 11_776_552,
    "cbam_resnet18": 11_777_336,
    "eca_resnet18": 11_689_548,
    "cgc_resnet18": 11_721_791,
    "cgc_resnet50": 25_589_951,
    "weightnet_resnet18": 11_915_192,
}
# Printed in the papers, in millions.
PRINTED = {
    "dy4x_mobilenetv2_100": 12.40,
    "dy4x_mobilenetv2_075": 7.95,
    "dy4x_mobilenetv2_050": 4.57,
    "se_resnet50": 28.07,
    "se_resnet101": 49.29,
    "cbam_resnet50": 28.07,
    "cbam_resnet101": 49.30,
    "eca_resnet50": 25.56,
    "eca_resnet101": 44.55,
}
# Millions of multiply-adds for one image of 224 pixels, as the ODConv README prints them.
MADDS = {
    "od1x_mobilenetv2_100": 311.8,
    "od4x_mobilenetv2_100": 327.1,
    "od1x_mobilenetv2_075": 217.1,
    "od4x_mobilenetv2_075": 226.3,
    "od1x_mobilenetv2_050": 101.8,
    "od4x_mobilenetv2_050": 106.4,
    "od1x_resnet18": 1838,
    "od4x_resnet18": 1916,
    "od1x_resnet50": 3916,
    "od4x_resnet50": 4080,
    "od1x_resnet101": 7675,
    "od2x_resnet101": 7802,
}
STATIC_MADDS = {
    "mobilenetv2_100": 300.8,
    "mobilenetv2_075": 209.1,
    "mobilenetv2_050": 97.1,
    "resnet18": 1814,
    "resnet50": 3858,
    "resnet101": 7570,
}
FAMILY = [name for name in dynaconv.list_models() if not name.startswith("kw")]


def planned_parameters(name):
    preset = get_preset(name)
    with torch.device("meta"):
        backbone = make_backbone(preset.backbone, **preset.backbone_kwargs)
    return draft_plan(backbone, preset.config, list(preset.where) if preset.where else None).parameters_after


@pytest.mark.parametrize("name", FAMILY)
def test_parameters(name):
    assert planned_parameters(name) == get_preset(name).params == EXACT.get(name, get_preset(name).params)
    if name in PRINTED:
        assert round(get_preset(name).params / 1e6, 2) == PRINTED[name]


@pytest.mark.parametrize("name", ["od1x_resnet18", "dcd_mobilenetv2_050", "weightnet_resnet18", "cbam_mobilenetv2_050"])
def test_a_plan_counts_what_is_built(name):
    model = dynaconv.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == get_preset(name).params


def test_every_count_has_a_preset():
    assert {*EXACT, *PRINTED, *MADDS} <= set(FAMILY)
    methods = {get_preset(name).config.method for name in FAMILY}
    assert methods | {"kernel_warehouse"} == set(config_types())


@pytest.mark.parametrize("backbone", STATIC_MADDS)
def test_madds_of_the_static_networks(backbone):
    options = {"v1_stride": True} if backbone in ("resnet50", "resnet101") else {}
    found = dynaconv.profile(make_backbone(backbone, **options)).madds / 1e6
    assert found == pytest.approx(STATIC_MADDS[backbone], rel=5e-4)


@pytest.mark.parametrize("name", MADDS)
def test_madds_are_the_papers_within_one_percent(name):
    options = {"v1_stride": True} if "resnet50" in name or "resnet101" in name else {}
    with torch.device("meta"):
        model = dynaconv.create_model(name, **options)
    profile = dynaconv.profile(model)
    assert profile.madds / 1e6 == pytest.approx(MADDS[name], rel=0.01)
    assert profile.parameters == get_preset(name).params


def test_v1_stride_moves_the_stride_and_nothing_else():
    new, old = dynaconv.create_model("resnet50"), dynaconv.create_model("resnet50", v1_stride=True)
    assert {k: v.shape for k, v in new.state_dict().items()} == {k: v.shape for k, v in old.state_dict().items()}
    assert (old.layer2[0].conv1.stride, old.layer2[0].conv2.stride) == ((2, 2), (1, 1))
    with pytest.raises(DynaconvError, match="'resnet18' has no ResNet bottlenecks"):
        dynaconv.create_model("resnet18", v1_stride=True)


SMALL = [name for name in FAMILY if get_preset(name).params < 16e6]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_any_head_and_any_input(name):
    model = dynaconv.create_model(name, num_classes=7, in_chans=1).eval()
    with torch.no_grad():
        y = model(torch.randn(2, 1, 64, 64))
    assert y.shape == (2, 7)
    assert y.isfinite().all()


@pytest.mark.parametrize(
    "name", ["cond8x_mobilenetv2_050", "dcd_resnet18", "od1x_mobilenetv2_050", "weightnet_mobilenetv2_050"]
)
def test_without_classifier(name):
    model = dynaconv.create_model(name, num_classes=0).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 64)).dim() == 2
    assert list(dynaconv.dynamic_layers(model))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("tf_efficientnet_cc_b0_4e", "cond4x_efficientnet_b0"),
        ("tf_efficientnet_cc_b0_8e", "cond8x_efficientnet_b0"),
        ("tf_efficientnet_cc_b1_8e", "cond8x_efficientnet_b1"),
    ],
)
def test_timms_condconv_networks_load_and_agree(theirs, ours):
    reference = timm.create_model(theirs).double().eval()
    model = dynaconv.create_model(ours).double().eval()
    dynaconv.load_reference_checkpoint(model, reference.state_dict())
    x = torch.randn(2, 3, 75, 68, dtype=torch.float64)  # odd sizes, which TensorFlow's padding treats apart
    with torch.no_grad():
        torch.testing.assert_close(model(x), reference(x))
