"""What is folded in a traced network, what stays and why, and that it is the same function."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dynaconv
from dynaconv import DynaconvError, KernelWarehouseConfig
from dynaconv.export.folding import norms_left
from dynaconv.export.network import deployable
from dynaconv.export.program import trace
from dynaconv.export.settings import ExportSettings
from tests.nn.cases import animate

aten = torch.ops.aten
ANY = ExportSettings(dynamic_batch=True)


class Network(nn.Module):
    """Norms behind static and dynamic layers, before them, over rows, and over the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_in = nn.BatchNorm2d(3)
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.Conv2d(16, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16, affine=False),
            nn.Conv2d(16, 16, 1),
        )
        dynaconv.convert(self.body, KernelWarehouseConfig(budget=1), where=("3", "5", "7"))
        self.twice = nn.Conv2d(16, 16, 1)
        self.norm_twice = nn.BatchNorm2d(16)
        self.layer_norm = nn.LayerNorm(16)
        self.row, self.norm_row = nn.Linear(16, 8), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.norm_in(x))
        y = self.norm_twice(self.twice(y)) + self.twice(y)
        return self.norm_row(self.row(self.layer_norm(y.mean((2, 3)))))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return animate(Network()).double()


@pytest.fixture(scope="module")
def program(network):
    return trace(deployable(network), (torch.randn(2, 3, 7, 6, dtype=torch.float64),), ANY)


def targets(program) -> list[object]:
    return [node.target for node in program.graph.nodes if node.op == "call_function"]


def constants(program) -> dict[str, Tensor]:
    return {**program.state_dict, **{k: v for k, v in program.constants.items() if isinstance(v, Tensor)}}


@pytest.mark.parametrize("batch", [1, 4])
def test_same_function(network, program, batch):
    x = torch.randn(batch, 3, 7, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), network.eval()(x))


def test_no_norm_is_left_but_the_layer_norm(program):
    assert aten.batch_norm.default not in targets(program)
    assert norms_left(program) == {}
    assert targets(program).count(aten.layer_norm.default) == 1


def test_a_norm_behind_a_static_layer_costs_nothing(program):
    weights = constants(program)
    assert "body_0_weight_folded" in weights
    assert "row_weight_folded" in weights
    assert "twice.weight" in weights  # whose output goes to two places
    assert not [name for name in weights if "body_1" in name or "norm_row" in name]


def test_nothing_is_stored_twice_or_in_vain(network, program):
    given = sum(p.numel() for p in network.parameters())
    statistics = sum(b.numel() for name, b in network.named_buffers() if "running" in name)
    found = constants(program)
    assert sum(t.numel() for t in found.values()) <= given + statistics
    shape = next(p for name, p in network.named_parameters() if name.endswith("cells")).shape
    cells = [name for name, t in found.items() if t.numel() == shape.numel()]
    assert len(cells) == 1, cells  # of three layers
    assert not [name for name in found if "temperature" in name or "num_batches" in name]


def test_checks_are_gone(program):
    assert not [target for target in targets(program) if "assert" in str(target)]


class Batch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True)


class Computed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((0, 2, 3))
        return F.batch_norm(x, mean, torch.ones(3), training=False)


@pytest.mark.parametrize(
    ("network", "reason"),
    [(Batch(), "it normalises by the batch"), (Computed(), "its parameters are computed from the input")],
    ids=["batch", "computed"],
)
def test_what_stays_has_a_reason(network, reason):
    program = trace(network, (torch.randn(2, 3, 4, 4),), ANY)
    assert list(norms_left(program).values()) == [reason]


class Shuffling(nn.Module):
    """Copies that matter: a view needs their layout, or something is written into them or what follows from weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bias = nn.Conv2d(4, 4, 1), nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        y = self.conv(x).relu_()
        shuffled = y.unflatten(1, (2, 2)).transpose(1, 2).contiguous().view(y.shape)
        turned = y.transpose(2, 3).contiguous()
        turned.unsqueeze(0).add_(5)
        same = y.contiguous()
        same.unsqueeze(0).mul_(2)
        copied = y.to(y.dtype, copy=True)
        copied.sub_(1)
        row = self.bias * 2
        row.view(1, 4).add_(x.mean())
        return y, shuffled + copied, turned, row


def test_what_is_copied_or_written_into_stays():
    network = Shuffling().double().eval()
    program = trace(deployable(network), (torch.randn(2, 4, 5, 3, dtype=torch.float64),), ANY)
    for batch in (1, 3, 3):
        x = torch.randn(batch, 4, 5, 3, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(program.module()(x), network(x))


class Dropping(nn.Module):
    """Functional dropout, with a switch of its own."""

    def __init__(self, drop, active: bool, share: float = 0.5) -> None:
        super().__init__()
        self.layer, self.drop, self.active, self.share = nn.Conv2d(3, 4, 1), drop, active, share

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.layer(x), self.share, training=self.active)


def dropping(*arguments) -> list[object]:
    model = nn.Sequential(nn.Identity(), Dropping(*arguments)).eval()
    return targets(trace(deployable(model), (torch.randn(2, 3, 5, 5),), ANY))


@pytest.mark.parametrize("drop", [F.dropout, F.dropout2d, F.alpha_dropout])
def test_dropout_goes_where_it_is_off_and_is_refused_where_it_is_not(drop):
    assert dropping(drop, False) == [aten.conv2d.default]
    assert dropping(drop, True, 0.0) == [aten.conv2d.default]
    with pytest.raises(DynaconvError, match=r"dropout of 0\.5 in 1 is active in evaluation.*training=self\.training"):
        dropping(drop, True)
