"""Task 1's network as the chain of its layers, also at its limits, and the differences
by which its gradients are checked.
"""

import numpy as np
import pytest

from common.gradients import central_differences
from task1 import MLP, CrossEntropyLoss, Linear, ReLU, Softmax, gradient_errors

EXACT = 1e-12  # the same mathematics in another order
X = np.random.default_rng(0).normal(size=(7, 3))
Y = np.array([0, 1, 3, 3, 2, 0, 1])


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=EXACT)


@pytest.mark.parametrize("hidden_channels", [(), (5, 4)], ids=len)
def test_loss_and_backward_are_those_of_the_chain_of_layers(hidden_channels):
    mlp = MLP(3, hidden_channels, 4)
    criterion = CrossEntropyLoss()
    loss = criterion.forward(mlp.forward(X), Y)
    gradient = criterion.backward()
    for layer in reversed(mlp.layers):
        gradient = layer.backward(gradient)
    weights = [layer.grad_weight for layer in mlp.layers[:-1:2]]
    assert mlp.loss(X, Y) == pytest.approx(loss, rel=EXACT)
    close(mlp.backward(), gradient)
    for layer, expected in zip(mlp.layers[:-1:2], weights, strict=True):
        close(layer.grad_weight, expected)


def test_loss_and_gradient_at_extreme_logits_are_right():
    mlp = MLP(2, (), 2)
    mlp.layers[0].weight[:] = np.eye(2)  # the input reaches the softmax as it is
    logits = np.array([[1e300, -1e300], [1e300, -1e300]])
    assert mlp.loss(logits, np.array([0, 1])) == pytest.approx(1e300, rel=EXACT)
    close(mlp.backward(), [[0, 0], [0.5, -0.5]])


def test_cross_entropy_is_finite_at_zero_and_exact_where_a_probability_is_small():
    criterion = CrossEntropyLoss()
    p = Softmax().forward(np.array([[1e300, -1e300]]))
    assert p.tolist() == [[1, 0]]
    assert np.isfinite(criterion.forward(p, np.array([1])))
    assert np.isfinite(criterion.backward()).all()
    loss = criterion.forward(np.array([[1e-300, 1.0]]), np.array([0]))
    assert loss == pytest.approx(300 * np.log(10), rel=EXACT)


def test_a_relu_passes_no_gradient_at_zero():
    relu = ReLU()
    relu.forward(np.zeros((1, 2)))
    assert not relu.backward(np.ones((1, 2))).any()


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


@pytest.mark.parametrize("width", [4, 900])
def test_the_table_of_task_1_soon_shows_which_gradients_are_wrong(width):
    mlp = MLP(3, (width,), 4)
    mlp.layers[2] = Doubled(width, 4)
    rows = gradient_errors(mlp, X / 9, Y)
    assert sum(row["checked"] for row in rows) < 100
    assert [row["error"] > 1e-7 for row in rows] == [False, False, True, True]
    assert max(row["error"] for row in rows) == pytest.approx(0.5)
