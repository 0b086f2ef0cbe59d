"""What every layer of every registered method does: one test a promise, over the table of :mod:`tests.nn.cases`."""

from __future__ import annotations

import copy
import dataclasses
import io
import pickle

import pytest
import torch
from torch import nn

import dynaconv
from dynaconv.convert import config_types
from dynaconv.errors import DynaconvError
from tests.nn.cases import CASES, METHODS

TEMPERATURES = {"kernel_warehouse": (1.0, 0.0), "odconv": (30.0, 1.0), "dyconv": (30.0, 1.0)}
every_case = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def saved_and_loaded(layer):
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def test_every_method_is_here():
    assert {*METHODS} == {*config_types()}
    for method, config_type in config_types().items():
        assert METHODS[method]
        assert all(type(case.config) is config_type for case in METHODS[method])


@every_case
@pytest.mark.parametrize("batch", [1, 3])
def test_every_parameter_has_a_gradient(case, batch, device):
    """Also with one sample in training, where BatchNorm of a pooled input has no variance."""
    layer = case.make(device=device).train()
    x = case.input(batch, device=device).requires_grad_()
    layer(x).square().sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.any()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.shape == parameter.shape, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_case
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_of_none(case, training, device):
    layer = case.make(device=device).train(training)
    x = case.input(0, device=device).requires_grad_()
    y = layer(x)
    assert y.shape == (0, *layer(case.input(2, device=device)).shape[1:])
    y.sum().backward()
    assert x.grad.shape == x.shape
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


@every_case
def test_a_sample_without_batch_is_a_batch_of_one(case, device):
    layer = case.make(device=device).eval()
    x = case.input(1, device=device)
    single = x[0, 0] if x.dim() == 3 and not (case.is_gate or case.is_convolution) else x[0]
    expected = layer(single.unsqueeze(0))[0]
    torch.testing.assert_close(layer(single), expected, **CLOSE)


@every_case
@pytest.mark.parametrize("training", [True, False])
def test_samples_do_not_meet(case, training, device):
    """In evaluation each sample's output is its own; in training only BatchNorm in a branch may see the others."""
    layer = case.make(device=device).train(training)
    if training and any(isinstance(m, nn.BatchNorm1d) for m in layer.modules()):
        pytest.skip("BatchNorm in its branch")
    x = case.input(3, device=device)
    y = layer(x)
    for sample in range(3):
        torch.testing.assert_close(y[sample], layer(x[sample : sample + 1])[0], **CLOSE)


@every_case
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer)), saved_and_loaded],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies(case, duplicate, device):
    layer = case.make(device=device).eval()
    x = case.input(2, device=device)
    y = layer(x)
    twin = duplicate(layer)
    assert torch.equal(twin(x), y)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert not torch.equal(twin(x), y)
    assert torch.equal(layer(x), y)


@every_case
def test_state_goes_into_a_fresh_layer(case, device):
    layer, fresh = case.make(device=device).eval(), case.make(device=device).eval()
    x = case.input(2, device=device)
    assert not torch.equal(fresh(x), layer(x))
    layer.set_temperature(0.625)
    fresh.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(fresh(x), layer(x))
    assert fresh.get_temperature() == layer.get_temperature()


@every_case
def test_made_without_memory_and_filled_tensor_by_tensor(case):
    """As transformers' ``from_pretrained`` does it: no hook runs, and what a file has nothing for stays as it is."""
    full, bare = case.make().eval(), case.make(device="meta").eval()
    state = full.state_dict()
    for module_name, module in bare.named_modules():
        for table in (module._parameters, module._buffers):
            for name in [name for name, tensor in table.items() if tensor is not None]:
                value = state.pop(f"{module_name}.{name}".removeprefix("."))
                table[name] = nn.Parameter(value) if table is module._parameters else value
    assert not state
    x = case.input(2)
    torch.testing.assert_close(bare(x), full(x), **CLOSE)


@every_case
def test_resetting_starts_afresh(case):
    layer = case.make()
    if not hasattr(layer, "reset_parameters"):
        pytest.skip("made of torch.nn's layers alone")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 10_000
    layer.reset_parameters()
    kept = [name for name, value in layer.named_parameters() if value.abs().max() > 8_000]
    assert not kept
    assert not any(value.isnan().any() for value in layer.state_dict().values())


@every_case
def test_autocast(case, device):
    layer = case.make(device=device).eval()
    x = case.input(3, device=device)
    expected = layer(x)
    with torch.autocast(device.type, torch.bfloat16):
        y = layer(x)
    assert y.isfinite().all()
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.03 * expected.abs().max().item())
    y.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_dtypes(case, dtype, training, device):
    layer = case.make(device=device).train(training)
    x = case.input(3, device=device)
    expected = layer(x)
    layer.to(dtype)
    y = layer(x.to(dtype))
    assert y.dtype == dtype
    atol = 0.1 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(y.float(), expected, rtol=atol, atol=atol * expected.abs().max().item())
    y.square().sum().backward()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in layer.parameters())
    temperature = layer.get_temperature()
    assert temperature in (None, 0.0, 1.0)


@every_case
def test_channels_last(case, device):
    """Input and layer, as ``model.to(memory_format=...)`` does it; formats for maps leave other layers alone."""
    x = case.input(2, device=device)
    layout = torch.channels_last_3d if x.dim() == 5 else torch.channels_last
    layer = case.make(device=device).eval()
    expected = layer(x)
    x = x.contiguous(memory_format=layout) if x.dim() > 3 else x
    torch.testing.assert_close(layer(x), expected, **CLOSE)
    torch.testing.assert_close(layer.to(memory_format=layout)(x), expected, **CLOSE)


@every_case
def test_strided_inputs(case, device):
    """Slices and transposes, whose memory is not in order."""
    layer = case.make(device=device).eval()
    x = case.input(6, device=device)[::2].transpose(-1, 1).contiguous().transpose(-1, 1)
    torch.testing.assert_close(layer(x), layer(x.contiguous()), **CLOSE)


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items() if len(case.size) != 3])
def test_compiles_to_one_graph_for_any_batch(case):
    """Layers of images are compiled in a network, see test_inference.py."""
    layer = case.make().eval()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=count)
    for batch, temperature in ((2, 1.0), (5, 0.5)):
        layer.set_temperature(temperature)
        x = case.input(batch)
        torch.testing.assert_close(compiled(x), layer(x), **CLOSE)
    assert len(graphs) == 1


@every_case
def test_temperature(case):
    layer = case.make()
    ends = TEMPERATURES.get(layer.config.method)
    if ends is None:
        assert layer.get_temperature() is None
        assert [layer.temperature_at(p) for p in (0, 0.5, 1)] == [None] * 3
        layer.set_temperature(-1)  # nothing to set
        assert not [name for name in layer.state_dict() if name.endswith("temperature")]
        return
    first, last = ends
    assert layer.get_temperature() == last  # a fresh layer is as after the schedule
    assert [layer.temperature_at(p) for p in (-1, 0, 0.5, 1, 2)] == [first, first, (first + last) / 2, last, last]
    outputs = []
    x = case.input(2)
    for value in ends:
        dynaconv.set_temperature(layer.eval(), value)
        assert dynaconv.get_temperature(layer) == value
        assert layer.state_dict()["attention.temperature"].item() == value
        outputs.append(layer(x))
    assert not torch.allclose(*outputs)
    with pytest.raises(DynaconvError, match="temperature -1 is out of range"):
        layer.set_temperature(-1)
    with pytest.raises(DynaconvError, match="temperature nan is out of range"):
        layer.set_temperature(float("nan"))


@every_case
def test_fields_beside_the_arguments_are_the_config(case):
    if case.config.method == "kernel_warehouse":
        pytest.skip("its layers take config= alone")
    torch.manual_seed(1)
    layer = case.kind(*case.arguments, **case.options, config=case.config).eval()
    torch.manual_seed(1)
    fields = {f.name: getattr(case.config, f.name) for f in dataclasses.fields(case.config)}
    other = case.kind(*case.arguments, **case.options, **fields).eval()
    assert other.config == layer.config == case.config
    x = case.input(2)
    assert torch.equal(other(x), layer(x))


@every_case
def test_configs_go_through_dictionaries(case):
    assert dynaconv.config_from_dict(case.config.to_dict()) == case.config


@every_case
def test_bad_inputs(case):
    layer, x = case.make(), case.input(2)
    with pytest.raises(DynaconvError, match=rf"{case.kind.__name__} got .*expected"):
        layer(x[..., :-1] if x.dim() == 3 and not (case.is_gate or case.is_convolution) else x[:, :-1])
    with pytest.raises(DynaconvError, match=rf"{case.kind.__name__} got .*expected"):
        layer(torch.tensor(1.0) if not (case.is_gate or case.is_convolution) else x[None])


@every_case
def test_bad_arguments(case):
    others = [cases[0].config for method, cases in METHODS.items() if method != case.config.method]
    for other in others:
        with pytest.raises(DynaconvError, match=f"config is a {type(other).__name__}; expected a"):
            case.kind(*case.arguments, config=other)
    if case.config.method != "kernel_warehouse":
        with pytest.raises(DynaconvError, match=r"unknown arguments \['colour'\].* has the fields"):
            case.kind(*case.arguments, colour="red")
    with pytest.raises(DynaconvError, match="unknown fields"):
        type(case.config).from_dict({"colour": "red"})
    if case.is_convolution:
        with pytest.raises(DynaconvError, match="groups=3 must divide"):
            case.make(groups=3)
        with pytest.raises(DynaconvError, match="stride=0"):
            case.make(stride=0)
        with pytest.raises(DynaconvError, match="padding_mode='odd'"):
            case.make(padding_mode="odd")


@every_case
def test_repr_says_what_it_is(case):
    text = repr(case.make())
    assert text.startswith(f"{case.kind.__name__}(")
    assert ", ".join(map(str, case.arguments[:2])) in text or case.is_gate
    assert str(case.arguments[0]) in text


@every_case
def test_it_says_that_it_has_no_one_weight(case):
    """Parents that read a child's weight (timm's attention blocks) get told what to do; a parameter is returned."""
    layer = case.make()
    if "weight" in dict(layer.named_parameters()):
        assert layer.weight.requires_grad
        return
    with pytest.raises(AttributeError, match="its kernel depends on the input"):
        _ = layer.weight


@every_case
def test_madds(case):
    """Counted without running; a batch of two costs twice a batch of one."""
    layer = case.make()
    one, two = (layer.count_madds((batch, *case.size)) for batch in (1, 2))
    assert 0 < 2 * one.total == two.total
