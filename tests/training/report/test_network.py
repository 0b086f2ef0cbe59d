"""What a network costs, against its plan and its tensors."""

from __future__ import annotations

import pytest

import dynaconv
from dynaconv.training.report.network import Origin, describe_network

BACKBONE = {"channels": [16, 16, 32, 32], "layers": [1, 1, 1, 1]}


def described(method: dict | None, name: str = "resnet18", backbone: dict | None = None):
    model = {"name": name, "config": method, "where": None, "num_classes": 10, "in_chans": 1}
    description = {"model": {**model, "backbone_kwargs": BACKBONE if backbone is None else backbone}, "image_size": 16}
    config = None if method is None else dynaconv.config_from_dict(method)
    arguments = {"num_classes": 10, "in_chans": 1, **description["model"]["backbone_kwargs"]}
    made = dynaconv.create_model(name, config=config, **arguments)
    return made, describe_network(made, description, "x")


def test_a_warehouse_network():
    model, found = described({"method": "kernel_warehouse", "budget": 0.5})
    cells = sum(p.numel() for name, p in model.named_parameters() if name.startswith("warehouses."))
    branches = sum(p.numel() for name, p in model.named_parameters() if ".attention." in name)
    assert found.cost.parameters == sum(p.numel() for p in model.parameters())
    assert (found.cost.kernels, found.cost.branches) == (cells, branches)
    assert found.cost.rest == found.static.rest > 0
    assert found.cost.convolution == found.static.convolution == found.static.madds
    assert found.cost.madds > found.static.madds
    assert (found.method, found.settings) == ("kernel_warehouse", {"budget": 0.5})
    assert {house.name for house in found.warehouses} == set(model.warehouses)
    first = found.layers[0]
    assert first.name in found.house_of[first.name].layers
    assert "conv1" in found.left_static


@pytest.mark.parametrize("method", [{"method": "odconv", "num_kernels": 2}, {"method": "se"}, {"method": "dcd"}])
def test_another_method(method):
    model, found = described(method)
    assert found.cost.parameters == sum(p.numel() for p in model.parameters())
    assert found.cost.kernels + found.cost.branches + found.cost.rest == found.cost.parameters
    assert found.cost.rest == found.static.rest
    assert found.method == method["method"]
    assert found.settings.items() >= {key: value for key, value in method.items() if key != "method"}.items()
    assert (found.warehouses, found.house_of) == ((), {})


def test_a_static_network():
    model, found = described(None)
    assert found.cost == found.static
    assert found.cost.parameters == sum(p.numel() for p in model.parameters())
    assert (found.method, found.layers) == (None, ())


def test_a_preset_has_its_own_backbone():
    origin = Origin.of({"name": "kw1d2x_resnet18", "config": None, "where": None, "num_classes": 5, "in_chans": 3})
    assert (origin.arguments["name"], origin.config.budget) == ("resnet18", 0.5)
    assert origin.arguments["num_classes"] == 5
