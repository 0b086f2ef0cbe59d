"""ODConv, DY-Conv, CondConv and DCD, number for number as their public code has them."""

from __future__ import annotations

import pytest
import torch

import dynaconv
from dynaconv.checkpoints import translate_reference_keys
from tests.golden import (
    METHOD_LAYERS,
    TOLERANCE,
    build_layer,
    calibrated_logits,
    read_layers,
    read_model,
    relative_error,
    weights_from_names,
)

NETWORKS = {"od_resnet18_4x": "od4x_resnet18", "od_mobilenetv2_100_1x": "od1x_mobilenetv2_100"}


def test_golden_data_is_there():
    methods = [name.partition("_")[0] for name in METHOD_LAYERS]
    counts = {"odconv2d": 6, "dyconv1d": 1, "dyconv2d": 3, "dyconv3d": 1, "condconv2d": 3, "dcd": 2}
    assert {method: methods.count(method) for method in methods} == counts


@pytest.fixture(params=METHOD_LAYERS)
def golden(request):
    """Tensors by name, and the layer with the public code's weights."""
    spec, tensors = read_layers(request.param)
    layer = build_layer(request.param, spec)
    dynaconv.load_reference_checkpoint(layer, under(tensors, "state."))
    return tensors, layer


def under(tensors, prefix):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def test_outputs_and_gradients(golden):
    """At every temperature; gradients of parameters at the last one, the public code's evaluation mode."""
    tensors, layer = golden
    outputs = under(tensors, "output")
    assert len(outputs) == (1 if layer.get_temperature() is None else 2)
    for suffix in sorted(outputs, reverse=True):
        if suffix:
            layer.set_temperature(float(suffix.removeprefix(".temperature")))
        layer.zero_grad()
        x = tensors["input"].clone().requires_grad_()
        y = layer(x)
        assert relative_error(y, outputs[suffix]) < TOLERANCE, suffix
        y.backward(tensors["grad_output"])
        assert relative_error(x.grad, tensors[f"grad_input{suffix}"]) < TOLERANCE, suffix
    parameters = dict(layer.named_parameters())
    gradients = translate_reference_keys(layer, under(tensors, "grad."))
    assert gradients.keys() == parameters.keys()
    for name, gradient in gradients.items():
        assert relative_error(parameters[name].grad.reshape(gradient.shape), gradient) < TOLERANCE, name


@pytest.mark.parametrize("name", list(NETWORKS))
def test_whole_networks(name):
    golden = read_model(name)
    model = dynaconv.create_model(NETWORKS[name]).double()
    assert sum(p.numel() for p in model.parameters()) == golden["params"]
    dynaconv.load_reference_checkpoint(model, weights_from_names(golden["keys"]))
    logits = calibrated_logits(model, golden["image_size"])[:, :: golden["logits_stride"]]
    assert relative_error(logits, torch.tensor(golden["logits"], dtype=torch.float64)) < TOLERANCE
