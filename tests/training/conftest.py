from __future__ import annotations

import pytest

import dynaconv.training.runs.curves as curves


@pytest.fixture(autouse=True)
def _curves_are_not_painted(monkeypatch):
    """They are plotted; painting takes as long as a tiny run does. Fixtures of a module come before, and paint."""
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: path)
