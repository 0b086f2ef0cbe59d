import pytest
import torch

from dynaconv.ops.attention import ATTENTION_FUNCTIONS, EPSILON, attention_function, blend_with_assignment, contrasting
from tests import oracles


@pytest.mark.parametrize(("normaliser", "added"), [("unit", 0.0), ("paper", 1e-3)])
@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0])
def test_contrasting_attention_is_the_equation(tau, normaliser, added):
    logits = torch.randn(3, 4, 6, dtype=torch.float64)
    beta = torch.zeros(4, 6)
    beta[torch.arange(4), torch.tensor([0, 5, 2, 5])] = 1
    alpha = blend_with_assignment(contrasting(logits, normaliser), beta, torch.tensor(tau))
    # The temperature is stored in float32, so 0.3 is only that exact.
    torch.testing.assert_close(
        alpha, oracles.contrasting(logits, beta, float(torch.tensor(tau)), added), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("normaliser", ["unit", "paper"])
def test_contrasting_is_signed_and_bounded(normaliser):
    alpha = contrasting(torch.randn(100, 9, dtype=torch.float64), normaliser)
    assert (alpha < 0).any()
    sums = alpha.abs().sum(-1)
    if normaliser == "paper":
        assert (sums < 1).all()
    else:
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-14, atol=0)


@pytest.mark.parametrize("normaliser", ["unit", "paper"])
@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-4, 1.0])
def test_gradients_have_a_bound_where_logits_vanish(size, normaliser):
    z = torch.full((1, 4), size, dtype=torch.float64, requires_grad=True)
    alpha = contrasting(z, normaliser)
    assert alpha.isfinite().all()
    (gradient,) = torch.autograd.grad(alpha[0, 0], z)
    assert gradient.abs().max() <= 1 / EPSILON


@pytest.mark.parametrize("normaliser", ["unit", "paper"])
def test_the_other_functions_of_the_ablation(normaliser):
    z = torch.tensor([[1.0, -3.0, 0.0]], dtype=torch.float64)
    total = 4 + (EPSILON if normaliser == "paper" else 0)
    expected = {
        "contrasting": [1 / total, -3 / total, 0],
        "nonnegative": [1 / total, 0, 0],
        "softmax": (z.exp() / z.exp().sum()).squeeze().tolist(),
        "sigmoid": (1 / (1 + (-z).exp())).squeeze().tolist(),
    }
    assert set(expected) == set(ATTENTION_FUNCTIONS)
    for name, values in expected.items():
        assert attention_function(name, normaliser)(z).squeeze().tolist() == pytest.approx(values)


def test_gradients():
    logits = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    beta = torch.eye(3, 5)
    assert torch.autograd.gradcheck(lambda z: blend_with_assignment(contrasting(z), beta, torch.tensor(0.5)), logits)
