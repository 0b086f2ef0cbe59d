"""Checkpoints in the authors' key names: every spelling in which they are found, and clear refusals."""

from argparse import Namespace

import pytest
import torch
from safetensors.torch import save_file

import dynaconv
from dynaconv.errors import CheckpointError
from tests.golden import read_model, weights_from_names


@pytest.fixture(scope="module")
def state():
    return weights_from_names(read_model("kw1x_resnet18")["keys"])


@pytest.fixture
def model():
    return dynaconv.create_model("kw1x_resnet18")


def loaded(model, state):
    expected = state["layer1.0.conv1.attention.fc2.weight"].to(torch.float32)
    return torch.equal(model.layer1[0].conv1.attention.fc2.weight, expected)


def test_a_state_dict_and_its_temperature(model, state):
    dynaconv.set_temperature(model, 0.5)
    assert dynaconv.load_reference_checkpoint(model, state) is model
    assert loaded(model, state)
    assert dynaconv.get_temperature(model) == 0
    assert torch.equal(model.warehouses["stage0_conv"].cells, state["warehouse_manager.weights.0"].float())


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"model": s, "args": Namespace(lr=1)}, lambda s: {"state_dict": s}]
)
def test_pickled_files(model, state, wrap, tmp_path):
    torch.save(wrap(state), tmp_path / "checkpoint.pth")
    assert loaded(dynaconv.load_reference_checkpoint(model, tmp_path / "checkpoint.pth"), state)


def test_safetensors_and_the_prefix_of_data_parallel(model, state, tmp_path):
    save_file({f"module.{k}": v.contiguous() for k, v in state.items()}, tmp_path / "weights.safetensors")
    assert loaded(dynaconv.load_reference_checkpoint(model, str(tmp_path / "weights.safetensors")), state)


class Payload:
    def __reduce__(self):
        return (print, ("this code ran",))


def test_a_pickle_with_code_is_not_run(model, tmp_path, capsys):
    torch.save({"model": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="was not opened"):
        dynaconv.load_reference_checkpoint(model, tmp_path / "evil.pth")
    assert "this code ran" not in capsys.readouterr().out


def change_shape(state):
    return state | {"fc.weight": state["fc.weight"][:10]}


def drop(state):
    return {k: v for k, v in state.items() if k != "layer2.0.conv1.attention.fc1.weight"}


def fewer_warehouses(state):
    return {k: v for k, v in state.items() if k != "warehouse_manager.weights.3"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_shape, r"a classifier of 10 classes, here of 1000 \(1\): fc.weight \(10, 512\), here \(1000, 512\)"),
        (drop, r"names that the weights lack \(1\): layer2.0.conv1.attention.fc1.weight"),
        (fewer_warehouses, "has 3 warehouses, the network 4"),
        (lambda s: s | {"head.weight": torch.zeros(1)}, r"names that the network does not have \(1\): head.weight"),
    ],
)
def test_what_does_not_fit(model, state, change, message):
    before = model.fc.weight.detach().clone()
    with pytest.raises(CheckpointError, match=message):
        dynaconv.load_reference_checkpoint(model, change(state))
    assert torch.equal(model.fc.weight, before)


def test_missing_file_and_static_network(model, state):
    with pytest.raises(CheckpointError, match="no checkpoint file at"):
        dynaconv.load_reference_checkpoint(model, "nowhere.pth")
    with pytest.raises(CheckpointError, match="own key names"):
        dynaconv.load_reference_checkpoint(model, model.state_dict())
    with pytest.raises(CheckpointError, match="has no dynamic layers"):
        dynaconv.load_reference_checkpoint(dynaconv.create_model("resnet18"), state)
