"""Pictures of plans show every warehouse, every mixture's cell, and the assignment as it is."""

from __future__ import annotations

import pytest
import timm
from matplotlib.colors import to_hex

import dynaconv
from dynaconv.analysis.plan_picture import EMPTY, draw_plan


@pytest.fixture(scope="module")
def half():
    return dynaconv.plan(timm.create_model("resnet18"), dynaconv.KernelWarehouseConfig(budget=0.5))


def test_what_is_drawn_is_the_plan(half, tmp_path):
    figure = draw_plan(half, ["stage3_conv", "stage0_conv"], title="half")
    figure.savefig(tmp_path / "plan.png")
    assert len(figure.subfigs) == 2
    for row, name in zip(figure.subfigs, ("stage3_conv", "stage0_conv"), strict=True):
        house = half.warehouse(name)
        layers = [layer for layer in half.layers if layer.warehouse == name]
        rows = [cells for layer in layers for cells in layer.rows]
        cells, kernels, beta = row.axes
        assert f"n = {house.num_cells} cells" in row.get_suptitle()
        assert len(cells.collections[0].get_paths()) == house.num_cells
        for squares, layer in zip(kernels.collections, layers, strict=True):
            empty = [to_hex(colour) == EMPTY for colour in squares.get_facecolors()]
            assert empty == [row == (house.num_cells,) for row in layer.rows]
        ones = [tuple(map(int, one)) for dots in beta.collections for one in dots.get_offsets()]
        assert ones == [(cell, mixture) for mixture, of in enumerate(rows) for cell in of]


@pytest.mark.parametrize("fields", [{"assignment": "none"}, {"assignment": "all"}, {"partition": "channel"}])
def test_other_plans(fields):
    config = dynaconv.KernelWarehouseConfig(sharing="layer", **fields)
    plan = dynaconv.plan(timm.create_model("resnet18"), config, where="layer1")
    assert len(draw_plan(plan).subfigs) == len(plan.warehouses) == 4


def test_other_methods_have_no_warehouses():
    plan = dynaconv.plan(timm.create_model("resnet18"), dynaconv.ODConvConfig())
    with pytest.raises(dynaconv.DynaconvError, match=r"the plan is one of ODConvConfig; only KernelWarehouse's draw"):
        draw_plan(plan)
