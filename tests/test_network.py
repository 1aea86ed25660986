"""Task 1's network at its limits, and the differences by which its gradients are
checked.
"""

import numpy as np
import pytest

from common.gradients import central_differences
from task1 import MLP, CrossEntropyLoss, Linear, ReLU, Softmax, gradient_errors

EXACT = 1e-12  # the same mathematics in another order


def test_loss_and_gradient_at_extreme_logits_are_right():
    mlp = MLP(2, (), 2)
    mlp.layers[0].weight[:] = [[2, 0], [0, 1]]
    x = np.array([[1e300, -1e300], [1e300, -1e300]])  # logits 2e300 and -1e300
    assert mlp.loss(x, np.array([0, 1])) == pytest.approx(1.5e300, rel=EXACT)
    np.testing.assert_allclose(mlp.backward(), [[0, 0], [1, -0.5]], atol=EXACT)


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
    rng = np.random.default_rng(0)
    mlp.layers[2] = Doubled(width, 4, rng)
    x = rng.normal(size=(7, 3)) / 9
    rows = gradient_errors(mlp, x, np.array([0, 1, 3, 3, 2, 0, 1]))
    assert sum(row["checked"] for row in rows) < 100
    assert [row["error"] > 1e-7 for row in rows] == [False, False, True, True]
    assert max(row["error"] for row in rows) == pytest.approx(0.5)
