"""KernelWarehouse layers against the oracle, and the contract of every dynamic layer."""

import copy
import io
import itertools
import pickle

import pytest
import torch
from torch import nn

import dynaconv
from dynaconv import KernelWarehouseConfig, KWConv1d, KWConv2d, KWConv3d, KWLinear
from dynaconv.errors import DynaconvError, LostWarehouseError
from dynaconv.nn import Warehouses
from tests import oracles

STATIC = {KWConv1d: nn.Conv1d, KWConv2d: nn.Conv2d, KWConv3d: nn.Conv3d}
ARGUMENTS = [
    {},
    {"stride": 2, "padding": 1},
    {"padding": "same", "dilation": 2},
    {"padding": "same", "kernel_size": 2},
    {"padding": "valid", "bias": False},
    {"groups": 2, "padding": 2},
    {"groups": 4, "padding": 1, "stride": 2},
    {"padding": 1, "padding_mode": "circular"},
    {"padding": 2, "padding_mode": "reflect"},
    {"padding": 1, "padding_mode": "replicate", "dilation": 2},
]


def frozen_to(layer, tau):
    dynaconv.set_temperature(layer, tau)
    return layer


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(("kind", "arguments"), list(itertools.product(STATIC, ARGUMENTS)))
def test_kernels_and_convolution_agree_with_static_layers(kind, arguments, device):
    """Each sample's output is what nn.ConvNd computes with that sample's kernel."""
    arguments = {"kernel_size": 3, **arguments}
    layer = kind(4, 8, **arguments, device=device, dtype=torch.float64).eval()
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    x = torch.randn(3, 4, *(7, 6, 5)[: kind.dims], device=device, dtype=torch.float64)
    static = STATIC[kind](4, 8, **arguments, device=device, dtype=torch.float64)
    y, kernels = layer(x), layer.kernels(x)
    for sample in range(3):
        with torch.no_grad():
            static.weight.copy_(kernels[sample])
            if layer.bias is not None:
                static.bias.copy_(layer.bias)
        torch.testing.assert_close(y[sample], static(x[sample : sample + 1])[0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(layer(x[sample]), y[sample], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("normaliser", "added"), [("unit", 0.0), ("paper", 1e-3)])
def test_a_layer_is_the_equation(normaliser, added):
    config = KernelWarehouseConfig(normaliser=normaliser)
    layer = frozen_to(KWConv2d(4, 6, 3, padding=1, dtype=torch.float64, config=config).eval(), 0.25)
    x = torch.randn(2, 4, 4, 3, dtype=torch.float64)
    logits = layer.attention.compute_logits(x.mean((2, 3)))
    attention = oracles.contrasting(logits, layer.attention.beta, 0.25, added)
    kernels = oracles.mixed_kernels(attention, layer.cells, layer.plan.grid, (3, 3))
    expected = oracles.conv(x, kernels, (1, 1), (1, 1), (1, 1), 1) + layer.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("budget", [1, 2])
def test_at_temperature_one_it_is_a_static_convolution(budget):
    layer = frozen_to(KWConv2d(4, 8, 3, config=KernelWarehouseConfig(budget=budget)), 1)
    kernels = layer.kernels(torch.randn(5, 4, 6, 6))
    assert torch.equal(kernels, kernels[:1].expand_as(kernels))
    static = layer.cells[:: int(budget)].reshape(3, 3, 2, 4, 4).permute(2, 3, 4, 0, 1).reshape(8, 4, 3, 3)
    torch.testing.assert_close(kernels[0], static)


def test_one_mixture_is_vanilla_dynamic_convolution():
    """m = 1 with a warehouse of its own: W(x) = sum_j alpha_j(x) W_j over whole kernels."""
    layer = KWConv2d(4, 6, 3, config=KernelWarehouseConfig(budget=4, partition="none"), dtype=torch.float64).eval()
    assert layer.plan.num_mixtures == 1
    assert layer.cells.shape == (4, 6, 4, 3, 3)
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    attention = layer.attention(x.mean((2, 3)))[:, 0]
    torch.testing.assert_close(layer.kernels(x), torch.einsum("bn,noihw->boihw", attention, layer.cells))


def test_below_budget_one_unassigned_mixtures_start_as_zero():
    layer = frozen_to(KWConv2d(8, 8, 1, config=KernelWarehouseConfig(budget=0.5, cell_scale=0.5)), 1)
    blocks = layer.kernels(torch.randn(1, 8, 2, 2))[0, :, :, 0, 0].reshape(2, 4, 2, 4).abs().sum((1, 3))
    assert (blocks > 0).tolist() == [[True, False], [False, True]]


STARTS = {
    "one-to-one": {},
    "nonnegative": {"attention": "nonnegative"},
    "b = 2": {"budget": 2},
    "several": {"budget": 2, "assignment": "several"},
    "all": {"assignment": "all"},
    "pairs": {"budget": 0.5, "cell_scale": 0.5, "assignment": "pairs"},
    "private": {"sharing": "none"},
    "private, b = 2": {"sharing": "none", "budget": 2},
    "basis": {"nonlocal_basis_ratio": 0.25, "budget": 2},
    "layer norm": {"norm": "layer"},
}


@pytest.mark.parametrize("name", STARTS)
def test_attention_starts_near_the_assignment(name):
    """Without temperature, and up to the branch's random weights: rows of beta over their sums."""
    layer = KWConv2d(8, 16, 3, config=KernelWarehouseConfig(**STARTS[name]), dtype=torch.float64)
    router = layer.attention
    attention = router(torch.randn(64, 8, dtype=torch.float64))
    expected = (router.beta / router.beta.sum(1, keepdim=True))[:, :-1]
    if router.columns is not None:
        expected = torch.zeros(attention.shape[1:]).scatter(1, router.columns, expected)
    assert (attention - expected).abs().sum(-1).mean() < 0.5
    nn.init.zeros_(router.fc2.weight)
    exact = router(torch.randn(2, 8, dtype=torch.float64))
    torch.testing.assert_close(exact, expected.to(exact).expand_as(exact), rtol=2e-3, atol=1e-9)


@pytest.mark.parametrize("name", STARTS)
def test_the_papers_start_is_zero(name):
    layer = KWConv2d(8, 16, 3, config=KernelWarehouseConfig(branch_start=0, **STARTS[name]))
    bias = layer.attention.fc2.bias if layer.attention.basis is None else layer.attention.basis_bias
    assert not bias.any()


@pytest.mark.parametrize("attention", ["softmax", "sigmoid"])
def test_a_start_of_other_functions_is_the_papers(attention):
    assert not KWConv2d(8, 16, 3, config=KernelWarehouseConfig(attention=attention)).attention.fc2.bias.any()


def test_below_budget_one_waiting_mixtures_borrow_a_cell_each():
    config = KernelWarehouseConfig(budget=0.25, cell_scale=0.5)
    layer = KWConv2d(8, 16, 3, config=config, dtype=torch.float64)
    nn.init.zeros_(layer.attention.fc2.weight)
    attention = layer.attention(torch.randn(1, 8, dtype=torch.float64))[0]
    waiting = layer.attention.beta[:, -1] == 1
    assert waiting.sum() == 27
    torch.testing.assert_close(attention.abs().sum(1), torch.ones(36, dtype=torch.float64), rtol=2e-3, atol=0)
    assert ((attention.abs() > 0.5).sum(1) == 1).all()
    assert (attention[~waiting] >= 0).all()
    assert 3 < (attention[waiting].sum(1) < 0).sum() < 24
    uses = (attention[waiting].abs() > 0.5).sum(0)
    assert (uses == 3).all()  # 27 mixtures over 9 cells, each as often
    layer.reset_parameters()
    nn.init.zeros_(layer.attention.fc2.weight)
    assert not torch.equal(layer.attention(torch.randn(1, 8, dtype=torch.float64))[0], attention)  # drawn anew


def test_waiting_mixtures_borrow_without_sign_where_attention_has_none():
    layer = KWConv2d(8, 16, 3, config=KernelWarehouseConfig(budget=0.25, cell_scale=0.5, attention="nonnegative"))
    nn.init.zeros_(layer.attention.fc2.weight)
    assert (layer.attention(torch.randn(1, 8))[0].sum(1) > 0.9).all()


@pytest.mark.parametrize("value", [-1, True, "paper", float("inf"), float("nan")])
def test_a_start_that_is_none_is_refused(value):
    with pytest.raises(DynaconvError, match=r"branch_start=.*expected a number of at least 0"):
        KernelWarehouseConfig(branch_start=value)


@pytest.mark.parametrize("attention", ["contrasting", "softmax", "sigmoid", "nonnegative"])
@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("assignment", ["one-to-one", "all", "none"])
def test_options_train_every_parameter(attention, norm, assignment):
    config = KernelWarehouseConfig(attention=attention, norm=norm, assignment=assignment)
    layer = KWConv2d(4, 8, 3, config=config)
    layer(torch.randn(4, 4, 5, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("config", [{"sharing": "none"}, {"nonlocal_basis_ratio": 0.25, "budget": 2}])
def test_private_cells_and_low_rank_basis(config):
    layer = KWConv2d(4, 8, 3, config=KernelWarehouseConfig(**config), dtype=torch.float64)
    x = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    assert layer.attention(x.mean((2, 3))).shape == (3, layer.plan.num_mixtures, layer.plan.num_cells)
    layer(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters() if p.numel())
    assert sum(p.numel() for p in layer.attention.parameters()) == layer.plan.branch_parameters


@pytest.mark.parametrize("shape", [(16,), (3, 16), (3, 5, 16), (2, 3, 4, 16), (0, 5, 16), (2, 0, 16)])
def test_linear_takes_any_leading_shape(shape):
    layer = KWLinear(16, 24).eval()
    x = torch.randn(shape)
    assert layer(x).shape == (*shape[:-1], 24)
    if x.dim() > 1 and x.numel():
        expected = torch.einsum("b...i,boi->b...o", x, layer.kernels(x)) + layer.bias
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_small_batches(batch, training, device):
    layer = KWConv2d(4, 8, 3, padding=1, device=device).train(training)
    assert layer(torch.randn(batch, 4, 5, 5, device=device)).shape == (batch, 8, 5, 5)


def test_one_sample_in_training_leaves_the_running_statistics():
    layer = KWConv2d(4, 8, 3)
    before = layer.attention.norm.running_mean.clone()
    layer(torch.randn(1, 4, 5, 5))
    assert torch.equal(layer.attention.norm.running_mean, before)
    layer(torch.randn(2, 4, 5, 5))
    assert not torch.equal(layer.attention.norm.running_mean, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtypes(dtype, device):
    layer = KWConv2d(4, 8, 3, device=device, dtype=dtype)
    assert layer(torch.randn(3, 4, 6, 6, device=device, dtype=dtype)).dtype == dtype


def test_autocast(device):
    layer = KWConv2d(4, 8, 3, device=device)
    x = torch.randn(3, 4, 6, 6, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)
    y.float().sum().backward()
    assert layer.cells.grad.dtype == torch.float32


def test_temperature_is_saved_and_checked():
    layer = frozen_to(KWConv2d(4, 8, 3), 0.375)
    other = KWConv2d(4, 8, 3)
    other.load_state_dict(layer.state_dict())
    assert dynaconv.get_temperature(other) == 0.375
    with pytest.raises(DynaconvError, match=r"temperature 1\.5 is out of range"):
        dynaconv.set_temperature(layer, 1.5)
    assert dynaconv.get_temperature(nn.Conv2d(1, 1, 1)) is None
    assert [dynaconv.temperature_at(layer, p) for p in (-1, 0, 0.25, 1, 3)] == [1, 1, 0.75, 0, 0]


def network(root=nn.Sequential):
    body = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 16, 3)]
    return dynaconv.convert(root(*body), KernelWarehouseConfig(sharing="model")).eval()


class Named(nn.Module):
    """A root that is no container, so that the warehouses are registered after the layers that borrow from them."""

    def __init__(self, *layers):
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("root", [nn.Sequential, Named])
@pytest.mark.parametrize(
    "duplicate",
    [
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        lambda m: torch.load(_saved(m), weights_only=False),
    ],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies_of_a_network_stay_linked(root, duplicate):
    model = network(root)
    twin = duplicate(model)
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(twin(x), model(x))
    with torch.no_grad():
        for house in twin.warehouses.values():
            house.cells.zero_()
    assert not torch.allclose(twin(x), model(x))
    assert {*twin.state_dict()} == {*model.state_dict()}
    assert len({id(layer.cells) for layer in dynaconv.dynamic_layers(twin)}) == 1


def _saved(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return buffer


def test_a_layer_without_its_warehouse_says_so():
    layer = copy.deepcopy(network()[1])
    with pytest.raises(LostWarehouseError, match="copy or save the whole network"):
        layer(torch.randn(1, 8, 9, 9))
    alone = copy.deepcopy(KWConv2d(4, 8, 3))
    assert alone(torch.randn(1, 4, 5, 5)).shape == (1, 8, 3, 3)


def test_shared_cells_are_saved_once():
    model = network()
    cells = [k for k in model.state_dict() if k.endswith("cells")]
    assert cells == ["warehouses.model_conv.cells"]
    assert isinstance(model.warehouses, Warehouses)


def test_dtype_change_reaches_shared_cells():
    model = network().double()
    assert model(torch.randn(2, 3, 9, 9, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.slow
def test_compiles_without_graph_breaks():
    model = network(Named)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(compiled(x), model(x))


def test_whole_network_to_channels_last():
    model = network()
    x = torch.randn(2, 3, 9, 9)
    before = model(x)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last)), before)


@pytest.mark.parametrize(("kind", "size"), [(KWConv1d, (4,)), (KWConv2d, (2, 5)), (KWConv3d, (2, 5, 5))])
@pytest.mark.parametrize("batch", [0, 1, 2])
def test_inputs_smaller_than_the_kernel(kind, size, batch):
    with pytest.raises(DynaconvError, match="needs at least"):
        kind(4, 4, 3, dilation=2)(torch.randn(batch, 4, *size))


def test_temperature_does_not_recompile_and_batch_is_dynamic():
    layer = KWConv2d(4, 8, 3).eval()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=count)
    for batch, tau in ((2, 0.0), (3, 0.5), (5, 0.25)):
        layer.set_temperature(tau)
        x = torch.randn(batch, 4, 32, 32)
        torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1


def test_channels_last():
    layer = KWConv2d(4, 8, 3).eval()
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(layer(x.contiguous(memory_format=torch.channels_last)), layer(x))


def test_initial_spread_of_the_kernels():
    """Kaiming, fan-out: at temperature one a 3x3 kernel of O outputs has variance 2 / (9 O)."""
    layer = frozen_to(KWConv2d(64, 128, 3), 1)
    kernel = layer.kernels(torch.randn(1, 64, 3, 3))
    assert kernel.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KWConv2d(4, 6, 3, groups=3), "groups=3 must divide in_channels=4"),
        (lambda: KWConv2d(4, 8, (3, 3, 3)), r"kernel_size=\(3, 3, 3\); expected .* or 2 of them"),
        (lambda: KWConv2d(4, 8, 3, stride=0), "stride=0"),
        (lambda: KWConv2d(4, 8, 3, padding="some"), "padding='some'"),
        (lambda: KWConv2d(4, 8, 3, padding_mode="odd"), "padding_mode='odd'"),
        (lambda: KWConv2d(4, 8, 3)(torch.randn(2, 5, 8, 8)), "got 5 channels; expected 4"),
        (lambda: KWConv2d(4, 8, 3)(torch.randn(8, 8)), "expected 4 dimensions"),
        (lambda: KWLinear(4, 8)(torch.randn(2, 5)), "expected 4 features last"),
        (lambda: KWConv2d(4, 8, 3, plan=KWConv2d(4, 8, 3).plan), "plan and warehouse belong together"),
    ],
)
def test_bad_requests(make, message):
    with pytest.raises(DynaconvError, match=message):
        make()


def test_repr_shows_arguments_and_warehouse():
    text = repr(KWConv2d(4, 8, 3, padding=1, groups=2, bias=False))
    assert "4, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=2, bias=False, warehouse=" in text
