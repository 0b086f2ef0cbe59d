"""Results name the allocator, and files never take the place of others."""

from __future__ import annotations

import os

import pytest

from dynaconv.analysis.environment import allocator, describe, environment
from dynaconv.analysis.files import free_stem, timed_stem
from dynaconv.files import write_text


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for key in list(os.environ):
        if key.startswith(("MALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES", "DYLD_INSERT")):
            monkeypatch.delenv(key)


def test_allocator(monkeypatch):
    assert allocator().endswith("malloc, default")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "0")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.cpu.x=1:glibc.malloc.hugetlb=1")
    assert allocator().endswith("malloc, MALLOC_TRIM_THRESHOLD_=0 glibc.malloc.hugetlb=1")
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2")
    assert allocator().startswith("jemalloc, MALLOC_TRIM")


def test_an_environment_in_one_line():
    here = environment()
    assert here["allocator"] in describe(here)
    del here["allocator"]  # as in older results
    assert "malloc" not in describe(here)


def test_names_that_are_free(tmp_path):
    assert free_stem(tmp_path, "a", ("json", "md")) == "a"
    write_text(tmp_path / "a.md", "text")
    assert free_stem(tmp_path, "a", ("json", "md")) == "a-2"
    assert free_stem(tmp_path, "a", ("json",)) == "a"
    assert timed_stem(tmp_path, "bench", ("json",)).startswith("bench-2")
    assert [path.name for path in tmp_path.iterdir()] == ["a.md"]
