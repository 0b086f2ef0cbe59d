"""A BatchNorm that a layer computes: the same function, for every method, and never twice or not at all."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import threading
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import dynaconv
from dynaconv import KernelWarehouseConfig, KWConv2d, ODConv2d
from dynaconv.errors import DynaconvError
from dynaconv.nn import CondLinear, DCDLinear, KWLinear
from dynaconv.nn.dressing import is_dressed
from tests.nn.cases import CASES, Case, animate

DOUBLE = {"rtol": 1e-12, "atol": 1e-12}
SINGLE = {"rtol": 1e-5, "atol": 1e-5}
NORMS = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
FOLDING = {name: case for name, case in CASES.items() if case.kind.folds_norm}
every_case = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in FOLDING.items()])


def lively(norm: nn.Module) -> nn.Module:
    """A norm in evaluation that has seen something."""
    with torch.no_grad():
        for name in ("weight", "running_var"):
            if getattr(norm, name) is not None:
                getattr(norm, name).uniform_(0.5, 1.5)
        for name in ("bias", "running_mean"):
            if getattr(norm, name) is not None:
                getattr(norm, name).normal_()
    return norm.eval()


class Block(nn.Module):
    """Layer, norm, and a function that changes its input in place."""

    def __init__(self, layer: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.bn, self.act = layer, lively(norm), nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


def compute(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module(x)


def folded(module: nn.Module) -> dict[str, str]:
    return dynaconv.inference_report(module).norms


def reasons(module: nn.Module) -> dict[str, str | None]:
    return {layer.name: layer.why_no_norm for layer in dynaconv.inference_report(module).layers}


def channels_of(case: Case) -> int:
    return case.arguments[1]


def block_of(case: Case, **options) -> Block:
    dims = getattr(case.kind, "dims", 0)
    return Block(case.make(**options), NORMS[dims](channels_of(case), dtype=options.get("dtype"))).eval()


def input_of(case: Case, batch: int, **options) -> torch.Tensor:
    size = case.size if case.is_convolution else case.size[-1:]
    return torch.randn(batch, *size, **options)


def small(kind: type = ODConv2d, norm: type[nn.Module] = nn.BatchNorm2d, **options) -> Block:
    fields = {"budget": 2, "min_hidden": 4} if kind is KWConv2d else {"num_kernels": 2}
    layer = kind(6, 9, 3, padding=1, config=kind_config(kind)(**fields), **options)
    return Block(animate(layer), norm(9)).double().eval()


def kind_config(kind: type):
    return getattr(kind, "config_type", KernelWarehouseConfig)


X = {"dtype": torch.float64}


@contextlib.contextmanager
def norm_must_not_act(norm: nn.Module):
    """Fails if the norm normalises."""
    weight, norm.num_features = norm.num_features, None
    check, norm._check_input_dim = norm._check_input_dim, None
    try:
        yield
    finally:
        norm.num_features = weight
        del norm._check_input_dim
        assert norm._check_input_dim == check


# ---- the same function ----


@pytest.mark.parametrize("biased", [True, False])
@every_case
def test_every_layer_with_its_norm(case, biased):
    for dtype, close in ((torch.float64, DOUBLE), (torch.float32, SINGLE)):
        block = block_of(case, dtype=dtype, bias=biased)
        for batch in (0, 1, 5):
            x = input_of(case, batch, dtype=dtype)
            expected = compute(block, x)
            dynaconv.prepare_inference(block, fold_norms="all")
            assert folded(block) == {"conv": "bn"}
            with norm_must_not_act(block.bn):
                y = compute(block, x)
            torch.testing.assert_close(y, expected, **close)
            dynaconv.restore_training(block)
            assert torch.equal(compute(block, x), expected)


@every_case
def test_backends_and_layouts(case):
    block = block_of(case, dtype=torch.float64)
    x = input_of(case, 3, dtype=torch.float64)
    expected = compute(block, x)
    dynaconv.prepare_inference(block, fold_norms="all")
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for layout in (torch.contiguous_format, formats.get(x.dim(), torch.contiguous_format)):
        for backend in ("auto", "textbook", "grouped", "loop", "matmul", "outputs"):
            with dynaconv.use_backend(backend), norm_must_not_act(block.bn):
                torch.testing.assert_close(compute(block, x.contiguous(memory_format=layout)), expected, **DOUBLE)


@pytest.mark.parametrize("options", [{"groups": 6}, {"groups": 3}, {"stride": 2}], ids=str)
@pytest.mark.parametrize("kind", [KWConv2d, ODConv2d, dynaconv.DYConv2d, dynaconv.CGConv2d, dynaconv.WeightNetConv2d])
def test_groups(kind, options):
    block = Block(animate(kind(6, 6, 3, padding=1, **options)), nn.BatchNorm2d(6)).double().eval()
    x = torch.randn(2, 6, 5, 5, **X)
    expected = compute(block, x)
    dynaconv.prepare_inference(block, fold_norms="all")
    with norm_must_not_act(block.bn):
        torch.testing.assert_close(compute(block, x), expected, **DOUBLE)


@pytest.mark.parametrize("kernels", [1, 2])
def test_odconv_of_one_kernel(kernels):
    block = Block(animate(ODConv2d(6, 9, 1, num_kernels=kernels)), nn.BatchNorm2d(9)).double().eval()
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 6, 5, 5, **X).contiguous(memory_format=layout)
        expected = compute(dynaconv.restore_training(block), x)
        dynaconv.prepare_inference(block)
        with norm_must_not_act(block.bn):
            torch.testing.assert_close(compute(block, x), expected, **DOUBLE)


def test_folded_cells_and_norm(monkeypatch):
    monkeypatch.setattr("dynaconv.ops.folding.Terms.pay", lambda *arguments: True)
    layer = KWConv2d(32, 32, 3, config=KernelWarehouseConfig(budget=4, min_hidden=4))
    block = Block(animate(layer), nn.BatchNorm2d(32)).double().eval()
    x = torch.randn(3, 32, 6, 6, **X)
    expected = compute(block, x)
    report = dynaconv.inference_report(dynaconv.prepare_inference(block, max_extra_mb=100))
    assert report.folded == ("conv",)
    assert report.norms == {"conv": "bn"}
    assert "terms for" in str(report)
    assert "; bn folded, " in str(report)
    assert "1 norms folded (0.001 MB)" in str(report)
    with norm_must_not_act(block.bn):
        torch.testing.assert_close(compute(block, x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", [KWLinear, CondLinear, DCDLinear])
def test_linear_layers_fold_where_channels_are_features(kind):
    fields = {"linear_rank": 4} if kind is DCDLinear else {}
    layer = kind(8, 5, config=kind_config(kind)(**fields))
    block = Block(animate(layer), nn.BatchNorm1d(5)).double().eval()
    rows, positions = torch.randn(3, 8, **X), torch.randn(3, 5, 8, **X)  # as many positions as features
    expected = [compute(block, x) for x in (rows, positions)]
    dynaconv.prepare_inference(block, fold_norms="all")
    with norm_must_not_act(block.bn):
        torch.testing.assert_close(compute(block, rows), expected[0], **DOUBLE)
    torch.testing.assert_close(compute(block, positions), expected[1], **DOUBLE)


def test_unbatched_input_is_as_ever():
    """(O, L) without a batch is, to BatchNorm1d, L channels."""
    block = Block(animate(dynaconv.ODConv1d(6, 9, 1)), nn.BatchNorm1d(9)).double().eval()
    x = torch.randn(6, 9, **X)
    expected = compute(block, x)
    torch.testing.assert_close(compute(dynaconv.prepare_inference(block), x), expected, **DOUBLE)


# ---- norms of other kinds ----


def norm_act(act: bool, **options) -> nn.Module:
    from timm.layers import BatchNormAct2d

    return BatchNormAct2d(9, apply_act=act, act_layer=nn.SiLU, drop_layer=lambda: nn.Dropout(0.5), **options)


def frozen_norm_act() -> nn.Module:
    from timm.layers import FrozenBatchNormAct2d

    return FrozenBatchNormAct2d(9, act_layer=nn.SiLU)


def sync_norm_act() -> nn.Module:
    from timm.layers import convert_sync_batchnorm

    return convert_sync_batchnorm(norm_act(True))


OTHER = {
    "act": lambda: norm_act(True),
    "no act": lambda: norm_act(False),
    "act without affine": lambda: norm_act(True, affine=False),
    "frozen act": frozen_norm_act,
    "sync act": sync_norm_act,
    "frozen": lambda: FrozenBatchNorm2d(9),
    "sync": lambda: nn.SyncBatchNorm(9),
    "without affine": lambda: nn.BatchNorm2d(9, affine=False),
    "large eps": lambda: nn.BatchNorm2d(9, eps=0.5),
    "cumulative": lambda: nn.BatchNorm2d(9, momentum=None),
}


@pytest.mark.parametrize("make", OTHER.values(), ids=OTHER)
def test_other_norms(make):
    block = Block(small().conv, make().double()).eval()
    x = torch.randn(2, 6, 5, 5, **X)
    expected = compute(block, x)
    dynaconv.prepare_inference(block)
    assert folded(block) == {"conv": "bn"}
    y = compute(block, x)
    torch.testing.assert_close(y, expected, **DOUBLE)
    mean, block.bn.running_mean = block.bn.running_mean, None  # nobody reads it
    with pytest.raises((RuntimeError, AttributeError, TypeError, ValueError)):
        block.bn(expected)
    block.bn.running_mean = mean
    torch.testing.assert_close(compute(block, x), expected, **DOUBLE)


class Doubled(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


REFUSED = {
    "subclass": (lambda: Doubled(9).double(), "its output goes to a Doubled"),
    "group": (lambda: nn.GroupNorm(3, 9).double(), "its output goes to a GroupNorm"),
    "statistics": (lambda: nn.BatchNorm2d(9, track_running_stats=False).double(), "bn has no running statistics"),
    "type": (lambda: nn.BatchNorm2d(9), "bn has another type or device than the layer"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_norms_that_stay(make, reason):
    block = small()
    block.bn = make()
    block.eval()
    dynaconv.prepare_inference(block)
    assert not folded(block)
    assert not is_dressed(block.bn)
    assert reasons(block) == {"conv": reason}
    assert f"no norm folded: {reason}" in str(dynaconv.inference_report(block))


def test_half_precision_stays():
    block = small().bfloat16()
    x = torch.randn(2, 6, 5, 5).bfloat16()
    dynaconv.prepare_inference(block, fold_norms=False)
    expected = compute(block, x)
    dynaconv.prepare_inference(block)
    assert torch.equal(compute(block, x), expected)
    assert reasons(block) == {"conv": "bn would be rounded to torch.bfloat16"}


def test_autocast_leaves_the_norm_to_itself():
    block = small().float()
    x = torch.randn(2, 6, 5, 5)
    dynaconv.prepare_inference(block, fold_norms=False)
    with torch.autocast("cpu", torch.bfloat16):
        expected = compute(block, x)
    dynaconv.prepare_inference(block)
    with torch.autocast("cpu", torch.bfloat16):
        y = compute(block, x)
    assert y.dtype == expected.dtype
    assert torch.equal(y, expected)
    with norm_must_not_act(block.bn):
        compute(block, x)


# ---- never twice, never not at all ----


def scale_norm(block):
    with torch.no_grad():
        block.bn.weight.mul_(2)


def new_weight(block):
    block.bn.weight = nn.Parameter(block.bn.weight.detach() + 1)


def new_norm(block):
    block.bn = lively(nn.BatchNorm2d(9)).double()


def load_norm(block):
    block.bn.load_state_dict({name: value * 2 for name, value in block.bn.state_dict().items()})


def other_state(block):
    return {n: v * 1.5 if v.is_floating_point() and v.dim() else v.clone() for n, v in block.state_dict().items()}


def change_bias(block):
    with torch.no_grad():
        block.conv.bias.add_(1)


def between(block):
    block.conv = nn.Sequential(block.conv, nn.Tanh())


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "norm's weight": scale_norm,
    "norm's statistics": lambda block: block.bn.running_mean.add_(1),
    "norm's new weight": new_weight,
    "norm's eps": lambda block: setattr(block.bn, "eps", 0.3),
    "another norm": new_norm,
    "no norm": lambda block: setattr(block, "bn", nn.Identity()),
    "norm loads": load_norm,
    "all loads": lambda block: block.load_state_dict(other_state(block)),
    "all loads, assigned": lambda block: block.load_state_dict(other_state(block), assign=True),
    "norm trains": lambda block: block.bn.train(),
    "layer trains": lambda block: block.conv.train(),
    "layer's flag": lambda block: setattr(block.conv, "training", True),
    "all train": lambda block: block.train(),
    "layer's bias": change_bias,
    "layer's reset": lambda block: block.conv.reset_parameters(),
    "something between": between,
    "norm restored": lambda block: dynaconv.restore_training(block.bn),
    "layer restored": lambda block: dynaconv.restore_training(block.conv),
    "norm prepared": lambda block: dynaconv.prepare_inference(block.bn),
    "layer prepared": lambda block: dynaconv.prepare_inference(block.conv),
    "norm's forward": lambda block: setattr(block.bn, "forward", lambda y: y - 1),
    "temperature": lambda block: dynaconv.set_temperature(block, 3.0),
    "pruned": lambda block: torch.nn.utils.parametrize.register_parametrization(block.bn, "weight", nn.Softplus()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_after_any_change_the_norm_acts_once(change):
    torch.manual_seed(0)
    block, twin = small(), small()
    twin.load_state_dict(block.state_dict())
    x = torch.randn(4, 6, 5, 5, **X)
    dynaconv.prepare_inference(block)
    with norm_must_not_act(block.bn):
        compute(block, x)
    for changed in (block, twin):
        torch.manual_seed(1)
        change(changed)
    torch.testing.assert_close(compute(block, x), compute(twin, x), **DOUBLE)
    assert not folded(block)
    block.eval()
    torch.testing.assert_close(compute(block, x), compute(twin.eval(), x), rtol=1e-8, atol=1e-8)
    if isinstance(block.bn, nn.BatchNorm2d):
        dynaconv.prepare_inference(block)
        torch.testing.assert_close(compute(block, x), compute(twin, x), rtol=1e-8, atol=1e-8)


def test_another_type():
    block = small()
    x = torch.randn(2, 6, 5, 5, **X)
    expected = compute(block, x)
    dynaconv.prepare_inference(block)
    for change in (lambda: block.float(), lambda: block.double()):
        change()
        assert not folded(block)
        y = compute(block, x.to(block.bn.weight.dtype))
        torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
        dynaconv.prepare_inference(block)
        torch.testing.assert_close(compute(block, x.to(y.dtype)).double(), expected, rtol=1e-5, atol=1e-5)
        assert folded(block)


def test_gradients_between():
    """A part without gradients, the next with them: the norm acts, and once."""

    class Halves(Block):
        def forward(self, x):
            with torch.no_grad():
                y = self.conv(x)
            return self.bn(y)

    block = Halves(small().conv, nn.BatchNorm2d(9)).double().eval()
    x = torch.randn(2, 6, 5, 5, **X)
    expected = block(x)
    dynaconv.prepare_inference(block)
    y = block(x)
    torch.testing.assert_close(y, expected, **DOUBLE)
    assert y.requires_grad
    torch.testing.assert_close(compute(block, x), expected, **DOUBLE)

    class Inside(Block):
        def forward(self, x):
            with torch.enable_grad():
                y = self.conv(x)
            return self.bn(y)

    block = Inside(small().conv, nn.BatchNorm2d(9)).double().eval()
    expected = block(x)
    torch.testing.assert_close(compute(dynaconv.prepare_inference(block), x), expected, **DOUBLE)


def test_parts_alone_give_what_they_always_give():
    block = small()
    x = torch.randn(2, 6, 5, 5, **X)
    inner = compute(block.conv, x)
    outer = compute(block.bn, inner)
    dynaconv.prepare_inference(block)
    for _ in range(2):
        torch.testing.assert_close(compute(block.conv, x), inner, **DOUBLE)
        torch.testing.assert_close(compute(block.bn, inner), outer, **DOUBLE)
        y = compute(block, x)  # the layer's own output, changed in place: its mark is off
        torch.testing.assert_close(compute(block.bn, y), compute(copy.deepcopy(block.bn), y), **DOUBLE)


def test_who_hooks_on_sees_what_there_is():
    block = small()
    x = torch.randn(2, 6, 5, 5, **X)
    inner, expected = compute(block.conv, x), compute(block, x)
    dynaconv.prepare_inference(block)
    seen = []
    hooks = [
        lambda: block.conv.register_forward_hook(lambda m, i, o: seen.append(o.clone())),
        lambda: block.bn.register_forward_pre_hook(lambda m, i: seen.append(i[0].clone())),
        lambda: nn.modules.module.register_module_forward_hook(
            lambda m, i, o: seen.append(o.clone()) if m is block.conv else None
        ),
        lambda: nn.modules.module.register_module_forward_pre_hook(
            lambda m, i: seen.append(i[0].clone()) if m is block.bn else None
        ),
    ]
    for hook in hooks:
        handle = hook()
        torch.testing.assert_close(compute(block, x), expected, **DOUBLE)
        torch.testing.assert_close(seen.pop(), inner, **DOUBLE)
        handle.remove()
        with norm_must_not_act(block.bn):
            compute(block, x)
    handle = block.conv.register_full_backward_hook(lambda m, i, o: None)
    torch.testing.assert_close(compute(block, x), expected, **DOUBLE)
    handle.remove()
    handle = block.bn.register_forward_hook(lambda m, i, o: o + 1)
    torch.testing.assert_close(compute(block, x), (block.bn(inner)).relu().detach(), **DOUBLE)
    handle.remove()
    inside = block.conv.forward
    block.conv.forward = lambda x: inside(x).clone()  # a wrapper that loses the mark
    torch.testing.assert_close(compute(block, x), expected, **DOUBLE)


def test_threads_do_not_meet():
    """One thread runs the block while another calls the layer alone."""
    block = small()
    x = torch.randn(2, 6, 5, 5, **X)
    inner, expected = compute(block.conv, x), compute(block, x)
    dynaconv.prepare_inference(block)
    inside, done, found = threading.Event(), threading.Event(), []

    def wait(module, arguments):
        if threading.current_thread().name == "block":
            inside.set()
            done.wait(10)

    block.conv.register_forward_pre_hook(wait)
    thread = threading.Thread(target=lambda: found.append(compute(block, x)), name="block")
    thread.start()
    inside.wait(10)
    torch.testing.assert_close(compute(block.conv, x), inner, **DOUBLE)
    done.set()
    thread.join()
    torch.testing.assert_close(found[0], expected, **DOUBLE)


def test_an_error_inside_ends_the_scope():
    block = small()
    x = torch.randn(2, 6, 5, 5, **X)
    inner = compute(block.conv, x)
    dynaconv.prepare_inference(block)
    handle = block.act.register_forward_hook(lambda m, i, o: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compute(block, x)
    handle.remove()
    torch.testing.assert_close(compute(block.conv, x), inner, **DOUBLE)


# ---- copies, files, and back ----


def saved(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved], ids=["deepcopy", "pickle", "save"]
)
def test_copies_are_plain(duplicate):
    block = small()
    x = torch.randn(2, 6, 5, 5, **X)
    expected = compute(block, x)
    kinds = [type(module) for module in block.modules()]
    names = [set(vars(module)) for module in block.modules()]
    dynaconv.prepare_inference(block)
    assert [type(m).__name__ for m in block.modules()] == [kind.__name__ for kind in kinds]
    assert all(isinstance(module, kind) for module, kind in zip(block.modules(), kinds, strict=True))
    twin = duplicate(block)
    assert [type(module) for module in twin.modules()] == kinds
    for _ in range(2):
        torch.testing.assert_close(compute(twin, x), expected, **DOUBLE)
        with norm_must_not_act(block.bn):
            torch.testing.assert_close(compute(block, x), expected, **DOUBLE)
    assert not folded(twin)
    dynaconv.prepare_inference(twin)
    scale_norm(twin)
    torch.testing.assert_close(compute(block, x), expected, **DOUBLE)
    dynaconv.restore_training(block)
    assert [type(module) for module in block.modules()] == kinds
    assert [set(vars(module)) for module in block.modules()] == names


def test_replicas_for_data_parallel():
    """What replicate() does with every module, without the devices for it."""
    block = small()
    x = torch.randn(2, 6, 5, 5, **X)
    expected = compute(block, x)
    dynaconv.prepare_inference(block)
    replica, layer, norm = (m._replicate_for_data_parallel() for m in (block, block.conv, block.bn))
    for name in ("kernel", "bias"):
        setattr(layer, name, getattr(block.conv, name).detach())
    layer.attention = block.conv.attention
    for name in ("weight", "bias"):
        setattr(norm, name, getattr(block.bn, name).detach())
    norm.running_mean, norm.running_var = block.bn.running_mean, block.bn.running_var
    replica.conv, replica.bn, replica.act = layer, norm, block.act
    torch.testing.assert_close(compute(replica, x), expected, **DOUBLE)
    assert layer.current_preparation() is None
    with norm_must_not_act(block.bn):
        torch.testing.assert_close(compute(block, x), expected, **DOUBLE)


def test_methods_that_gain_nothing():
    block = cgc()
    for choice, names in ((True, {}), ("all", {"conv": "bn"}), (False, {})):
        dynaconv.prepare_inference(block, fold_norms=choice)
        assert folded(block) == names
    dynaconv.prepare_inference(block)
    assert reasons(block) == {"conv": "its method gains nothing by it, see fold_norms='all'"}
    for layer in (small(), small(KWConv2d)):
        assert folded(dynaconv.prepare_inference(layer)) == {"conv": "bn"}
        assert not folded(dynaconv.prepare_inference(layer, fold_norms=False))
    with pytest.raises(DynaconvError, match="fold_norms='some'"):
        dynaconv.prepare_inference(block, fold_norms="some")


def test_a_norm_that_follows_another_layer_since():
    block = small()
    x = torch.randn(2, 6, 5, 5, **X)
    expected = compute(block, x)
    dynaconv.prepare_inference(block)
    dynaconv.restore_training(block.bn)
    other = nn.Sequential(small().conv, block.bn).eval()
    assert folded(dynaconv.prepare_inference(other)) == {"0": "1"}
    torch.testing.assert_close(compute(block, x), expected, **DOUBLE)
    assert not folded(block)


def test_a_shallow_copy_with_another_norm():
    block = small()
    x = torch.randn(2, 6, 5, 5, **X)
    inner = compute(block.conv, x)
    dynaconv.prepare_inference(block)
    replica = block._replicate_for_data_parallel()
    replica.bn = nn.Identity()
    torch.testing.assert_close(compute(replica, x), inner.relu(), **DOUBLE)


def test_the_state_is_as_it_was():
    block = small(KWConv2d)
    state = copy.deepcopy(block.state_dict())
    parameters = dict(block.named_parameters())
    x = torch.randn(2, 6, 5, 5, **X)
    for act in (dynaconv.prepare_inference, lambda model: compute(model, x), dynaconv.restore_training):
        act(block)
        assert [*block.state_dict()] == [*state]
        assert all(torch.equal(value, state[name]) for name, value in block.state_dict().items())
        assert all(parameter is parameters[name] for name, parameter in block.named_parameters())


def test_modes_come_back_without_a_branch_to_fold():
    block = Block(animate(dynaconv.CGConv2d(6, 9, 3)), nn.BatchNorm2d(9)).train()
    for _ in range(2):
        dynaconv.prepare_inference(block, fold_norms="all")
    assert dynaconv.restore_training(block).bn.training
    assert not is_dressed(block)


# ---- compilers and tracers ----


@pytest.mark.parametrize("kind", [KWConv2d, ODConv2d, dynaconv.CGConv2d])
def test_one_graph(kind):
    block = dynaconv.prepare_inference(small(kind) if kind is not dynaconv.CGConv2d else cgc(), fold_norms="all")
    expected = {batch: torch.randn(batch, 6, 5, 5, **X) for batch in (2, 5)}
    expected = {batch: (x, compute(copy.deepcopy(block), x)) for batch, x in expected.items()}
    torch.compiler.reset()
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for x, y in expected.values():
            torch.testing.assert_close(compute(compiled, x), y, **DOUBLE)
    scale_norm(block)
    for x, _ in expected.values():
        torch.testing.assert_close(compute(compiled, x), compute(copy.deepcopy(block), x), **DOUBLE)


def cgc() -> Block:
    return Block(animate(dynaconv.CGConv2d(6, 9, 3, padding=1)), nn.BatchNorm2d(9)).double().eval()


@pytest.mark.parametrize("part", ["conv", "bn", "act"])
def test_parts_compiled_alone(part):
    """Layer compiled, norm not, and the other way round; and before, between and after what is not compiled."""
    block = small()
    x = torch.randn(2, 6, 5, 5, **X)
    inner, expected = compute(block.conv, x), compute(block, x)
    dynaconv.prepare_inference(block)
    torch.compiler.reset()
    block.get_submodule(part).compile(backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compute(block, x), expected, **DOUBLE)
        torch.testing.assert_close(compute(block.bn, inner), compute(copy.deepcopy(block.bn), inner), **DOUBLE)
        torch.testing.assert_close(compute(block.conv, x), inner, **DOUBLE)
    scale_norm(block)
    torch.testing.assert_close(compute(block, x), compute(copy.deepcopy(block), x), **DOUBLE)


def test_traced_and_scripted_and_exported():
    block = small()
    x = torch.randn(2, 6, 5, 5, **X)
    expected = compute(block, x)
    dynaconv.prepare_inference(block)
    with torch.no_grad():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated, and sees sizes being compared
            traced = torch.jit.trace(block, x, check_trace=False)
        torch.testing.assert_close(traced(x), expected, **DOUBLE)
        exported = torch.export.export(block, (x,)).module()
        torch.testing.assert_close(exported(x), expected, **DOUBLE)
        mapped = torch.func.vmap(block)(torch.stack([x, x]))
        torch.testing.assert_close(mapped[1], expected, **DOUBLE)


class LeafTracer(torch.fx.Tracer):
    def is_leaf_module(self, m, module_qualified_name):
        return isinstance(m, dynaconv.nn.DynamicLayer) or super().is_leaf_module(m, module_qualified_name)


@pytest.mark.parametrize("norm", [lambda: nn.BatchNorm2d(9), lambda: norm_act(True)], ids=["plain", "act"])
def test_a_graph_of_a_prepared_network(norm):
    """Somebody else's graph shares its modules, and runs by other code."""
    block = Block(small().conv, norm().double()).eval()
    x = torch.randn(2, 6, 5, 5, **X)
    expected = compute(block, x)
    dynaconv.prepare_inference(block)
    graph = torch.fx.GraphModule(block, LeafTracer().trace(block))
    torch.testing.assert_close(compute(graph, x), expected, **DOUBLE)
    torch.testing.assert_close(compute(block, x), expected, **DOUBLE)
