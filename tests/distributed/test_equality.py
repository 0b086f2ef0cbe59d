"""Two processes are one: a step of DDP, or FSDP2, is that of one process on the joint batch, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dynaconv.analysis.scale import NUMBER, count_training, scaled
from tests.distributed import worker
from tests.distributed.networks import BATCH, SIZE, WORLD, joint_batch, make_network, network_names, sharded_names, step
from tests.distributed.norms import NORMS, normalise
from tests.distributed.processes import free_port
from tests.forked import run_together

pytestmark = pytest.mark.xdist_group("processes")

TOLERANCE = 1e-11
"""Of a tensor's largest value; float64 rounds to 1e-16, and a backward pass adds up some ten thousand terms."""


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def found(request, tmp_path_factory):
    """What every process found, the networks and norms all in one start of processes."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    folder = tmp_path_factory.mktemp("processes")
    port = free_port()
    run_together(worker.main, [(rank, port, folder, request.param) for rank in range(WORLD)], folder)
    return [torch.load(folder / f"{rank}.pt", map_location="cpu") for rank in range(WORLD)]


def differs(found, expected, key: str) -> float:
    """Largest difference relative to the tensor's largest value, or to a thousandth where all are smaller."""
    assert found.shape == expected.shape, key
    if not expected.numel():
        return 0.0
    gap, largest = (found.double() - expected.double()).abs().max(), expected.double().abs().max()
    return float(gap / largest.clamp(min=1e-3))


@pytest.mark.parametrize(
    ("way", "name"), [*(("steps", name) for name in network_names()), *(("sharded", name) for name in sharded_names())]
)
def test_a_step(found, way, name):
    model = make_network(name)
    expected = step(model, *joint_batch())
    assert {f"gradient of {key}" for key, _ in model.named_parameters()} <= expected.keys()  # none is ever unused
    for process in found:
        assert process[way][name].keys() == expected.keys()
        errors = {key: differs(process[way][name][key], value, key) for key, value in expected.items()}
        assert max(errors.values()) < TOLERANCE, max(errors.items(), key=lambda item: item[1])


@pytest.mark.parametrize("name", NORMS)
def test_norms_on_uneven_shares(found, name):
    case = NORMS[name]
    expected = normalise(nn.Sequential(case.make()), case.batches())
    first, second = (process["norms"][name] for process in found)
    for key, value in expected.items():
        if key.startswith(("y ", "dx ")):
            got = torch.cat([first[key], second[key]])
        elif key.startswith("gradient"):
            got = first[key] + second[key]
        else:
            got = first[key]
            assert torch.equal(first[key], second[key])
        assert differs(got, value, key) < 1e-13, key


@pytest.mark.parametrize("name", sharded_names())
def test_the_count_is_what_is_sent(found, name):
    """`dynaconv scale` against the numbers that were handed to collectives in the step."""
    cost = count_training(make_network(name), (3, SIZE, SIZE), BATCH // WORLD, optimizer=sgd)
    for process in found:
        gradients, statistics = process["sent"][name]
        assert cost.gradient_bytes == 8 * gradients  # float64
        assert scaled(cost, WORLD).ddp_sent == cost.gradient_bytes  # a ring of two sends everything once
        assert scaled(cost, WORLD).norms_sent == NUMBER * statistics


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)
