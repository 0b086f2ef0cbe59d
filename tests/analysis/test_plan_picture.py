"""Pictures of plans show every warehouse, every mixture's cell, and the assignment as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
from matplotlib.colors import to_hex

import dynaconv
from dynaconv.analysis.plan_picture import EMPTY, draw_plan

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"


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


@pytest.mark.parametrize(
    ("name", "budget", "drawn"),
    [("1x", 1, None), ("2x-stage3", 2, ["stage3_conv"]), ("half-stage3", 0.5, ["stage3_conv"])],
)
def test_pictures_of_the_documentation_are_of_todays_plans(name, budget, drawn):
    plan = dynaconv.plan(timm.create_model("resnet18"), dynaconv.KernelWarehouseConfig(budget=budget))
    picture = (PICTURES / f"resnet18-{name}.svg").read_text()
    figure = draw_plan(plan, drawn)
    texts = [text.get_text() for row in figure.subfigs for axes in row.axes for text in axes.texts]
    titles = [row.get_suptitle() for row in figure.subfigs]
    lines = [line for text in [*texts, *titles] for line in text.splitlines()]
    assert not [line for line in lines if f">{line}<" not in picture], "renew them with: python docs/make_pictures.py"
