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
@pytest.mark.parametrize("hidden_channels", [(), (3,), (30, 30), (30,) * 10], ids=len)
def test_loss_and_gradients_equal_autograd_and_central_differences(
    hidden_channels, batch
):
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
    found = []
    for layer in linears:
        found += [layer.grad_weight, layer.grad_bias]
    expected = [parameter.grad.numpy() for parameter in twin.parameters()]
    atol = TOLERANCE * max(np.abs(gradient).max() for gradient in expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)
    for layer in linears:
        slopes = central_differences(lambda: mlp.loss(x, y), layer.bias[:2])
        np.testing.assert_allclose(slopes, layer.grad_bias[:2], rtol=0, atol=100 * atol)


@pytest.mark.parametrize("scale", [1e4, 1e300])
@pytest.mark.parametrize(("sign", "gradient"), [(1, [0, 0]), (-1, [-0.5, 0.5])])
def test_loss_and_gradient_at_extreme_logits_are_right(sign, gradient, scale):
    mlp = MLP(2, (), 2)
    mlp.layers[0].weight[:] = np.eye(2)  # the input reaches the softmax as it is
    logits = sign * np.array([[scale, -scale], [0, 0]])
    loss = 0 if sign > 0 else 2 * scale
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


def test_central_differences_find_the_derivative_and_restore_the_array():
    a = np.array([[0.5, -1.0], [2.0, 3.0]]).T  # not contiguous
    before = a.copy()
    found = central_differences(lambda: float((a**3).sum()), a)
    np.testing.assert_allclose(found, 3 * a**2, rtol=1e-7)
    assert np.array_equal(a, before)


@pytest.mark.parametrize("distance", [4e-6, -7e-7])
def test_central_differences_step_over_no_kink(distance):
    a = np.array([distance])  # the largest step would reach across the kink of |a|
    found = central_differences(lambda: abs(a[0]), a)
    assert found == pytest.approx([np.sign(distance)], rel=1e-7)


class Broken(Linear):
    """A layer whose gradient of the weight is wrong by 0.001 in its first entry."""

    def backward(self, gradient):
        result = super().backward(gradient)
        self.grad_weight[0, 0] += 1e-3
        return result


@pytest.mark.parametrize("broken", [0, 2])
def test_the_table_of_task_1_shows_which_gradient_is_wrong(broken):
    rng = np.random.default_rng(0)
    mlp = MLP(3, (4,), 2)
    mlp.layers[broken] = Broken(*mlp.layers[broken].weight.T.shape, rng)
    rows = network_errors(mlp, rng.normal(size=(6, 3)), rng.integers(0, 2, 6))
    wrong = [k for k, row in enumerate(rows) if row["error"] > 1e-7]
    assert wrong == [broken]
