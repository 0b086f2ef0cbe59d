from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# How long an example takes is up to the machine and what else it does; the first one may even compile kernels.
settings.register_profile("any machine", settings(deadline=None, suppress_health_check=[HealthCheck.too_slow]))
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """What several tests start from is made once: one worker takes a file that has fixtures of its own module.

    A file that says ``xdist_group("name")`` shares its worker with all that say the same; tests of any other file go to
    whichever worker is free. pytest-xdist reads such names off the tests' identities, where pytest 9.2 no longer keeps
    them (pytest-dev/pytest-xdist#1386), so they are read from the files.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneWorkerPerFixture(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(config.rootpath / nodeid.partition("::")[0]) or nodeid

    return OneWorkerPerFixture(config, log)


@functools.cache
def _group(file: Path) -> str | None:
    text = file.read_text(encoding="utf-8")
    if named := re.search(r"xdist_group\(\"(.+)\"\)", text):
        return named[1]
    return str(file) if re.search(r"fixture\(.*scope=\"module\"", text) else None
