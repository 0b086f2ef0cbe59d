"""Tests of a group share what they start from: one worker must get them all."""

from __future__ import annotations

import os

import pytest


@pytest.mark.xdist_group("groups")
@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process has all tests anyway")
def test_groups_are_heard(request):
    """pytest-xdist tells its scheduler by the test's name; it says nothing where that no longer works."""
    assert request.node.nodeid.endswith("@groups") or not request.config.getoption("loadgroup")
