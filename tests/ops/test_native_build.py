"""Compiling the CPU kernels: once, whole or not at all, and never in the way."""

import ctypes
import re
import stat
import threading
from pathlib import Path

import pytest
import torch

from dynaconv.ops import Geometry, Mixture, mixture_conv, native_status
from dynaconv.ops.native import build, support

STATUS = Path("/proc/self/status")
NATIVE = {"backend": "native"}
attempt = build._library.__wrapped__  # past the cache of this process


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNACONV_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DYNACONV_NATIVE", raising=False)
    return tmp_path / "cache"


def fake_compiler(tmp_path, monkeypatch, script):
    """A compiler that is a line of shell. The real one with -O0 behind all takes a tenth of the time."""
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(compiler))


def test_status_says_where_or_why_not():
    assert native_status().startswith(("compiled kernels: ", "no compiled kernels: "))


@pytest.mark.skipif(build.library() is None, reason="no C compiler")
def test_compiled_once_and_kept(folder, tmp_path, monkeypatch):
    fake_compiler(tmp_path, monkeypatch, 'exec gcc "$@" -O0')
    found, where = attempt()
    assert isinstance(found, ctypes.CDLL)
    assert [path.name for path in folder.iterdir()] == [where.rsplit("/", 1)[1]]
    monkeypatch.setenv("CC", "/nowhere/cc")  # the kept file needs no compiler
    assert attempt()[1] == where


@pytest.mark.skipif(build.library() is None or not STATUS.exists(), reason="no C compiler, or no /proc")
def test_scratch_ends_with_its_thread():
    """A service may answer every request in a thread of its own."""
    mixture = Mixture((9, 1, 1), Geometry((3, 3), (1, 1), (1, 1), (1, 1)))
    x, attention, cells = torch.randn(2, 16, 8, 8), torch.randn(2, 9, 3), torch.randn(3, 16, 16, 1, 1)

    def grown(threads: int) -> int:
        before = resident()
        for _ in range(threads):
            thread = threading.Thread(target=mixture_conv, args=(x, attention, cells, mixture), kwargs=NATIVE)
            thread.start()
            thread.join()
        return resident() - before

    grown(10)
    assert grown(40) < 40 * 2**20  # a thread takes 2 MB at least, which were 80


def resident() -> int:
    """Memory of this process in bytes."""
    return 1024 * int(re.search(r"VmRSS:\s+(\d+) kB", STATUS.read_text())[1])


def test_without_a_compiler(folder, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(folder))
    found, why = attempt()
    assert found is None
    assert "no C compiler found" in why
    assert not folder.exists()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            'echo "kernels.c:1: error: no such machine" >&2; exit 1',
            "can not compile them: kernels.c:1: error: no such machine",
        ),
        ("kill -9 $$", "the compiler failed without a word"),  # as by a system without memory
    ],
    ids=["fails", "is killed"],
)
def test_a_compiler_that_ends_badly_leaves_nothing_behind(folder, tmp_path, monkeypatch, script, reason):
    fake_compiler(tmp_path, monkeypatch, script)
    found, why = attempt()
    assert found is None
    assert reason in why
    assert list(folder.iterdir()) == []


def test_an_interrupted_compilation_leaves_nothing_behind(folder, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(build.subprocess, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        attempt()
    assert list(folder.iterdir()) == []


def test_a_second_attempt_without_threads(folder, tmp_path, monkeypatch):
    fake_compiler(
        tmp_path, monkeypatch, 'case "$*" in *openmp*) echo "no OpenMP" >&2; exit 1;; esac; exec gcc "$@" -O0'
    )
    if build.library() is None:
        pytest.skip("no C compiler")
    assert isinstance(attempt()[0], ctypes.CDLL)


def test_switched_off(folder, monkeypatch):
    monkeypatch.setenv("DYNACONV_NATIVE", "0")
    found, why = attempt()
    assert found is None
    assert "DYNACONV_NATIVE=0" in why


def test_a_folder_that_can_not_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DYNACONV_CACHE", str(tmp_path / "file"))
    found, why = attempt()
    assert found is None
    assert "DYNACONV_CACHE names another folder" in why


@pytest.mark.parametrize("training", [False, True])
def test_layers_do_without_kernels(monkeypatch, training):
    mixture = Mixture((9, 1, 1), Geometry((3, 3), (1, 1), (1, 1), (1, 1)))
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64, requires_grad=training)
    attention, cells = torch.randn(2, 9, 3, dtype=torch.float64), torch.randn(3, 6, 4, 1, 1, dtype=torch.float64)
    expected = mixture_conv(x, attention, cells, mixture, backend="textbook")
    monkeypatch.setattr(support, "library", lambda: None)
    torch.testing.assert_close(mixture_conv(x, attention, cells, mixture), expected)
    with pytest.raises(ValueError, match=r"'native' .* can not do this layer here"):
        mixture_conv(x, attention, cells, mixture, backend="native")


@pytest.mark.filterwarnings("ignore:.*jit.trace.*:FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("learns", [False, True])
def test_traced_and_transformed_layers_use_operators_that_are_seen(learns):
    mixture = Mixture((9, 1, 1), Geometry((3, 3), (1, 1), (1, 1), (1, 1)))
    x, attention = torch.randn(3, 4, 5, 5), torch.randn(3, 9, 3)
    cells = torch.randn(3, 6, 4, 1, 1, requires_grad=learns)
    expected = mixture_conv(x, attention, cells, mixture)
    each = torch.func.vmap(lambda a, b: mixture_conv(a[None], b[None], cells, mixture, backend="matmul")[0])
    torch.testing.assert_close(each(x, attention), expected, rtol=1e-4, atol=1e-4)
    traced = torch.jit.trace(lambda a, b, c: mixture_conv(a, b, c, mixture), (x, attention, cells), check_trace=False)
    other = (torch.randn(3, 4, 5, 5), torch.randn(3, 9, 3))
    torch.testing.assert_close(traced(*other, cells), mixture_conv(*other, cells, mixture), rtol=1e-4, atol=1e-4)
