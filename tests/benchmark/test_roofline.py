"""The limit counts what a network's mixing must do and read."""

from __future__ import annotations

import pytest
import torch

import dynaconv
import dynaconv.benchmark.roofline as roofline
from dynaconv.benchmark.roofline import Demand, cell_bytes, demand_of, limit, measure_machine
from dynaconv.nn import DYConv2d, KWConv2d, dynamic_layers

MACHINE = {"madds_per_second": 100.0, "read_bytes_per_second": 10.0}


def test_the_longer_of_products_and_reading_counts():
    many = Demand(mixing_madds=50, cell_bytes=8)
    assert limit(many, MACHINE, 1.0, batch=2, training=False)["bound"] == "products"
    alone = limit(many, MACHINE, 1.0, batch=1, training=False)
    assert (alone["bound"], alone["seconds_per_image"]) == ("reading", 1.8)
    training = limit(many, MACHINE, 2.0, batch=1, training=True)
    assert (training["bound"], training["seconds_per_image"], training["ratio"]) == ("products", 4.0, 2.0)


def test_cells_are_read_once_by_every_layer():
    model = dynaconv.create_model("kw1x_resnet18")
    demand = demand_of(model, 1)
    shared = {w.cells.numel() * 4 for w in model.warehouses.values()}
    layers = list(dynamic_layers(model))
    assert demand.cell_bytes == sum(layer.cells.numel() * 4 for layer in layers)
    assert len(layers) > len(shared)


def test_a_layers_own_kernels_without_its_branch():
    layer = DYConv2d(16, 32, 3, num_kernels=4, bias=False)
    assert cell_bytes(layer) == 4 * (4 * 16 * 32 * 9)
    alone = KWConv2d(8, 16, 3, bias=False)
    assert cell_bytes(alone) == 4 * alone.cells.numel()


def test_the_machine_is_measured(monkeypatch):
    monkeypatch.setattr(roofline, "SHAPES", ((2, 16, 8, 3), (2, 16, 8, 1)))
    monkeypatch.setattr(roofline, "SQUARE", 64)
    monkeypatch.setattr(roofline, "READ_BYTES", 2**20)
    machine = measure_machine("cpu")
    assert machine["madds_per_second"] == max(machine["by_product"].values())
    assert len(machine["by_product"]) == 3
    assert machine["read_bytes_per_second"] > 1e8


def test_the_best_of_several_times(monkeypatch):
    seconds = iter([5.0, 3.0, 1.0, 4.0, 2.0])
    clock = {"now": 0.0}

    def call():
        clock["now"] += next(seconds, 0.0) if clock["warm"] else 0.0
        clock["warm"] = True

    clock["warm"] = False
    monkeypatch.setattr(roofline.time, "perf_counter", lambda: clock["now"])
    assert roofline._best(call, lambda: None) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["dcd_resnet18", "se_resnet18", "cond8x_mobilenetv2_050", "weightnet_resnet18"])
def test_every_method_has_a_demand(name):
    with torch.device("meta"):
        model = dynaconv.create_model(name)
    assert demand_of(model, dynaconv.profile(model).mixing).cell_bytes > 0
