"""Maps as bytes are read back as the page's script reads them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import dynaconv
from dynaconv.analysis.attention import AttentionMaps
from dynaconv.training.report.sheets import Matrix, attention_figures, classes_that_fit, in_steps
from tests.training.report.made import COLUMNS, ROWS, attention


def read(matrix: Matrix, columns: int, whole: torch.dtype = torch.int16) -> torch.Tensor:
    values = torch.frombuffer(bytearray(matrix.values), dtype=whole).view(-1, columns)
    return values.double() * torch.tensor(matrix.steps, dtype=torch.float64).unsqueeze(1)


@pytest.fixture
def maps():
    return AttentionMaps((attention("a", 0.1), attention("b", 0.2)), ("x", "y"), 0.5)


@pytest.mark.parametrize(("whole", "steps"), [(torch.int8, 127), (torch.int16, 32767)])
def test_rounding_is_within_half_a_step_of_each_row(whole, steps):
    values = torch.randn(5, 40, dtype=torch.float64) * torch.tensor([[1e-6], [1e-2], [1.0], [50.0], [0.0]])
    found = read(in_steps(values, whole), 40, whole)
    assert ((found - values).abs() <= values.abs().amax(1, keepdim=True) / (2 * steps) * (1 + 1e-9)).all()


def test_a_sheet_holds_all_layers_of_a_warehouse(maps):
    found = attention_figures(maps, ["x", "y"])
    (sheet,) = found.sheets
    assert (sheet.rows, sheet.columns, sheet.layers) == (ROWS, COLUMNS, (("a", 2), ("b", 2)))
    mean = torch.cat([one.mean for one in maps.maps])
    shown = read(sheet.mean, COLUMNS)
    for row, column, value in sheet.assigned:
        assert value == float(mean[row, column])
        assert shown[row, column] == 0
        shown[row, column] = value
    torch.testing.assert_close(shown, mean, atol=0.4 / 65534, rtol=0)
    assert [place[:2] for place in sheet.assigned] == [(0, 0), (1, 1), (2, 0), (3, 1)]
    assert sheet.bound == pytest.approx(0.4)  # of conv1, mixture 0 and cell 5; the assignment's are apart
    torch.testing.assert_close(
        read(sheet.by_class[1], COLUMNS, torch.int8), torch.full((4, 6), 0.01, dtype=torch.float64)
    )
    assert sheet.class_bound == pytest.approx(0.01)
    assert (found.classes, found.images, found.temperature) == (("x", "y"), 30, 0.5)
    assert sheet.in_use == maps.effective_cells(sheet.name)


def test_classes_without_images_and_sheets_without_room_are_left_out(maps):
    assert attention_figures(maps, ["y"]).classes == ("y",)
    assert len(attention_figures(maps, ["y"]).sheets[0].by_class) == 1
    other = tuple(replace(one, group="other") for one in maps.maps[1:])
    two = replace(maps, maps=(*maps.maps[:1], *other))
    found = attention_figures(two, [], largest=24)
    assert ([sheet.name for sheet in found.sheets], found.left_out) == (["stage <i>0</i>"], ("other",))


def test_what_is_no_number_is_shown_as_zero(maps):
    maps.maps[0].mean[0, 3] = float("nan")
    (sheet,) = attention_figures(maps, ["x"]).sheets
    assert read(sheet.mean, COLUMNS)[0, 3] == 0
    assert sheet.bound < 1


def test_kernels_of_their_own_are_not_shared():
    one = replace(attention("a", 0.0), kind="kernel", group="a", assigned=(), by_class=None)
    one = replace(one, mean=one.mean[:1], size=one.size[:1], spread=one.spread[:1])
    (sheet,) = attention_figures(AttentionMaps((one, replace(one, layer="b", group="b"))), []).sheets
    assert (sheet.name, sheet.shared, sheet.rows, sheet.in_use, sheet.dead) == ("6 kernels", False, 2, None, ())


def test_many_classes_of_a_large_network_do_not_fit():
    model = dynaconv.convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)), dynaconv.KernelWarehouseConfig())
    weights = 9 * 9  # mixtures x cells
    assert classes_that_fit(model) == 2**22 // weights
