"""Gradients and losses of task 1's network, also at its limits, and the differences by
which gradients are checked.
"""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from twins import torch_twin

from common.gradients import central_differences, network_errors
from task1 import MLP, CrossEntropyLoss, Linear, Softmax

EXACT = 1e-12  # the same mathematics in another order
TOLERANCE = 1e-9  # of gradients, relative to the largest entry of all


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("hidden_channels", [(), (3,), (30,) * 10], ids=len)
def test_loss_and_gradients_are_those_of_autograd(hidden_channels, batch):
    rng = np.random.default_rng(batch)
    mlp = MLP(3, hidden_channels, 4, batch)
    linears = mlp.layers[:-1:2]
    for layer in linears:
        layer.bias += rng.normal(0, 0.3, layer.bias.shape)
    x = rng.normal(size=(batch, 3))
    y = rng.integers(0, 4, batch)
    twin = torch_twin(mlp)
    logits = twin(torch.tensor(x))
    loss = cross_entropy(logits, torch.tensor(y))
    loss.backward()
    assert mlp.training_step(x, y, 0) == pytest.approx(loss.item(), rel=EXACT)
    np.testing.assert_allclose(mlp.forward(x), logits.softmax(1).detach(), rtol=1e-9)
    expected = torch.cat([each.grad.flatten() for each in twin.parameters()])
    found = [np.append(layer.grad_weight, layer.grad_bias) for layer in linears]
    atol = TOLERANCE * expected.abs().max().item()
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=0, atol=atol)


@pytest.mark.parametrize(("sign", "gradient"), [(1, [0, 0]), (-1, [-0.5, 0.5])])
def test_loss_and_gradient_at_extreme_logits_are_right(sign, gradient):
    mlp = MLP(2, (), 2)
    mlp.layers[0].weight[:] = np.eye(2)  # the input reaches the softmax as it is
    logits = sign * np.array([[1e300, -1e300], [0, 0]])
    loss = 0 if sign > 0 else 2e300
    found = mlp.training_step(logits, np.array([0, 1]), 0)
    assert found == pytest.approx((loss + np.log(2)) / 2, rel=EXACT)
    np.testing.assert_allclose(mlp.backward(), [gradient, [0.25, -0.25]], atol=EXACT)


def test_cross_entropy_is_finite_at_zero_and_exact_where_a_probability_is_small():
    criterion = CrossEntropyLoss()
    p = Softmax().forward(np.array([[1e300, -1e300]]))
    assert p.tolist() == [[1, 0]]
    assert np.isfinite(criterion.forward(p, np.array([1])))
    assert np.isfinite(criterion.backward()).all()
    loss = criterion.forward(np.array([[1e-300, 1.0]]), np.array([0]))
    assert loss == pytest.approx(300 * np.log(10), rel=EXACT)


def test_a_relu_passes_no_gradient_at_zero():
    mlp = MLP(2, (3,), 2)
    mlp.layers[0].weight[:] = 0
    mlp.training_step(np.ones((4, 2)), np.array([0, 1, 1, 1]), 0)
    assert not mlp.layers[0].grad_weight.any()


def test_central_differences_step_over_no_kink_and_restore_the_array():
    a = np.array([[0.5, -1.0], [4e-6, -7e-7]]).T  # not contiguous
    before = a.copy()
    slopes = central_differences(lambda: float((a**3 + abs(a)).sum()), a)
    np.testing.assert_allclose(slopes, 3 * a**2 + np.sign(a), rtol=1e-7)
    assert np.array_equal(a, before)


class Doubled(Linear):
    """A layer whose own gradients are twice too large."""

    def backward(self, gradient):
        return super().backward(2 * gradient) / 2


def test_the_table_of_task_1_shows_which_gradients_are_wrong():
    mlp = MLP(3, (4,), 2)
    mlp.layers[2] = Doubled(4, 2)
    rows = network_errors(mlp, np.eye(3), np.array([0, 1, 1]))
    wrong = [row["error"] > 1e-7 for row in rows]
    assert wrong == [False, False, True, True]
