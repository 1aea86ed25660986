"""Gradients and losses of task 1's network, also with normalization, and the tools by
which gradients are checked.
"""

import numpy as np
import pytest
import torch
from gradient_check import AUTOGRAD_TOLERANCE, DIFFERENCES_TOLERANCE
from torch.nn.functional import cross_entropy
from twins import torch_twin

from common.gradients import (
    MOST_ENTRIES,
    central_differences,
    network_errors,
    parameter_names,
    relative_error,
)
from common.normalization import BatchNorm
from task1 import MLP, CrossEntropyLoss, Linear, ReLU, Softmax

EXACT = 1e-12  # the same mathematics in another order


def parameters(mlp):
    """Every parameter of a network as (layer, name)."""
    return [(layer, name) for layer in mlp.layers for name in parameter_names(layer)]


@pytest.mark.parametrize(
    ("normalization", "batch"),
    [(None, 1), (None, 7), ("batch", 9), ("layer", 1), ("layer", 7)],
)
@pytest.mark.parametrize("hidden_channels", [(), (3,), (30, 30), (30,) * 10], ids=len)
def test_loss_and_gradients_equal_autograd_and_central_differences(
    hidden_channels, normalization, batch
):
    rng = np.random.default_rng(batch)
    mlp = MLP(3, hidden_channels, 4, batch, normalization)
    for array in (
        getattr(layer, name) for layer, name in parameters(mlp) if name != "weight"
    ):
        array += rng.normal(
            0, 0.3, array.shape
        )  # biases, scales and shifts of any value
    x, y = rng.normal(size=(batch, 3)), rng.integers(0, 4, batch)
    twin, tensor = torch_twin(mlp), torch.tensor(x, requires_grad=True)
    theirs = cross_entropy(twin(tensor), torch.tensor(y))
    theirs.backward()
    assert mlp.loss(x, y, remember=True) == pytest.approx(theirs.item(), rel=EXACT)
    np.testing.assert_allclose(
        mlp.forward(x), twin.eval()(tensor).softmax(1).detach(), rtol=1e-9
    )  # in evaluation
    found = [
        mlp.backward(),
        *(getattr(layer, f"grad_{name}") for layer, name in parameters(mlp)),
    ]
    expected = [each.grad.numpy() for each in (tensor, *twin.parameters())]
    largest = max(np.abs(gradient).max() for gradient in expected)
    arrays = [x, *(getattr(layer, name) for layer, name in parameters(mlp))]
    for array, ours, theirs in zip(arrays, found, expected, strict=True):
        has_effect = (
            np.abs(theirs).max() > 1e-10 * largest
        )  # not so a bias before batch normalization
        np.testing.assert_allclose(
            ours, theirs, rtol=0, atol=AUTOGRAD_TOLERANCE * largest
        )
        assert not has_effect or relative_error(ours, theirs) < AUTOGRAD_TOLERANCE
        some = slice(None, None, max(array.size // 4, 1))
        differences = central_differences(
            lambda: mlp.loss(x, y, remember=True), array.reshape(-1)[some]
        )
        np.testing.assert_allclose(
            differences,
            ours.reshape(-1)[some],
            rtol=0,
            atol=DIFFERENCES_TOLERANCE * largest,
        )


@pytest.mark.parametrize("scale", [1e4, 1e300])
@pytest.mark.parametrize(("sign", "gradient"), [(1, [0, 0]), (-1, [-0.5, 0.5])])
def test_loss_and_gradient_at_extreme_logits_are_right(sign, gradient, scale):
    mlp, logits = MLP(2, (), 2), sign * np.array([[scale, -scale], [0, 0]])
    mlp.layers[0].weight[:] = np.eye(2)  # the input reaches the softmax as it is
    loss = 0 if sign > 0 else 2 * scale
    assert mlp.loss(logits, np.array([0, 1]), remember=True) == pytest.approx(
        (loss + np.log(2)) / 2, rel=EXACT
    )
    np.testing.assert_allclose(mlp.backward(), [gradient, [0.25, -0.25]], atol=EXACT)


def test_cross_entropy_is_finite_where_a_probability_is_zero_and_exact_where_it_is_small():
    p, criterion = Softmax().forward(np.array([[1e300, -1e300]])), CrossEntropyLoss()
    assert p.tolist() == [[1, 0]]
    assert np.isfinite(
        [criterion.forward(p, np.array([1])), *criterion.backward().flat]
    ).all()
    loss = criterion.forward(np.array([[1e-300, 1.0]]), np.array([0]))
    assert loss == pytest.approx(300 * np.log(10), rel=EXACT)


def test_relu_has_slope_zero_at_zero_as_in_torch():
    x, layer = np.array([[0.0, -0.0, 1e-300, -1e-300]]), ReLU()
    layer.forward(x, remember=True)
    tensor = torch.tensor(x, requires_grad=True)
    torch.relu(tensor).sum().backward()
    assert (
        layer.backward(np.ones_like(x)).tolist()
        == tensor.grad.tolist()
        == [[0, 0, 1, 0]]
    )


def test_a_batch_of_one_is_refused_in_training_alone():
    assert BatchNorm(3).forward(np.ones((1, 3))).shape == (1, 3)
    with pytest.raises(ValueError, match="at least two"):
        BatchNorm(3).forward(np.ones((1, 3)), remember=True)


def test_central_differences_find_the_derivative_and_restore_the_array():
    a = np.array([[0.5, -1.0], [2.0, 3.0]]).T  # not contiguous
    before = a.copy()
    found = central_differences(lambda: float((a**3).sum()), a)
    assert relative_error(found, 3 * a**2) < DIFFERENCES_TOLERANCE
    assert np.array_equal(a, before)


@pytest.mark.parametrize("distance", [4e-6, -7e-7])
def test_central_differences_step_over_no_kink(distance):
    a = np.array([distance])  # the largest step would reach across the kink of |a|
    assert central_differences(lambda: abs(a[0]), a) == pytest.approx(
        [np.sign(distance)], rel=DIFFERENCES_TOLERANCE
    )


def test_errors_are_relative_to_the_largest_entry():
    def error(found, expected):
        return relative_error(np.array(found), np.array(expected))

    assert (
        error([1.0, -4.0], [1.0, -5.0])
        == error([1.0, -5.0], [1.0, -4.0])
        == pytest.approx(0.2, rel=EXACT)
    )
    assert error([0.0, 0.0], [0.0, 1e-9]) == 1
    assert error([0.0, 0.0], [0.0, 0.0]) == 0
    assert (
        error([1.0, np.nan], [1.0, 1.0])
        == error([0.0], [np.nan])
        == error([1.0], [1.0, 1.0])
        == np.inf
    )


class Broken(Linear):
    """A layer whose gradient of the weight is wrong by 0.001 in its first entry."""

    def backward(self, gradient):
        result = super().backward(gradient)
        self.grad_weight[0, 0] += 1e-3
        return result


@pytest.mark.parametrize("broken", [[], [0], [2]])
def test_the_table_of_task_1_shows_which_gradient_is_wrong_by_some_entries_of_each_array(
    broken,
):
    rng = np.random.default_rng(0)
    mlp = MLP(3, (4, 600), 2)
    for k in broken:
        mlp.layers[k] = Broken(*mlp.layers[k].weight.shape[::-1], rng)
    rows = network_errors(mlp, rng.normal(size=(6, 3)), rng.integers(0, 2, 6))
    assert [
        k for k, row in enumerate(rows) if row["error"] > DIFFERENCES_TOLERANCE
    ] == broken
    largest = max(
        np.abs(getattr(layer, f"grad_{name}")).max() for layer, name in parameters(mlp)
    )
    assert [rows[k]["error"] for k in broken] == pytest.approx(
        [1e-3 / largest] * len(broken), rel=1e-3
    )
    for row, (layer, name) in zip(rows, parameters(mlp), strict=True):
        array, some = getattr(layer, name), row["checked"]
        assert (row["parameter"], tuple(row["shape"])) == (name, array.shape)
        assert (
            some == array.size
            if array.size <= MOST_ENTRIES
            else MOST_ENTRIES / 2 < some <= MOST_ENTRIES
        )
