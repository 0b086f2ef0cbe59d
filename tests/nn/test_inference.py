"""A network prepared for inference is the same function, and never a stale one."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

import dynaconv
from dynaconv import KernelWarehouseConfig, KWConv1d, KWConv2d, KWConv3d, KWLinear
from dynaconv.convert import config_types
from dynaconv.errors import DynaconvError, LostWarehouseError
from dynaconv.ops.folding import Terms
from tests.nn.cases import CASES, animate

DOUBLE = {"rtol": 1e-10, "atol": 1e-10}
PREPARED = ("kernel_warehouse", "odconv", "dyconv")
TEMPERATURES = {"kernel_warehouse": (0.0, 0.3, 1.0), "odconv": (1.0, 7.5), "dyconv": (1.0, 7.5)}
every_case = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])


@pytest.fixture
def always_terms(monkeypatch):
    """Folded cells at any size, which tests are too small for."""
    monkeypatch.setattr(Terms, "pay", lambda *arguments: True)


def compute(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return layer(x)


def broken_branch(layer: nn.Module) -> None:
    """From now on the layer computes by what is prepared, or fails."""

    def fail(*arguments):
        raise AssertionError("the branch itself ran")

    layer.attention.forward = fail


@every_case
def test_every_layer_computes_the_same(case, always_terms):
    layer = case.make(dtype=torch.float64).eval()
    for temperature in TEMPERATURES.get(case.config.method, (0.0,)):
        layer.set_temperature(temperature)
        for batch in (0, 1, 5):
            x = case.input(batch, dtype=torch.float64)
            expected = compute(layer, x)
            dynaconv.prepare_inference(layer, max_extra_mb=100)
            torch.testing.assert_close(compute(layer, x), expected, **DOUBLE)
            report = dynaconv.inference_report(layer)
            assert bool(report.kept) == (case.config.method not in PREPARED)
            dynaconv.restore_training(layer)
            assert torch.equal(compute(layer, x), expected)


KINDS = {KWConv1d: (7,), KWConv2d: (7, 6), KWConv3d: (5, 4, 3), KWLinear: ()}
CONFIGS = [
    *({"attention": name, "budget": 2} for name in ("contrasting", "nonnegative", "softmax", "sigmoid")),
    {"budget": 8},
    {"budget": 0.5, "cell_scale": 0.5},
    {"budget": 2, "norm": "layer"},
    {"budget": 2, "sharing": "none"},
    {"sharing": "none", "assignment": "none", "attention": "nonnegative"},
    {"budget": 4, "nonlocal_basis_ratio": 0.25},
    {"budget": 4, "assignment": "all"},
    {"budget": 4, "assignment": "none", "norm": "layer"},
]


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("fields", CONFIGS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_the_branch(kind, fields, temperature, always_terms):
    config = KernelWarehouseConfig(min_hidden=3, **fields)
    sizes = (8, 16) if kind is KWLinear else (8, 16, 3)
    options = {} if kind is KWLinear else {"padding": "same", "bias": temperature > 0}
    layer = animate(kind(*sizes, **options, config=config, dtype=torch.float64)).eval()
    dynaconv.set_temperature(layer, temperature)
    for shape in ((5, 4, 8),) if kind is KWLinear else ((1, 8, *KINDS[kind]), (5, 8, *KINDS[kind])):
        x = torch.randn(shape, dtype=torch.float64)
        expected, kernels = compute(layer, x), layer.kernels(x)
        dynaconv.prepare_inference(layer, max_extra_mb=100)
        broken_branch(layer)
        torch.testing.assert_close(compute(layer, x), expected, **DOUBLE)
        with torch.no_grad():
            torch.testing.assert_close(layer.kernels(x), kernels.detach(), **DOUBLE)
        foldable = config.attention == "contrasting" and (temperature == 0 or layer.attention.beta is None)
        assert len(dynaconv.inference_report(layer).folded) == (foldable and layer.plan.num_cells >= 3 * 4)
        del layer.attention.forward
        dynaconv.restore_training(layer)


class Network(nn.Module):
    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 64, 3)
        )
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        return self.head(self.layer1(x).mean((2, 3)))


def network(**fields) -> nn.Module:
    config = KernelWarehouseConfig(**{"budget": 4, "min_hidden": 4, **fields})
    return animate(dynaconv.convert(Network(), config)).double()


def test_a_network_comes_back_as_it_was(always_terms):
    model = network().train()
    model.layer1[1].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    parameters, state = dict(model.named_parameters()), copy.deepcopy(model.state_dict())
    x = torch.randn(3, 32, 6, 6, dtype=torch.float64)
    assert dynaconv.prepare_inference(model, max_extra_mb=100) is model
    assert not any(module.training for module in model.modules())
    compute(model, x)
    assert dynaconv.inference_report(model).folded == ("layer1.0", "layer1.3")
    for _ in range(2):
        assert [*model.state_dict()] == [*state]
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
        dynaconv.prepare_inference(model)  # again, and the first modes stay
        assert not dynaconv.inference_report(model).folded
    assert dynaconv.restore_training(model) is model
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert [*vars(model)] == [*vars(network())]
    dynaconv.restore_training(model)
    assert {name: module.training for name, module in model.named_modules()} == modes


def double_scale(model):
    with torch.no_grad():
        model.layer1[0].attention.norm.weight.mul_(2)


def shift_statistics(model):
    model.layer1[3].attention.norm.running_mean.add_(1)


def change_cells(model):
    with torch.no_grad():
        model.layer1[0].cells.mul_(-1)


def load(model, **options):
    other = copy.deepcopy(model.state_dict())
    for value in other.values():
        if value.is_floating_point() and value.dim():
            value.mul_(1.5)
    model.load_state_dict(other, **options)


def load_the_branch(model):
    branch = model.layer1[0].attention
    branch.load_state_dict(
        {name: value + 1 for name, value in branch.state_dict().items() if value.dim()}, strict=False
    )


def replace_a_parameter(model):
    fc2 = model.layer1[0].attention.fc2
    fc2.weight = nn.Parameter(fc2.weight.detach() * 2 + 1)


def replace_a_module(model):
    model.layer1[0].attention.fc1 = nn.Linear(32, 4, bias=False).double()


def give_cells_away(model):
    for warehouse in model.warehouses.values():
        warehouse.cells = nn.Parameter(warehouse.cells.detach() + 1)


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "parameter": double_scale,
    "statistics": shift_statistics,
    "cells": change_cells,
    "load": load,
    "assign": lambda model: load(model, assign=True),
    "branch": load_the_branch,
    "new parameter": replace_a_parameter,
    "new module": replace_a_module,
    "new cells": give_cells_away,
    "temperature": lambda model: dynaconv.set_temperature(model, 0.5),
    "one temperature": lambda model: model.layer1[0].attention.set_temperature(0.5),
    "training": lambda model: model.train(),
    "and back": lambda model: model.train().eval(),
    "norms train": lambda model: model.layer1[0].attention.norm.train(),
    "reset": lambda model: model.layer1[0].reset_parameters(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changed_is_never_stale(change, always_terms):
    model = network()
    x = torch.randn(3, 32, 6, 6, dtype=torch.float64)
    dynaconv.prepare_inference(model, max_extra_mb=100)
    before = compute(model, x)
    torch.manual_seed(1)
    change(model)
    twin = copy.deepcopy(model)  # which is not prepared
    after = compute(model, x)
    assert not torch.allclose(after, before) or change is CHANGES["and back"]
    torch.testing.assert_close(after, compute(twin, x), **DOUBLE)
    assert dynaconv.inference_report(model).kept
    dynaconv.prepare_inference(model, max_extra_mb=100)
    torch.testing.assert_close(compute(model, x), compute(twin.eval(), x), **DOUBLE)
    assert not dynaconv.inference_report(model).kept


@pytest.mark.parametrize("reads", range(5))
def test_what_another_thread_takes_away_in_between_is_not_missed(reads):
    """Threads that find a change at the same time all forget; what was read so often is gone from then on."""
    layer = dynaconv.prepare_inference(KWConv2d(8, 16, 3))
    x = torch.randn(2, 8, 5, 5)
    expected = compute(layer, x)
    found, left = layer._prepared, iter(range(reads))
    gone = property(lambda self: found if next(left, None) is not None else None, lambda self, value: None)
    del vars(layer)["_prepared"]
    layer.__class__ = type("Shared", (KWConv2d,), {"_prepared": gone})
    torch.testing.assert_close(compute(layer, x), expected)


@pytest.mark.parametrize("reads", range(4))
def test_a_norm_that_another_thread_takes_away(reads):
    model = dynaconv.prepare_inference(nn.Sequential(KWConv2d(8, 16, 3), nn.BatchNorm2d(16)))
    layer = model[0]
    found, left = layer._norm, iter(range(reads))
    assert layer.current_norm() is found
    del vars(layer)["_norm"]
    gone = property(lambda self: found if next(left, None) is not None else None, lambda self, value: None)
    layer.__class__ = type("Shared", (KWConv2d,), {"_norm": gone})
    assert layer.current_norm() is (found if reads else None)


def test_another_type_forgets(always_terms):
    model = dynaconv.prepare_inference(network(), max_extra_mb=100)
    x = torch.randn(3, 32, 6, 6, dtype=torch.float64)
    expected = compute(model, x)
    y = compute(model.float(), x.float())
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    assert len(dynaconv.inference_report(model).kept) == 2
    torch.testing.assert_close(compute(dynaconv.prepare_inference(model, 100), x.float()), y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@every_case
def test_other_types_and_autocast(case, dtype, always_terms):
    layer = case.make().to(dtype).eval()
    x = case.input(3).to(dtype)
    expected = compute(layer, x)
    close = {"rtol": 0.1, "atol": 0.05 * expected.abs().max().item()} if dtype == torch.bfloat16 else {}
    y = compute(dynaconv.prepare_inference(layer, 100), x)
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected, **(close or {"rtol": 1e-4, "atol": 1e-5}))
    if dtype == torch.float32:
        with torch.autocast("cpu", torch.bfloat16):
            y = compute(layer, x).float()
        torch.testing.assert_close(y, expected, rtol=0.1, atol=0.05 * expected.abs().max().item())


def saved(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved], ids=["deepcopy", "pickle", "save"]
)
def test_copies_are_not_prepared(duplicate, always_terms):
    model = dynaconv.prepare_inference(network().train(), max_extra_mb=100)
    x = torch.randn(3, 32, 6, 6, dtype=torch.float64)
    twin = duplicate(model)
    assert len(dynaconv.inference_report(twin).kept) == 2
    assert not dynaconv.inference_report(model).kept
    torch.testing.assert_close(compute(twin, x), compute(model, x), **DOUBLE)
    assert dynaconv.restore_training(twin).training
    assert not model.training


def test_gradients_are_those_of_the_layers():
    model = network().eval()
    x = torch.randn(3, 32, 6, 6, dtype=torch.float64)
    model(x).square().sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    dynaconv.prepare_inference(model, max_extra_mb=100)
    model(x).square().sum().backward()
    assert all(torch.equal(parameter.grad, expected[name]) for name, parameter in model.named_parameters())
    assert not dynaconv.inference_report(model).kept


def test_inference_mode_all_along():
    with torch.inference_mode():
        model = dynaconv.prepare_inference(network(), max_extra_mb=100)
        x = torch.randn(3, 32, 6, 6, dtype=torch.float64)
        expected = model(x)
    x = x.clone()
    torch.testing.assert_close(compute(model, x), expected, **DOUBLE)


def test_memory_is_kept_to_the_byte(always_terms):
    model = network()
    layers = {name: model.get_submodule(name) for name in ("layer1.0", "layer1.3")}
    taken = {name: layer.saved_by_folding()[1] for name, layer in layers.items()}
    assert taken == {"layer1.0": 5 * 32 * 32 * 9 * 8, "layer1.3": 5 * 64 * 32 * 9 * 8}
    for budget, folded in (
        (0, ()),
        (taken["layer1.0"] - 1, ()),
        (taken["layer1.0"], ("layer1.0",)),
        (sum(taken.values()) - 1, ("layer1.0",)),
        (sum(taken.values()), ("layer1.0", "layer1.3")),
    ):
        report = dynaconv.inference_report(dynaconv.prepare_inference(model, budget / 1e6))
        assert report.folded == folded
        assert report.extra_mb == sum(taken[name] for name in folded) / 1e6
    for bad in (-1, float("nan")):
        with pytest.raises(DynaconvError, match="max_extra_mb="):
            dynaconv.prepare_inference(model, bad)


def test_the_report_says_what_was_done():
    model = dynaconv.prepare_inference(network(), max_extra_mb=100)
    report = dynaconv.inference_report(model)
    count, taken = model.layer1[0].plan.num_cells, 5 * 32 * 32 * 9 * 8 / 1e6
    assert str(report).startswith("layer1.0 (KWConv2d): branch folded, ")
    assert f"; 5 terms for {count} cells, {taken:.3f} MB" in str(report)
    assert "2 of 2 layers prepared" in str(report)
    assert report.branch_mb > 0
    model.train()
    assert "layer1.0 (KWConv2d): as it is" in str(dynaconv.inference_report(model))
    assert not dynaconv.inference_report(nn.Conv2d(1, 1, 1)).layers
    assert not dynaconv.prepare_inference(nn.Conv2d(1, 1, 1)).training


def test_a_network_taken_apart_says_so():
    with pytest.raises(LostWarehouseError):
        dynaconv.prepare_inference(network().layer1)


def compiling(method: str) -> nn.Module:
    fields = {"odconv": {"num_kernels": 2}, "fdconv": {"channels_above": 1}}.get(method, {})
    return animate(dynaconv.convert(Network(16), config_types()[method](**fields)))


@pytest.mark.parametrize(
    ("method", "prepared"), [*((m, False) for m in config_types()), *((m, True) for m in PREPARED)]
)
def test_one_graph_for_any_batch(method, prepared):
    """In float64: in float32 on the CPU nn.Conv2d itself has two graphs, below and from 16 samples."""
    model = compiling(method).double().eval()
    if prepared:
        dynaconv.prepare_inference(model, max_extra_mb=100)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch in (2, 5, 16):
            x = torch.randn(batch, 16, 8, 8, dtype=torch.float64)
            torch.testing.assert_close(compute(compiled, x), compute(model, x), **DOUBLE)


def test_training_compiles_to_one_graph():
    model = compiling("kernel_warehouse").train()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch in (2, 5, 16):
            model.zero_grad()
            compiled(torch.randn(batch, 16, 8, 8)).square().sum().backward()
            assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["load", "temperature", "training"])
def test_what_is_compiled_follows(name):
    """Changes by a call of the network or of a layer; others it does not see, and the docstring says so."""
    model = dynaconv.prepare_inference(network(), max_extra_mb=100)
    torch.compiler.reset()
    compiled = torch.compile(model, dynamic=False, backend="eager")
    x = torch.randn(3, 32, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(compute(compiled, x), compute(model, x), **DOUBLE)
    CHANGES[name](model)
    model.eval()
    torch.testing.assert_close(compute(compiled, x), compute(copy.deepcopy(model), x), **DOUBLE)
