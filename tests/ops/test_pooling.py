"""The average whose gradient is not written out."""

import pytest
import torch

from dynaconv.ops import average


@pytest.mark.parametrize(("shape", "dims"), [((2, 3, 4, 5), (2, 3)), ((2, 5, 3), (1,)), ((2, 3, 4, 1, 2), (2, 3, 4))])
def test_values_and_all_gradients(shape, dims):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(average(x, dims), x.mean(dim=dims))
    assert torch.autograd.gradcheck(lambda t: average(t, dims), x)
    assert torch.autograd.gradgradcheck(lambda t: average(t, dims).sin(), x)


def test_the_gradient_takes_no_memory():
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(average(x, (2, 3)).sum(), x)
    assert gradient.untyped_storage().nbytes() <= 2 * 3 * 4 * 2
    torch.testing.assert_close(gradient, torch.full_like(x, 1 / 64**2))


def test_an_empty_map_and_an_empty_batch():
    assert average(torch.zeros(0, 3, 4, 4, requires_grad=True), (2, 3)).shape == (0, 3)
