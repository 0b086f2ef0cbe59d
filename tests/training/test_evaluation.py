"""The first batches of a loader, and no more of them."""

from __future__ import annotations

import pytest
import torch

from dynaconv.training.evaluation import first_batches


@pytest.mark.parametrize(("limit", "sizes"), [(None, [4, 4, 2]), (4, [4]), (6, [4, 2]), (8, [4, 4]), (99, [4, 4, 2])])
def test_no_batch_beyond_the_limit_is_asked_for(limit, sizes):
    asked, done = [], []

    def loaded():
        for size in (4, 4, 2):
            asked.append(size)
            yield torch.zeros(size, 1), torch.arange(size)

    assert [len(labels) for _, labels in first_batches(loaded(), limit, lambda: done.append(None))] == sizes
    assert len(asked) == len(done) == len(sizes)
