"""Tests of a file that share what it made share a worker, too: pytest-xdist can not tell, tests/conftest.py does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("xdist", reason="needs the extra 'dev'")


@pytest.fixture(scope="module")
def made(tmp_path_factory, testrun_uid) -> Path:
    folder = tmp_path_factory.getbasetemp().parent / f"made-{testrun_uid}"
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).touch()
    return folder


@pytest.mark.parametrize("number", range(12))
def test_made_once(made, number):
    assert [file.name for file in made.iterdir()] == [str(os.getpid())]
