"""Curves from a run's figures, and where their points go."""

from __future__ import annotations

import pytest

from dynaconv.training.report import chart
from dynaconv.training.report.curves import curves_of, read_curves
from dynaconv.training.runs.history import write_csv

ROWS = [
    {"epoch": 1, "train_loss": 2.0, "val_loss": 4.0, "tau": None, "lr": 0.1, "seconds": 3.0},
    {"epoch": 2, "train_loss": float("nan"), "val_loss": 3.0, "tau": None, "lr": 0.1, "seconds": 4.5},
    {"epoch": 3, "train_loss": 1.0, "val_loss": 0.5, "tau": None, "lr": 0.1, "seconds": 4.5},
]


def test_panels_hold_what_there_is():
    found = curves_of(ROWS)
    assert [panel.title for panel in found.panels] == ["Loss", "Learning rate"]
    assert found.panels[0].series == {"training": (2.0, None, 1.0), "validation": (4.0, 3.0, 0.5)}
    assert (found.epochs, found.seconds) == ((1, 2, 3), 12.0)
    assert curves_of([]) is None


def test_files_of_a_run(tmp_path):
    curves, why = read_curves(tmp_path)
    assert curves is None
    assert why.startswith("There is no metrics.csv")
    write_csv(tmp_path / "metrics.csv", [{**row, "train_loss": 1.0} for row in ROWS], list(ROWS[0]))
    assert read_curves(tmp_path)[0].epochs == (1, 2, 3)
    (tmp_path / "metrics.csv").write_text("epoch,lr\n1,fast\n")
    assert "can not be read: could not convert" in read_curves(tmp_path)[1]


def test_points_are_in_proportion_and_gaps_stay_open():
    found = curves_of(ROWS)
    one = chart.lay_out(found.panels[0], found.epochs)
    training, validation = one.lines
    assert [len(stroke) for stroke in training.strokes] == [1, 1]  # the middle one is no number
    (points,) = validation.strokes
    (x1, y1), (x2, y2), (x3, y3) = points
    assert (x1, x3) == (chart.LEFT, chart.WIDTH - chart.RIGHT)
    assert x2 == pytest.approx((x1 + x3) / 2)
    assert (y2 - y1) / (y3 - y1) == pytest.approx((4 - 3) / (4 - 0.5), abs=1e-3)
    ticks = {tick.label: tick.at for tick in one.y_ticks}
    assert ticks["4"] == y1
    assert all(chart.TOP <= y <= chart.HEIGHT - chart.BOTTOM for y in ticks.values())
    assert one.texts[1] == "epoch 2: validation 3"
    assert [tick.label for tick in one.x_ticks] == ["1", "2", "3"]


def test_a_single_epoch_and_a_level_line_have_room():
    found = curves_of(ROWS[:1])
    one = chart.lay_out(found.panels[1], found.epochs)
    ((x, y),) = one.lines[0].strokes[0]
    assert chart.LEFT < x < chart.WIDTH - chart.RIGHT
    assert chart.TOP < y < chart.HEIGHT - chart.BOTTOM
    assert one.texts == ("epoch 1: 0.1",)
