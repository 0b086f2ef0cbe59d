"""A network that was converted from trained kernels computes what it did before."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

import dynaconv
from dynaconv import KernelWarehouseConfig, Pretrained
from dynaconv.checkpoints.native import load_checkpoint, save_checkpoint
from dynaconv.convert import holds_trained_weights
from dynaconv.errors import DynaconvError, NothingSelectedError, PlanError
from tests.nn.cases import animate

EXACT = {"rtol": 1e-10, "atol": 1e-10}
CONFIGS = {
    **{f"kw {b:g}": KernelWarehouseConfig(budget=b) for b in (1, 1.5, 2, 4)},
    "kw private": KernelWarehouseConfig(budget=2, sharing="none"),
    "kw whole": KernelWarehouseConfig(partition="none", sharing="layer"),
    "kw channel": KernelWarehouseConfig(partition="channel", sharing="layer", norm="layer"),
    "kw basis": KernelWarehouseConfig(budget=2, nonlocal_basis_ratio=0.25),
    "kw free": KernelWarehouseConfig(assignment="none"),
    "kw nonnegative": KernelWarehouseConfig(attention="nonnegative"),
    "kw enough": KernelWarehouseConfig(
        budget=0.9, cell_scale=0.25, sharing="layer"
    ),  # more cells than a cell has elements
    "odconv": dynaconv.ODConvConfig(num_kernels=3),
    "odconv 1": dynaconv.ODConvConfig(),
    "dyconv": dynaconv.DYConvConfig(),
    "dyconv kaijieshi7": dynaconv.DYConvConfig(branch="kaijieshi7"),
    "condconv": dynaconv.CondConvConfig(num_experts=3),
    "dcd": dynaconv.DCDConfig(),
    "weightnet": dynaconv.WeightNetConfig(expansion=4),
    "cgc": dynaconv.CGCConfig(),
    "fdconv": dynaconv.FDConvConfig(num_kernels=4, channels_above=0),
    "fdconv 2": dynaconv.FDConvConfig(num_kernels=4, channels_above=0, param_ratio=2, modulate_lowest=True),
    "se": dynaconv.SEConfig(bias=True),
    "cbam": dynaconv.CBAMConfig(),
    "eca": dynaconv.ECAConfig(),
}
REFUSED = {  # what a method leaves static by its paper
    *((name, "linear") for name in CONFIGS if not name.startswith(("kw", "condconv", "dcd"))),
    ("dcd", "depth-wise"),
    ("cgc", "point-wise"),
}
LAYERS = {
    "1-d": (lambda: nn.Conv1d(8, 16, 3, padding=1), (8, 9)),
    "2-d": (lambda: nn.Conv2d(8, 16, 3, stride=2, padding=1), (8, 7, 6)),
    "point-wise": (lambda: nn.Conv2d(16, 8, 1, bias=False), (16, 5, 5)),
    "grouped": (lambda: nn.Conv2d(8, 16, 3, groups=4, dilation=2, padding="same"), (8, 7, 6)),
    "depth-wise": (lambda: nn.Conv2d(16, 16, 3, groups=16, padding_mode="reflect", padding=1), (16, 7, 6)),
    "3-d": (lambda: nn.Conv3d(4, 8, (3, 1, 2)), (4, 5, 4, 3)),
    "linear": (lambda: nn.Linear(8, 16), (3, 8)),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("config", CONFIGS)
def test_a_layer_stays_what_it_was(layer, config):
    make, size = LAYERS[layer]
    static = make().double()
    given = copy.deepcopy(static)
    if (config, layer) in REFUSED:
        with pytest.raises(NothingSelectedError, match="converts none"):
            dynaconv.convert(given, CONFIGS[config], "*", init="pretrained")
        return
    dynamic = dynaconv.convert(given, CONFIGS[config], "*", init="pretrained")
    assert dynaconv.warm_start_report(dynamic).exact
    for mode in (True, False):
        dynamic.train(mode)
        for progress in (0.0, 0.3, 1.0):
            dynaconv.schedule_temperature(dynamic, progress)
            for batch in (0, 1, 3):
                x = torch.randn(batch, *size, dtype=torch.float64)
                torch.testing.assert_close(dynamic(x), static(x), **EXACT)


class Trained:
    """Small networks of timm with weights that no fresh network has."""

    NAMES = ("resnet18", "mobilenetv2_050", "efficientnet_b0", "convnext_atto")

    @staticmethod
    def make(name: str, **options) -> nn.Module:
        torch.manual_seed(0)
        return animate(timm.create_model(name, num_classes=5, **options)).eval()


@pytest.mark.parametrize("config", [name for name in CONFIGS if name not in ("kw enough", "kw whole", "kw channel")])
def test_a_network_stays_what_it_was(config):
    model = Trained.make("resnet18", channels=[8, 16, 16, 32]).double()
    x = torch.randn(2, 3, 40, 40, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        dynaconv.convert(model, CONFIGS[config])  # by itself: the network has learned
        for progress in (0.0, 1.0):
            dynaconv.schedule_temperature(model, progress)
            torch.testing.assert_close(model(x), expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    assert str(dynaconv.warm_start_report(model)).endswith("start as the trained ones, exactly")


@pytest.mark.parametrize("name", Trained.NAMES[1:])
@pytest.mark.parametrize("config", ["kw 1", "kw 2", "odconv", "dyconv"])
def test_other_networks_in_single_precision(name, config):
    model = Trained.make(name)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        dynaconv.convert(model, CONFIGS[config])
        for progress in (0.0, 1.0):
            dynaconv.schedule_temperature(model, progress)
            assert (model(x) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_normalisers():
    """The authors' normaliser makes kernels 0.1 % smaller where nothing is left of the assignment."""
    static = nn.Conv2d(4, 8, 3, bias=False).double()
    layer = dynaconv.convert(
        copy.deepcopy(static), KernelWarehouseConfig(normaliser="paper", branch_start=0), init="pretrained"
    )
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x) * 1.001, static(x), **EXACT)
    dynaconv.set_temperature(layer, 1)
    torch.testing.assert_close(layer(x), static(x), **EXACT)
    report = dynaconv.warm_start_report(layer)
    assert not report.exact
    assert report.errors[""] == pytest.approx(1 - 1 / 1.001)


def test_fewer_cells_than_mixtures():
    model = Trained.make("resnet18", channels=[8, 16, 16, 32]).double()
    sources = {n: m.weight.detach().clone() for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    dynaconv.convert(model, KernelWarehouseConfig(budget=0.5))
    report = dynaconv.warm_start_report(model)
    assert not report.exact
    x = torch.randn(2, 3, 40, 40, dtype=torch.float64)
    for temperature in (1, 0):  # no assignment is left to blend with
        dynaconv.set_temperature(model, temperature)
        assert dynaconv.get_temperature(model) == 0
    lost, norms = {}, {}
    for name, layer in model.named_modules():
        if isinstance(layer, dynaconv.KWConv2d):
            kernel = layer.kernels(torch.randn(1, layer.in_channels, 5, 5, dtype=torch.float64))[0].detach()
            difference, house = (kernel - sources[name]).square().sum(), layer.plan.warehouse
            assert report.errors[name] == pytest.approx(float((difference / sources[name].square().sum()).sqrt()))
            lost[house] = lost.get(house, 0) + difference
            norms[house] = norms.get(house, 0) + sources[name].square().sum()
    for house, error in report.warehouse_errors.items():
        assert error == pytest.approx(float((lost[house] / norms[house]).sqrt()))
        assert 0.05 < error < 0.9
        assert f"{house} " in str(report)
    assert model(x).isfinite().all()


def test_more_cells_lose_less():
    errors = []
    for budget in (0.25, 0.5, 0.75):
        torch.manual_seed(0)  # the same network each time
        model = Trained.make("resnet18", channels=[8, 16, 16, 32])
        dynaconv.convert(model, KernelWarehouseConfig(budget=budget, cell_scale=1, branch_limit=1e9))
        errors.append(list(dynaconv.warm_start_report(model).warehouse_errors.values()))
    assert all(a >= b >= c for a, b, c in zip(*errors, strict=True))
    assert sum(errors[0]) > sum(errors[1]) > sum(errors[2])


def test_calibration_spends_the_cells_where_the_inputs_are():
    torch.manual_seed(0)
    static = nn.Conv2d(16, 16, 3, padding=1, bias=False).double()
    x = torch.randn(8, 16, 12, 12, dtype=torch.float64)
    x[:, 8:] *= 0.02  # half of the channels hardly say anything
    config = KernelWarehouseConfig(budget=0.5, cell_scale=0.5)
    errors = []
    for calibration in (None, [x[:4], x[4:]]):
        layer = dynaconv.convert(copy.deepcopy(static), config, init=Pretrained(calibration=calibration))
        errors.append(float((layer(x) - static(x)).detach().norm() / static(x).detach().norm()))
        report = dynaconv.warm_start_report(layer)
    assert errors[1] < 0.8 * errors[0]
    assert "weighted by inputs" in str(report)
    weighted = float(report.layers[""].weighted_lost / report.layers[""].weighted_norm) ** 0.5
    assert weighted == pytest.approx(errors[1], rel=0.15)  # neighbours are independent here, so it is the output's


@pytest.mark.parametrize("batch", [lambda x: (x, 1), lambda x: {"input": x}])
def test_calibration_takes_what_loaders_give(batch):
    model = nn.Sequential(nn.Linear(8, 8), nn.Conv1d(4, 4, 1, groups=2), nn.Dropout())
    if batch(0).__class__ is dict:
        model = model[0]
    start = Pretrained(calibration=[batch(torch.randn(3, 4, 8))])
    dynaconv.convert(model.train(), KernelWarehouseConfig(budget=0.5, sharing="layer"), "*", init=start)
    assert model.training
    with pytest.raises(DynaconvError, match="holds no batch"):
        dynaconv.convert(nn.Linear(4, 4), KernelWarehouseConfig(budget=0.5), init=Pretrained(calibration=[]))


def test_calibration_that_leaves_a_layer_out():
    class Lazy(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            return self.first(x)

    start = Pretrained(calibration=[torch.randn(1, 4, 5, 5)])
    with pytest.raises(DynaconvError, match=r"never ran \['second'\]"):
        dynaconv.convert(Lazy(), KernelWarehouseConfig(), "*", init=start)


EQUAL_PARTS = ("odconv", "dyconv", "condconv", "weightnet", "fdconv 2")


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("config", EQUAL_PARTS)
def test_noise_lets_equal_parts_part(config, noise):
    torch.manual_seed(0)
    static = nn.Conv2d(8, 8, 3)
    layer = dynaconv.convert(static, CONFIGS[config], "*", init=Pretrained(noise=noise)).double()
    parameter = layer.dft_weight if config.startswith("fdconv") else layer.kernel
    parts = (lambda: parameter.detach().movedim(-1, 0)) if config == "weightnet" else (lambda: parameter.detach())
    x = torch.randn(4, 8, 6, 6, dtype=torch.float64)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()
    same = torch.allclose(parts()[0], parts()[1], rtol=1e-6)
    assert same == (noise == 0)


def test_noise_is_reproducible():
    def kernel(seed):
        torch.manual_seed(0)
        layer = dynaconv.convert(nn.Conv2d(4, 4, 3), dynaconv.DYConvConfig(), init=Pretrained(seed=seed))
        return layer.kernel.detach()

    assert torch.equal(kernel(1), kernel(1))
    assert not torch.equal(kernel(1), kernel(2))


@pytest.mark.parametrize(
    "config", ["kw 1", "kw 4", "odconv", "dyconv", "condconv", "dcd", "weightnet", "cgc", "se", "cbam"]
)
def test_what_starts_still_learns(config):
    """Neither branch nor kernel waits for ever: after a few steps every parameter has moved."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16))
    config = replace(CONFIGS[config], reduction=1 / 4) if config in ("se", "cbam") else CONFIGS[config]
    model = dynaconv.convert(animate(model), config, "3")
    dynaconv.schedule_temperature(model, 0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(8, 3, 9, 9)).square().sub(1).square().mean().backward()
        optimizer.step()
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert not still


def test_auto_knows_a_trained_network():
    fresh = timm.create_model("resnet18", num_classes=3, channels=[8, 8, 8, 8])
    assert not holds_trained_weights(fresh)
    assert holds_trained_weights(Trained.make("convnext_atto"))
    assert not holds_trained_weights(nn.Conv2d(3, 4, 3))
    kernel = fresh.layer1[0].conv1.weight.detach().clone()
    dynaconv.convert(fresh, dynaconv.DYConvConfig())
    assert not torch.allclose(fresh.layer1[0].conv1.kernel.mean(0), kernel)
    with pytest.raises(DynaconvError, match="no layer of ResNet started from a trained kernel"):
        dynaconv.warm_start_report(fresh)
    seen = timm.create_model("resnet18", num_classes=3, channels=[8, 8, 8, 8]).train()
    seen(torch.randn(2, 3, 32, 32))
    assert holds_trained_weights(seen)
    kernel = seen.layer1[0].conv1.weight.detach().clone()
    dynaconv.convert(copy.deepcopy(seen), dynaconv.DYConvConfig(), init="scratch")
    dynaconv.convert(seen, dynaconv.DYConvConfig())
    torch.testing.assert_close(seen.layer1[0].conv1.kernel.mean(0), kernel)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: dynaconv.convert(m, KernelWarehouseConfig(), init="warm"), "init='warm'; expected one of 'auto'"),
        (
            lambda m: dynaconv.convert(m, KernelWarehouseConfig(assignment="all"), init="pretrained"),
            "assignment='all' gives mixtures other cells than one each",
        ),
        (
            lambda m: dynaconv.convert(m, KernelWarehouseConfig(attention="softmax"), init="pretrained"),
            "attention='softmax' can not be what trained kernels need at b = 1",
        ),
        (
            lambda m: dynaconv.convert(
                m, KernelWarehouseConfig(attention="nonnegative", budget=0.5), init="pretrained"
            ),
            "at b = 0.5",
        ),
        (lambda m: dynaconv.convert(m.to("meta"), KernelWarehouseConfig(), init="pretrained"), "meta device"),
        (lambda m: Pretrained(noise=-1), "noise=-1 is out of range"),
    ],
)
def test_errors(call, message):
    with pytest.raises(DynaconvError, match=message):
        call(nn.Conv2d(4, 8, 3))


class Bare(nn.Module):
    def __init__(self, norm: nn.Module):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.layer1 = nn.ModuleList([nn.Sequential(nn.Conv2d(8, 8, 3), copy.deepcopy(norm)) for _ in range(2)])

    def forward(self, x):
        x = self.stem(x)
        for block in self.layer1:
            x = block(x)
        return x


def test_gates_say_where_they_can_not_be_made_up_for():
    model = Bare(nn.BatchNorm2d(8, affine=False))
    with pytest.raises(PlanError, match=r"BatchNorm2d\) has no scale to make up"):
        dynaconv.convert(model, dynaconv.SEConfig(), "*.0", init="pretrained")
    model = Bare(timm.layers.BatchNormAct2d(8, act_layer=nn.SiLU))
    before = model(torch.zeros(1, 3, 9, 9))
    with pytest.raises(PlanError, match="ends with SiLU"):
        dynaconv.convert(model, dynaconv.SEConfig(), "*.0", init="pretrained")
    assert torch.equal(model(torch.zeros(1, 3, 9, 9)), before)  # nothing was changed
    model = animate(Bare(timm.layers.BatchNormAct2d(8, act_layer=nn.ReLU))).eval()
    x = torch.randn(2, 3, 9, 9)
    before = model(x)
    torch.testing.assert_close(dynaconv.convert(model, dynaconv.CBAMConfig(), "*.0", init="pretrained")(x), before)


def test_a_saved_start_is_the_same_function_after_loading():
    """Also with b < 1, into a network that was converted afresh by the same config."""
    config = KernelWarehouseConfig(budget=0.5)
    model = dynaconv.convert(Trained.make("resnet18", channels=[8, 16, 16, 32]), config)
    dynaconv.schedule_temperature(model, 0)
    other = dynaconv.convert(timm.create_model("resnet18", num_classes=5, channels=[8, 16, 16, 32]), config).eval()
    other.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 40, 40)
    torch.testing.assert_close(other(x), model(x))


def test_create_model_starts_from_what_it_loads(monkeypatch):
    import dynaconv.models.build as build

    trained = Trained.make("resnet18", channels=[8, 16, 16, 32])
    monkeypatch.setattr(build, "make_backbone", lambda name, **options: copy.deepcopy(trained))
    x = torch.randn(2, 3, 40, 40)
    model = dynaconv.create_model("resnet18", config=KernelWarehouseConfig(), pretrained=True).eval()
    torch.testing.assert_close(model(x), trained(x), rtol=1e-4, atol=1e-4)
    model = dynaconv.create_model("resnet18", config=KernelWarehouseConfig(), pretrained=True, init="scratch").eval()
    assert not torch.allclose(model(x), trained(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("fields", [{"budget": 0.5}, {"overrides": {"stage3_*": {"budget": 0.5}}}])
def test_a_checkpoint_of_an_approximation_stands_any_temperature(tmp_path, fields):
    """It is rebuilt without the assignment that was left out where b < 1."""
    config = KernelWarehouseConfig(**fields)
    width = {"channels": [8, 16, 16, 32]}
    model = dynaconv.convert(Trained.make("resnet18", **width), config, init="pretrained")
    arguments = {"name": "resnet18", "config": config.to_dict(), "num_classes": 5, "in_chans": 3}
    save_checkpoint(tmp_path / "net", model, {"model": {**arguments, "backbone_kwargs": width}})
    loaded, _ = load_checkpoint(tmp_path / "net")
    x = torch.randn(2, 3, 40, 40)
    for progress in (0.0, 0.5, 1.0):
        for network in (model, loaded):
            dynaconv.schedule_temperature(network, progress)
        torch.testing.assert_close(loaded(x), model(x))
