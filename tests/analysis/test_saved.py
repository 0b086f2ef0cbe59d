from __future__ import annotations

import pytest
import torch
from torch import nn

import dynaconv
from dynaconv.analysis.saved import saved_bytes
from dynaconv.errors import DynaconvError


def test_storages_are_counted_once_and_weights_not():
    body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3, padding=1))
    network = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 7)).eval()
    pixels = 8 * 8
    images, hidden, pooled, logits = 3 * pixels, 4 * pixels, 5, 7  # a mean needs no input for its backward pass
    expected = 2 * 4 * (images + hidden + pooled + logits) + 2 * 8 + 4  # labels, and the loss's divisor
    assert saved_bytes(network, (3, 8, 8), 2) == expected
    assert not network.training
    assert all(not p.is_meta for p in network.parameters())


@pytest.mark.parametrize("name", ["kw1x_resnet18", "od1x_resnet18"])
def test_activations_grow_with_the_batch(name):
    with torch.device("meta"):
        model = dynaconv.create_model(name)
    two, four = (saved_bytes(model, (3, 64, 64), n) for n in (2, 4))
    assert 1.7 * two < four < 2.1 * two


def test_what_does_not_fit_is_said():
    with pytest.raises(DynaconvError, match=r"Linear keeps of an input of shape \(2, 3, 4, 4\)"):
        saved_bytes(nn.Linear(5, 5), (3, 4, 4), 2)
