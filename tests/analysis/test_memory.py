"""Peak memory is watched from a moment on, in a process that says why it failed."""

from __future__ import annotations

import sys

import pytest
import torch

from dynaconv.analysis.memory import measure_in_process, watch_peak
from dynaconv.errors import DynaconvError


def test_peak_is_that_of_what_came_after():
    torch.ones(64 * 2**20 // 4).sum()
    peak = watch_peak(torch.device("cpu"))
    held = torch.ones(16 * 2**20 // 4)
    del held
    assert 15 * 2**20 < peak() < 32 * 2**20


def test_memory_says_why_it_failed(tmp_path, monkeypatch):
    interpreter = tmp_path / "python"
    interpreter.write_text("#!/bin/sh\necho first >&2\necho RuntimeError: no memory >&2\nexit 3\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    with pytest.raises(DynaconvError, match=r"ended with code 3: RuntimeError: no memory$"):
        measure_in_process("nobody", {})
