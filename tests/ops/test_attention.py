import pytest
import torch

from dynaconv.ops.attention import ATTENTION_FUNCTIONS, EPSILON, blend_with_assignment, contrasting
from tests import oracles


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0])
def test_contrasting_attention_is_the_equation(tau):
    logits = torch.randn(3, 4, 6, dtype=torch.float64)
    beta = torch.zeros(4, 6)
    beta[torch.arange(4), torch.tensor([0, 5, 2, 5])] = 1
    alpha = blend_with_assignment(contrasting(logits), beta, torch.tensor(tau))
    # The temperature is stored in float32, so 0.3 is only that exact.
    torch.testing.assert_close(
        alpha, oracles.contrasting(logits, beta, float(torch.tensor(tau))), rtol=1e-12, atol=1e-14
    )


def test_contrasting_is_signed_and_bounded():
    alpha = contrasting(torch.randn(100, 9))
    assert (alpha < 0).any()
    assert (alpha.abs().sum(-1) < 1).all()
    assert contrasting(torch.zeros(1, 5)).isfinite().all()


def test_the_other_functions_of_the_ablation():
    z = torch.tensor([[1.0, -3.0, 0.0]], dtype=torch.float64)
    total = 4 + EPSILON
    expected = {
        "contrasting": [1 / total, -3 / total, 0],
        "nonnegative": [1 / total, 0, 0],
        "softmax": (z.exp() / z.exp().sum()).squeeze().tolist(),
        "sigmoid": (1 / (1 + (-z).exp())).squeeze().tolist(),
    }
    assert set(expected) == set(ATTENTION_FUNCTIONS)
    for name, values in expected.items():
        assert ATTENTION_FUNCTIONS[name](z).squeeze().tolist() == pytest.approx(values)


def test_gradients():
    logits = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    beta = torch.eye(3, 5)
    assert torch.autograd.gradcheck(lambda z: blend_with_assignment(contrasting(z), beta, torch.tensor(0.5)), logits)
