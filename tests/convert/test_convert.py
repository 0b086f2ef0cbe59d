"""Conversion of real networks: one line, a training step, no tie lost, and clear refusals."""

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

import dynaconv
from dynaconv import DynaconvError, KernelWarehouseConfig
from dynaconv.convert import find_candidates, register_method, select_layers
from dynaconv.convert.kernel_warehouse import KernelWarehouseMethod
from dynaconv.errors import LostWarehouseError, NothingSelectedError, PlanError, PlanWarning
from dynaconv.nn import Warehouses
from dynaconv.nn.kernel_warehouse import WarehouseLayer

TIMM = [
    "resnet18",
    "resnet50",
    "mobilenetv2_100",
    "convnext_tiny",
    "efficientnet_b0",
    "regnety_004",
    "deit_tiny_patch16_224",
]
TORCHVISION = ["densenet121", "vgg11_bn"]


def make(name):
    if name in TORCHVISION:
        model = torchvision.models.get_model(name, num_classes=10)
        if name == "vgg11_bn":  # nine tenths of its parameters, none of which is converted
            model.classifier = nn.Sequential(nn.Linear(512 * 7 * 7, 16), nn.ReLU(), nn.Linear(16, 10))
        return model
    return timm.create_model(name, num_classes=10)


@pytest.fixture(scope="module", params=TIMM + TORCHVISION)
def converted(request):
    """Name, plan, network and the names of its static layers, after one line of conversion."""
    torch.manual_seed(0)
    model = make(request.param)
    total = sum(p.numel() for p in model.parameters())
    plan = dynaconv.plan(model, KernelWarehouseConfig())
    assert plan.parameters_before == total
    assert sum(p.numel() for p in model.parameters()) == total  # planning changes nothing
    return request.param, plan, dynaconv.convert(model, KernelWarehouseConfig())


def test_parameters_are_as_planned(converted):
    _, plan, model = converted
    assert sum(p.numel() for p in model.parameters()) == plan.parameters_after
    for layer in dynaconv.dynamic_layers(model):
        assert sum(p.numel() for p in layer.attention.parameters()) == layer.plan.branch_parameters


def test_every_planned_layer_is_there_and_linked(converted):
    _, plan, model = converted
    modules = dict(model.named_modules())
    for layer in plan.layers:
        assert isinstance(modules[layer.name], WarehouseLayer)
        assert modules[layer.name].cells is model.warehouses[layer.warehouse].cells
    assert len(list(dynaconv.dynamic_layers(model))) == len(plan.layers)


@pytest.mark.slow
def test_a_step_trains_every_parameter(converted):
    name, _, model = converted
    size = 224 if "deit" in name else 64
    model.train()
    for module in model.modules():  # timm starts the last norm of a residual branch at zero, which stops its gradients
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    before = {k: v.detach().clone() for k, v in model.named_parameters() if v.numel() < 1_000_000}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = nn.functional.cross_entropy(model(torch.randn(2, 3, size, size)), torch.tensor([1, 2]))
    loss.backward()
    assert loss.isfinite()
    without = [k for k, p in model.named_parameters() if p.grad is None]
    assert not without
    optimizer.step()
    assert sum(not torch.equal(v, before[k]) for k, v in model.named_parameters() if k in before) > len(before) // 2


@pytest.mark.slow
def test_one_image_in_training_mode_reaches_every_layer(converted):
    """The probe that detectors make: only a backbone's own BatchNorm may object, and only on 1x1 maps."""
    name, _, model = converted
    size = 224 if "deit" in name else 96
    with torch.no_grad():
        assert model.train()(torch.randn(1, 3, size, size)).shape == (1, 10)


def test_state_dict_round_trip(converted):
    _, _, model = converted
    state = model.state_dict()
    assert len({v.data_ptr() for v in state.values() if v.numel()}) == len([v for v in state.values() if v.numel()])
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    twin.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True))


def small():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 16, 3, bias=True))


class Twice(nn.Module):
    """One layer under two names, and two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.again = self.first
        self.left = nn.Conv2d(8, 8, 1)
        self.right = nn.Conv2d(8, 8, 1)
        self.right.weight = self.left.weight

    def forward(self, x):
        return self.right(self.left(self.again(self.first(self.stem(x)))))


def test_a_layer_used_twice_stays_one_and_tied_weights_stay_tied():
    model = dynaconv.convert(Twice(), KernelWarehouseConfig())
    assert model.first is model.again
    assert isinstance(model.first, dynaconv.KWConv2d)
    assert model.left.weight is model.right.weight
    with pytest.raises(NothingSelectedError, match="tied to another layer's"):
        dynaconv.plan(Twice(), KernelWarehouseConfig(), where="left")


def test_biases_device_dtype_and_mode_stay():
    model = small().double().eval()
    bias = model[2].bias.detach().clone()
    converted = dynaconv.convert(model, KernelWarehouseConfig())
    assert torch.equal(converted[2].bias, bias)
    assert converted[2].cells.dtype == torch.float64
    assert not converted[2].training
    assert not converted[2].attention.training


def test_selection():
    model = timm.create_model("efficientnet_b0")
    default = {layer.name for layer in dynaconv.plan(model, KernelWarehouseConfig()).layers}
    assert "conv_stem" not in default
    assert "classifier" not in default
    assert not any(".se." in name for name in default)
    plan = dynaconv.plan(model, KernelWarehouseConfig(), where=["blocks.1.*", "!*.conv_dw"])
    names = [layer.name for layer in plan.layers]
    assert {n.rpartition(".")[2] for n in names} == {"conv_pw", "conv_pwl", "conv_reduce", "conv_expand"}
    fewer = dynaconv.plan(model, KernelWarehouseConfig(), where="!blocks.0.*")
    assert len(fewer.layers) == len(default) - 2
    chosen = dynaconv.plan(model, KernelWarehouseConfig(), where=lambda n, m: n.endswith("conv_pwl"))
    assert all(layer.name.endswith("conv_pwl") for layer in chosen.layers)


def test_the_selection_does_not_move_the_stages():
    model = timm.create_model("mobilenetv2_100")
    full = {layer.name: layer.warehouse for layer in dynaconv.plan(model, KernelWarehouseConfig()).layers}
    part = dynaconv.plan(model, KernelWarehouseConfig(), where="*conv_dw")
    assert all(full[layer.name] == layer.warehouse for layer in part.layers)


def test_nothing_selected_lists_what_could_have_been():
    with pytest.raises(
        NothingSelectedError, match=r"pattern 'body\.\*' matches no layer\s.*could be selected \(3\): 0, 1, 2"
    ):
        dynaconv.plan(small(), KernelWarehouseConfig(), where="body.*")
    with pytest.raises(PlanError, match="expected a name, a pattern, several, or a function"):
        dynaconv.plan(small(), KernelWarehouseConfig(), where=nn.Conv2d)
    with pytest.raises(NothingSelectedError, match="selects no layer of ReLU"):
        dynaconv.plan(nn.ReLU(), KernelWarehouseConfig())


class PaddedConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))


class NamedConv(nn.Conv2d):
    """Fixes arguments, as torchvision's Conv3DSimple does."""

    def __init__(self, channels):
        super().__init__(channels, channels, 3)


def test_subclasses_of_their_own_behaviour_are_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), PaddedConv(8, 8, 3), NamedConv(8))
    candidates = find_candidates(model)
    assert [s.name for s in select_layers(model, candidates)] == ["2"]
    assert "subclass" in candidates.refused["1"]
    attention = nn.MultiheadAttention(16, 2)
    assert "out_proj" in find_candidates(attention).refused


def test_torchvision_video_networks_become_dynamic():
    plan = dynaconv.plan(torchvision.models.video.r3d_18(), dynaconv.DYConvConfig())
    assert len(plan.layers) == 19


def test_torchvision_vit_keeps_the_projection_that_its_attention_reads():
    model = torchvision.models.VisionTransformer(32, 16, 2, 2, 32, 64, num_classes=3)
    converted = dynaconv.convert(model, KernelWarehouseConfig())
    assert converted(torch.randn(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    ("layer", "x"),
    [(nn.Conv2d(4, 8, 3), (2, 4, 5, 5)), (nn.Linear(4, 8), (2, 4)), (nn.Conv1d(4, 8, 3), (2, 4, 9))],
)
def test_a_single_layer(layer, x):
    converted = dynaconv.convert(layer, KernelWarehouseConfig())
    assert isinstance(converted, WarehouseLayer)
    assert converted(torch.randn(x)).shape == layer(torch.randn(x)).shape


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dynaconv.plan("resnet18", KernelWarehouseConfig()), "expected an nn.Module, got str"),
        (
            lambda: dynaconv.convert(small(), {"budget": 1}),
            "expected a config .*KernelWarehouseConfig.*got dict",
        ),
        (
            lambda: dynaconv.convert(dynaconv.convert(small(), KernelWarehouseConfig()), KernelWarehouseConfig()),
            "selects no",
        ),
        (
            lambda: dynaconv.convert(small(), dynaconv.plan(small(), KernelWarehouseConfig()), where="*"),
            "a plan says already",
        ),
        (
            lambda: dynaconv.convert(
                nn.Sequential(nn.Conv2d(3, 8, 3)), dynaconv.plan(small(), KernelWarehouseConfig())
            ),
            "made for another network.*'1'",
        ),
        (
            lambda: dynaconv.convert(
                nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 5), nn.Conv2d(8, 16, 3)),
                dynaconv.plan(small(), KernelWarehouseConfig()),
            ),
            "made for another '1'",
        ),
        (lambda: register_method(KernelWarehouseConfig, KernelWarehouseMethod()), "registered already"),
    ],
)
def test_bad_requests(call, message):
    with pytest.raises(DynaconvError, match=message):
        call()


def test_tiny_networks_get_a_warning_that_says_what_helps():
    with pytest.warns(PlanWarning, match="branches weigh more than the kernels.*cell_scale"):
        dynaconv.convert(small(), KernelWarehouseConfig())


def test_presets_do_not_warn(recwarn):
    for name in dynaconv.list_models("kw*_resnet18") + dynaconv.list_models("kw*mobilenet*"):
        with torch.device("meta"):
            dynaconv.create_model(name)
    assert not [w for w in recwarn if issubclass(w.category, PlanWarning)]


class ReadsWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.qkv = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return nn.functional.conv2d(self.stem(x), self.qkv.weight)


def test_a_parent_that_reads_a_weight_is_told_what_to_do():
    model = dynaconv.convert(ReadsWeight(), KernelWarehouseConfig())
    assert not hasattr(model.qkv, "weight")
    with pytest.raises(AttributeError, match="leave the layer static"):
        model(torch.randn(1, 3, 2, 2))


def test_a_network_is_converted_once():
    model = dynaconv.convert(small(), KernelWarehouseConfig(), where="1")
    with pytest.raises(PlanError, match="converted once"):
        dynaconv.convert(model, KernelWarehouseConfig(), where="2")


def test_the_plan_prints_as_a_table():
    text = str(dynaconv.plan(timm.create_model("resnet18"), KernelWarehouseConfig(budget=0.5)))
    assert "layer2.0.downsample.0" in text
    assert "128x64x1x1" in text
    assert "+4 zero" in text
    assert "7,431,044" in text
    assert "left static:       2 layers: conv1, fc" in text


UNLIKE = ["efficientnet_b0", "regnety_004", "hrnet_w18_small", "resnest14d", "swinv2_tiny_window8_256", "dla34"]


@pytest.mark.parametrize("name", UNLIKE)
@pytest.mark.parametrize("budget", [0.5, 1])
def test_unlike_widths_do_not_blow_a_network_up(name, budget):
    with torch.device("meta"):
        model = timm.create_model(name)
    plan = dynaconv.plan(model, KernelWarehouseConfig(budget=budget))
    assert plan.parameters_after < 1.6 * plan.parameters_before


@pytest.mark.parametrize(
    ("name", "static"),
    [
        ("googlenet", ["aux1.fc1", "aux1.conv.conv", "fc"]),
        ("fcn_resnet50", ["classifier.0", "classifier.4", "aux_classifier.4"]),
        ("retinanet_resnet50_fpn", ["head.classification_head.cls_logits", "head.regression_head.bbox_reg"]),
        ("fasterrcnn_mobilenet_v3_large_fpn", ["rpn.head.bbox_pred", "roi_heads.box_predictor.cls_score"]),
    ],
)
def test_heads_stay_static_unless_named(name, static):
    options = {"init_weights": False} if name == "googlenet" else {"weights_backbone": None}
    if name == "fcn_resnet50":
        options["aux_loss"] = True
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None, **options)
    plan = dynaconv.plan(model, KernelWarehouseConfig())
    assert set(static) <= set(plan.left_static)
    assert len(plan.layers) > 10


def test_a_stem_of_several_layers_stays_static():
    with torch.device("meta"):
        model = timm.create_model("resnet18d")
    plan = dynaconv.plan(model, KernelWarehouseConfig())
    assert {"conv1.0", "conv1.3", "conv1.6"} <= set(plan.left_static)


def test_layers_that_a_parent_reads_are_refused_and_shown():
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
    plan = dynaconv.plan(nn.Sequential(nn.Conv1d(3, 32, 1), layer, nn.Conv1d(32, 32, 1)), KernelWarehouseConfig())
    assert {"1.linear1", "1.linear2", "1.self_attn.out_proj"} <= {name for name, _ in plan.refused}
    assert "not convertible:   3 layers" in str(plan)


def test_a_module_name_selects_everything_below():
    plan = dynaconv.plan(timm.create_model("resnet18"), KernelWarehouseConfig(), where="layer4")
    assert len(plan.layers) == 5


def test_bias_hooks_and_frozen_state_carry_over():
    model = small()
    model[2].bias.requires_grad_(False)
    bias, seen = model[2].bias, []
    model[2].register_forward_hook(lambda module, args, output: seen.append(type(module)))
    converted = dynaconv.convert(model, KernelWarehouseConfig())
    converted(torch.randn(2, 3, 9, 9))
    assert converted[2].bias is bias
    assert seen == [dynaconv.KWConv2d]


def test_overrides_reach_the_layers():
    config = KernelWarehouseConfig(overrides={"*": {"assignment": "none"}})
    model = dynaconv.convert(small(), config)
    dynaconv.set_temperature(model, 1)
    assert model[1].kernels(torch.randn(1, 8, 3, 3)).any()


def test_a_plan_for_a_single_layer_is_carried_out():
    layer = nn.Conv2d(8, 8, 3)
    plan = dynaconv.plan(layer, KernelWarehouseConfig(sharing={"*": "w"}, overrides={"w": {"budget": 2}}))
    converted = dynaconv.convert(layer, plan)
    assert sum(p.numel() for p in converted.parameters()) == plan.parameters_after
    assert converted(torch.randn(1, 8, 5, 5)).shape == (1, 8, 3, 3)


@pytest.mark.parametrize(
    ("root", "message"),
    [(lambda: nn.ModuleList([*small()]), "a bare ModuleList"), (lambda: nn.DataParallel(small()), "is a wrapper")],
)
def test_roots_that_can_not_own_cells(root, message):
    with pytest.raises(PlanError, match=message):
        dynaconv.convert(root(), KernelWarehouseConfig())


def test_a_network_taken_apart_is_noticed_and_can_be_mended():
    model = dynaconv.convert(timm.create_model("resnet18", num_classes=3), KernelWarehouseConfig())
    part = nn.Sequential(*list(model.children())[:-1])
    part = nn.Sequential(*[child for child in part if not isinstance(child, Warehouses)])
    with pytest.raises(LostWarehouseError, match=r"neither trained nor saved.*relink"):
        dynaconv.set_temperature(part, 0.5)
    assert dynaconv.relink(part) is part
    dynaconv.set_temperature(part, 0.5)
    assert sum("cells" in name for name in part.state_dict()) == 4


def test_made_without_memory_then_loaded():
    state = dynaconv.convert(small(), KernelWarehouseConfig()).state_dict()
    with torch.device("meta"):
        bare = dynaconv.convert(small(), KernelWarehouseConfig())
    bare.to_empty(device="cpu").load_state_dict(state)
    full = dynaconv.convert(small(), KernelWarehouseConfig())
    full.load_state_dict(state)
    x = torch.randn(2, 3, 9, 9)
    for tau in (0, 0.5):
        dynaconv.set_temperature(bare, tau)
        dynaconv.set_temperature(full, tau)
        torch.testing.assert_close(bare.eval()(x), full.eval()(x))


def test_a_plan_of_a_smaller_network_is_refused():
    plan = dynaconv.plan(timm.create_model("resnet18"), KernelWarehouseConfig())
    model = timm.create_model("resnet34")
    with pytest.raises(PlanError, match=r"made for another network.*layer1.2.conv1"):
        dynaconv.convert(model, plan)
    assert not list(dynaconv.dynamic_layers(model))
    dynaconv.convert(timm.create_model("resnet18", num_classes=3), plan)  # another head is no other network
