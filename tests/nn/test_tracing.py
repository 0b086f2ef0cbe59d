"""Which norm follows which layer: known, or left alone."""

from __future__ import annotations

import copy
import threading

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import dynaconv
from dynaconv import KernelWarehouseConfig, ODConvConfig
from dynaconv.nn.dressing import is_dressed
from tests.nn.cases import animate
from tests.nn.test_norms import compute, folded, lively, norm_must_not_act, reasons

X = {"dtype": torch.float64}


def layer(inputs: int = 6, outputs: int = 6, **options) -> nn.Module:
    return animate(dynaconv.ODConv2d(inputs, outputs, 3, padding=1, num_kernels=2, **options))


class Network(nn.Module):
    """A layer, a norm, and what lies around them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other, self.bn = layer(), layer(), nn.BatchNorm2d(6)
        self.second = nn.BatchNorm2d(6)
        self.relu, self.flag, self.kept = nn.ReLU(), True, []

    def forward(self, x):
        raise NotImplementedError


class Straight(Network):
    def forward(self, x):
        return self.second(self.other(self.relu(self.bn(self.conv(x)))))


class Residual(Network):
    def forward(self, x):
        y = self.conv(x)
        return y + self.bn(y)


class InPlace(Network):
    def forward(self, x):
        y = self.conv(x)
        y.relu_()
        return self.bn(y)


class Shared(Network):
    def forward(self, x):
        return self.bn(self.other(self.bn(self.conv(x))))


class Twice(Network):
    def forward(self, x):
        return self.bn(self.conv(self.conv(x)))


class Returned(Network):
    def forward(self, x):
        y = self.conv(x)
        return self.bn(y), y


class Kept(Network):
    def forward(self, x):
        self.last = self.conv(x)
        return self.bn(self.last)


class Listed(Network):
    def forward(self, x):
        self.kept.append(self.conv(x))
        return self.bn(self.kept[-1])


class Function(Network):
    def forward(self, x):
        y = self.conv(x)
        return F.batch_norm(y, self.bn.running_mean, self.bn.running_var)


class Sizes(Network):
    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) if x.shape[0] > 1 else y


class Values(Network):
    def forward(self, x):
        return self.bn(self.conv(x)) if x.sum() > 0 else x


class Between(Network):
    def forward(self, x):
        return self.bn(self.relu(self.conv(x)))


class Keyword(Network):
    def forward(self, x):
        return self.bn(input=self.conv(x))


class Many(Network):
    def forward(self, a, b, c, d, e):
        return self.bn(self.conv(a))


class Unused(Network):
    def forward(self, x):
        self.conv(x)
        return self.bn(x)


NOT_FOLDED = {
    Residual: "its output goes to 2 places",
    InPlace: "its output goes to 2 places",
    Shared: "its norm is called 2 times",
    Twice: "it is called 2 times",
    Returned: "its output goes to 2 places",
    Kept: "its output is kept",
    Listed: "its output is kept",
    Function: "its output goes to batch_norm",
    Sizes: "Sizes, which calls it, can not be followed (TraceError: symbolically traced variables cannot be used",
    Values: "Values, which calls it, can not be followed (TraceError: symbolically traced variables cannot be used",
    Between: "its output goes to a ReLU",
    Keyword: "its norm takes other inputs too",
    Many: "Many, which calls it, takes 5 inputs",
    Unused: "its output goes to 0 places",
}


@pytest.mark.parametrize("kind", NOT_FOLDED)
def test_what_is_not_sure_stays(kind):
    model = kind().double().eval()
    lively(model.bn)
    before = {name: value for name, value in vars(model).items() if not name.startswith("_")}
    x = torch.randn(3, 6, 5, 5, **X)
    inputs = [x] * (5 if kind is Many else 1)
    expected = compute(model, x) if kind is not Many else None
    dynaconv.prepare_inference(model)
    assert reasons(model)["conv"].startswith(NOT_FOLDED[kind])
    assert not folded(model)
    assert not any(is_dressed(module) for module in model.modules())
    assert not any(isinstance(value, torch.fx.Proxy) for value in vars(model).values())
    if kind is not Kept:
        assert {n: v for n, v in vars(model).items() if not n.startswith("_")} == {**before, "training": False}
    with torch.no_grad():
        torch.testing.assert_close(model(*inputs), expected if expected is not None else model(*inputs))


def test_straight_on():
    model = Straight().double().eval()
    lively(model.bn), lively(model.second)
    x = torch.randn(3, 6, 5, 5, **X)
    expected = compute(model, x)
    dynaconv.prepare_inference(model)
    assert folded(model) == {"conv": "bn", "other": "second"}
    with norm_must_not_act(model.bn), norm_must_not_act(model.second):
        torch.testing.assert_close(compute(model, x), expected)


class Busy(Network):
    """Another thread runs another network meanwhile."""

    def forward(self, x):
        found = []
        thread = threading.Thread(target=lambda: found.append(compute(self.kept[0], self.kept[1])))
        thread.start()
        thread.join()
        assert torch.equal(found[0], self.kept[2])
        return self.bn(self.conv(x))


def test_other_threads_run_on():
    model, other = Busy().double().eval(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    x = torch.randn(2, 3, 5, 5)
    model.kept = [other, x, compute(other, x)]
    dynaconv.prepare_inference(model)
    assert folded(model) == {"conv": "bn"}


class Optional(Network):
    """Another way through for another call."""

    def forward(self, x, plain=None, scale=1.0):
        y = self.conv(x)
        return self.bn(y) if plain is None else y + plain


def test_only_calls_that_were_followed():
    model = Optional().double().eval()
    lively(model.bn)
    x = torch.randn(3, 6, 5, 5, **X)
    ways = [((x,), {}), ((x, x), {}), ((x,), {"plain": x}), ((x,), {"scale": 2.0}), ((), {"x": x})]
    with torch.no_grad():
        expected = [model(*arguments, **named) for arguments, named in ways]
        dynaconv.prepare_inference(model)
        assert folded(model) == {"conv": "bn"}
        for (arguments, named), y in zip(ways, expected, strict=True):
            torch.testing.assert_close(model(*arguments, **named), y)
        with norm_must_not_act(model.bn):
            model(x)


class Parts(nn.Module):
    """A layer at the end of one part, its norm outside."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(layer(), lively(nn.BatchNorm2d(6)), nn.ReLU(), layer())
        self.bn = lively(nn.BatchNorm2d(6))
        self.blocks = nn.ModuleList([nn.Sequential(layer(), lively(nn.BatchNorm2d(6))) for _ in range(2)])

    def forward(self, x):
        x = self.bn(self.body(x))
        for block in self.blocks:
            x = block(block(x))
        return x


def test_parts_within_parts():
    model = Parts().double().eval()
    x = torch.randn(3, 6, 5, 5, **X)
    expected, inner = compute(model, x), compute(model.body, x)
    dynaconv.prepare_inference(model)
    assert folded(model) == {"body.0": "body.1", "body.3": "bn", "blocks.0.0": "blocks.0.1", "blocks.1.0": "blocks.1.1"}
    with norm_must_not_act(model.bn), norm_must_not_act(model.body[1]), norm_must_not_act(model.blocks[0][1]):
        torch.testing.assert_close(compute(model, x), expected)
    torch.testing.assert_close(compute(model.body, x), inner)
    for change in (
        lambda body: body.append(nn.Tanh()),
        lambda body: body.insert(1, nn.Tanh()),
        lambda body: body.register_forward_hook(lambda m, i, o: o * 2),
        lambda body: setattr(body, "forward", lambda x: x),
    ):
        model = Parts().double().eval()
        assert "body.3" in folded(dynaconv.prepare_inference(model))
        change(model.body)
        torch.testing.assert_close(compute(model, x), compute(copy.deepcopy(model), x))
        assert "body.3" not in folded(model)


def test_children_called_one_by_one():
    """A feature extractor that walks over a Sequential sees every output."""
    model = Parts().double().eval()
    x = torch.randn(3, 6, 5, 5, **X)

    def walk():
        y, seen = x, []
        for part in model.body:
            y = part(y)
            seen.append(y)
        return seen

    with torch.no_grad():
        expected = walk()
        dynaconv.prepare_inference(model)
        for y, other in zip(walk(), expected, strict=True):
            torch.testing.assert_close(y, other)


def test_one_norm_behind_two_layers_in_two_parts():
    norm = lively(nn.BatchNorm2d(6))
    model = nn.Sequential(nn.Sequential(layer(), norm), nn.Sequential(layer(), norm)).double().eval()
    x = torch.randn(3, 6, 5, 5, **X)
    expected = compute(model, x)
    dynaconv.prepare_inference(model)
    assert folded(model) == {"0.0": "0.1", "1.0": "0.1"}
    with norm_must_not_act(norm):
        torch.testing.assert_close(compute(model, x), expected)
    norm.running_mean.add_(1)
    torch.testing.assert_close(compute(model, x), compute(copy.deepcopy(model), x))


def settled(model: nn.Module, **options) -> nn.Module:
    """Norms with statistics of their own and weights that hide nothing (timm starts some at zero)."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            with torch.no_grad():
                for weight in (module.weight, module.running_var):
                    weight.uniform_(0.5, 1.0)
                for bias in (module.bias, module.running_mean):
                    bias.normal_(0, 0.1)
    return model.double().eval()


NETWORKS = {  # and whether all layers have a norm behind them
    "resnet18": (ODConvConfig(num_kernels=2), True),
    "mobilenetv2_035": (KernelWarehouseConfig(budget=1), True),
    "efficientnet_lite0": (ODConvConfig(num_kernels=2), True),
    "convnext_atto": (KernelWarehouseConfig(budget=1), False),
    "torchvision/mobilenet_v3_small": (ODConvConfig(num_kernels=2), True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks(name):
    config, normalised = NETWORKS[name]
    torch.manual_seed(0)
    package, _, plain = name.rpartition("/")
    model = torchvision.models.get_model(plain) if package else timm.create_model(name, num_classes=10)
    model = settled(dynaconv.convert(model, config))
    dynaconv.set_temperature(model, 1.0)  # KernelWarehouse's attention makes untrained networks chaotic
    state = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 3, 32, 32, **X)
    expected = compute(model, x)
    dynaconv.prepare_inference(model)
    y, report = compute(model, x), dynaconv.inference_report(model)
    assert (y - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert len(report.norms) == (len(report.layers) if normalised else 0)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    dynaconv.restore_training(model)
    assert torch.equal(compute(model, x), expected)
    model.float()
    single = compute(model, x.float())
    again = compute(dynaconv.prepare_inference(model), x.float())
    assert (again - single).abs().max() <= 1e-5 * single.abs().max()
