"""KernelWarehouse, number for number as the authors' code has it: outputs, gradients, assignments, whole networks."""

from __future__ import annotations

import pytest
import torch

import dynaconv
from dynaconv.checkpoints import translate_reference_keys
from tests.golden import (
    DATA,
    TOLERANCE,
    WAREHOUSE_LAYERS,
    build_chain,
    calibrated_logits,
    read_layers,
    read_model,
    relative_error,
    weights_from_names,
)

MODELS = sorted(path.stem for path in (DATA / "models").glob("kw*.json"))


def test_golden_data_is_there():
    assert len(WAREHOUSE_LAYERS) == 14
    assert len(MODELS) == 4


@pytest.fixture(params=WAREHOUSE_LAYERS)
def golden(request):
    spec, tensors = read_layers(request.param)
    chain = build_chain(spec)
    dynaconv.load_reference_checkpoint(
        chain, {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    )
    return spec, tensors, chain


def test_cells_have_the_shapes_of_the_authors(golden):
    spec, _, chain = golden
    assert [list(w.cells.shape) for w in chain.warehouses.values()] == [
        shape if len(w.cells.shape) == len(shape) else shape[:3]
        for shape, w in zip(spec["cells"], chain.warehouses.values(), strict=True)
    ]


def test_assignment(golden):
    _, tensors, chain = golden
    for index, layer in enumerate(chain.layers):
        torch.testing.assert_close(layer.attention.beta.double(), tensors[f"beta.{index}"], rtol=0, atol=0)


@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0])
def test_outputs_and_gradients(golden, tau):
    _, tensors, chain = golden
    dynaconv.set_temperature(chain, tau)
    x = tensors["input"].clone().requires_grad_()
    y = chain(x)
    assert relative_error(y, tensors[f"output.tau{tau}"]) < TOLERANCE
    y.backward(tensors["grad_output"])
    assert relative_error(x.grad, tensors[f"grad_input.tau{tau}"]) < TOLERANCE
    if tau != 0.4:
        return
    expected = {k.removeprefix("grad.tau0.4."): v for k, v in tensors.items() if k.startswith("grad.tau0.4.")}
    parameters = dict(chain.named_parameters())
    for key, gradient in translate_reference_keys(chain, expected).items():
        if gradient.numel():
            assert relative_error(parameters[key].grad.reshape(gradient.shape), gradient) < TOLERANCE, key


@pytest.mark.parametrize("name", MODELS)
def test_whole_networks(name):
    golden = read_model(name)
    model = dynaconv.create_model(name).double()
    assert sum(p.numel() for p in model.parameters()) == golden["params"]
    dynaconv.load_reference_checkpoint(model, weights_from_names(golden["keys"]))
    logits = calibrated_logits(model, golden["image_size"])[:, :: golden["logits_stride"]]
    assert relative_error(logits, torch.tensor(golden["logits"], dtype=torch.float64)) < TOLERANCE
