"""Gradients and losses of task 1's network and normalization layers, and the tools by which gradients are checked."""

import numpy as np
import pytest
import torch
from gradient_check import AUTOGRAD_TOLERANCE, DIFFERENCES_TOLERANCE, check_layer
from torch.nn.functional import batch_norm, cross_entropy, layer_norm
from twins import torch_twin

from common.gradients import MOST_ENTRIES, central_differences, network_errors, parameter_names, relative_error
from common.normalization import BatchNorm, LayerNorm
from task1 import MLP, CrossEntropyLoss, Linear, ReLU, Softmax

EXACT = 1e-12  # the same mathematics in another order


def parameters(mlp):
    """Every parameter of a network as (layer, name)."""
    return [(layer, name) for layer in mlp.layers for name in parameter_names(layer)]


@pytest.mark.parametrize(("normalization", "batch"), [(None, 1), (None, 7), ("batch", 9), ("layer", 1), ("layer", 7)])
@pytest.mark.parametrize("hidden_channels", [(), (3,), (30, 30), (30,) * 10], ids=len)
def test_loss_and_gradients_equal_autograd_and_central_differences(hidden_channels, normalization, batch):
    rng = np.random.default_rng(batch)
    mlp = MLP(3, hidden_channels, 4, batch, normalization)
    x, y = rng.normal(size=(batch, 3)), rng.integers(0, 4, batch)
    twin, tensor = torch_twin(mlp), torch.tensor(x, requires_grad=True)
    theirs = cross_entropy(twin(tensor), torch.tensor(y))
    theirs.backward()
    assert mlp.loss(x, y, remember=True) == pytest.approx(theirs.item(), rel=EXACT)
    found = [mlp.backward(), *(getattr(layer, f"grad_{name}") for layer, name in parameters(mlp))]
    expected = [each.grad.numpy() for each in (tensor, *twin.parameters())]
    largest = max(np.abs(gradient).max() for gradient in expected)
    arrays = [x, *(getattr(layer, name) for layer, name in parameters(mlp))]
    for array, ours, theirs in zip(arrays, found, expected, strict=True):
        has_effect = np.abs(theirs).max() > 1e-10 * largest  # not so a bias before batch normalization
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=AUTOGRAD_TOLERANCE * largest)
        assert not has_effect or relative_error(ours, theirs) < AUTOGRAD_TOLERANCE
        some = slice(None, None, max(array.size // 4, 1))
        differences = central_differences(lambda: mlp.loss(x, y, remember=True), array.reshape(-1)[some])
        np.testing.assert_allclose(differences, ours.reshape(-1)[some], rtol=0, atol=DIFFERENCES_TOLERANCE * largest)


TWINS = {
    BatchNorm: lambda x, *affine: batch_norm(x, None, None, *affine, training=True),
    LayerNorm: lambda x, *affine: layer_norm(x, x.shape[1:], *affine),
}


@pytest.mark.parametrize(("batch", "channels"), [(3, 3), (7, 4)])
@pytest.mark.parametrize("kind", TWINS)
def test_normalization_gradients_are_right_for_any_scale_and_shift(kind, batch, channels):
    layer, x = kind(channels), np.random.default_rng(1).normal(size=(batch, channels))
    errors = check_layer(layer, TWINS[kind], x, [(layer, "scale"), (layer, "shift")])
    assert [(error.verdict, error.remarks) for error in errors] == [("right", [])] * 3


def test_closed_form_equals_the_chain_through_loss_and_softmax():
    rng = np.random.default_rng(0)
    mlp, criterion = MLP(3, (30, 30), 4), CrossEntropyLoss()
    x, y = rng.normal(size=(6, 3)), rng.integers(0, 4, 6)
    loss, closed = mlp.loss(x, y, remember=True), mlp.backward()
    assert criterion.forward(mlp.forward(x, remember=True), y) == pytest.approx(loss, rel=EXACT)
    chain = criterion.backward()
    for layer in reversed(mlp.layers):
        chain = layer.backward(chain)
    assert relative_error(chain, closed) < AUTOGRAD_TOLERANCE


def classifier_of_logits():
    """A network that hands its input to the softmax as it is."""
    mlp = MLP(2, (), 2)
    mlp.layers[0].weight[:] = np.eye(2)
    return mlp


@pytest.mark.parametrize(("sign", "loss", "gradient"), [(1, 0, [0, 0]), (-1, 2e4, [-0.5, 0.5])])
def test_loss_and_gradient_at_extreme_logits_are_right(sign, loss, gradient):
    mlp, logits = classifier_of_logits(), np.array([[sign * 1e4, -sign * 1e4], [0.0, 0.0]])
    assert mlp.loss(logits, np.array([0, 1]), remember=True) == pytest.approx((loss + np.log(2)) / 2, rel=EXACT)
    np.testing.assert_allclose(mlp.backward(), [gradient, [0.25, -0.25]], atol=EXACT)


@pytest.mark.parametrize("scale", [1e4, 1e300])
def test_losses_and_gradients_are_finite_at_extreme_logits(scale):
    logits, y = scale * np.array([[1.0, -1.0], [-1.0, 1.0]]), np.array([1, 1])
    mlp, criterion, p = classifier_of_logits(), CrossEntropyLoss(), Softmax().forward(logits)
    assert np.array_equal(p, np.eye(2))
    assert np.isfinite([criterion.forward(p, y), mlp.loss(logits, y, remember=True)]).all()
    assert np.isfinite([criterion.backward(), mlp.backward()]).all()


def test_a_small_probability_counts_as_it_is():
    loss = CrossEntropyLoss().forward(np.array([[1e-300, 1.0]]), np.array([0]))
    assert loss == pytest.approx(300 * np.log(10), rel=EXACT)


@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_update_is_exactly_one_step_against_the_gradient(normalization):
    rng = np.random.default_rng(0)
    mlp = MLP(2, (3, 4), 2, 1, normalization)
    mlp.loss(rng.normal(size=(8, 2)), rng.integers(0, 2, 8), remember=True)
    mlp.backward()
    before = [(getattr(layer, name).copy(), getattr(layer, f"grad_{name}").copy()) for layer, name in parameters(mlp)]
    mlp.update(0.3)
    assert len(before) == (6 if normalization is None else 10)
    for (layer, name), (old, gradient) in zip(parameters(mlp), before, strict=True):
        assert gradient.any() or (normalization == "batch" and name == "bias")
        assert np.array_equal(getattr(layer, name), old - 0.3 * gradient)


def test_relu_has_slope_zero_at_zero_as_in_torch_and_stops_even_an_infinite_gradient():
    x, layer = np.array([[0.0, -0.0, 1e-300, -1e-300]]), ReLU()
    layer.forward(x, remember=True)
    tensor = torch.tensor(x, requires_grad=True)
    torch.relu(tensor).sum().backward()
    assert layer.backward(np.ones_like(x)).tolist() == tensor.grad.tolist() == [[0, 0, 1, 0]]
    assert layer.backward(np.full_like(x, -np.inf)).tolist() == [[0, 0, -np.inf, 0]]


# The tools: differences, errors, the table of task 1


def test_central_differences_find_the_derivative_and_restore_the_array():
    a = np.array([[0.5, -1.0], [2.0, 3.0]]).T  # not contiguous
    before = a.copy()
    found = central_differences(lambda: float((a**3).sum()), a)
    assert relative_error(found, 3 * a**2) < DIFFERENCES_TOLERANCE
    assert np.array_equal(a, before)


@pytest.mark.parametrize("distance", [4e-6, -7e-7])
def test_central_differences_step_over_no_kink(distance):
    a = np.array([distance])  # the largest step would reach across the kink of |a|
    assert central_differences(lambda: abs(a[0]), a) == pytest.approx([np.sign(distance)], rel=DIFFERENCES_TOLERANCE)


def test_errors_are_relative_to_the_largest_entry():
    def error(found, expected):
        return relative_error(np.array(found), np.array(expected))

    assert error([1.0, -4.0], [1.0, -5.0]) == error([1.0, -5.0], [1.0, -4.0]) == pytest.approx(0.2, rel=EXACT)
    assert error([0.0, 0.0], [0.0, 1e-9]) == 1
    assert error([0.0, 0.0], [0.0, 0.0]) == 0
    assert error([1.0, np.nan], [1.0, 1.0]) == error([0.0], [np.nan]) == error([1.0], [1.0, 1.0]) == np.inf


class Broken(Linear):
    """A layer whose gradient of the weight is wrong by 0.001 in its first entry."""

    def backward(self, gradient):
        result = super().backward(gradient)
        self.grad_weight[0, 0] += 1e-3
        return result


@pytest.mark.parametrize("broken", [[], [0], [2]])
def test_the_table_of_task_1_shows_which_gradient_is_wrong_by_some_entries_of_each_array(broken):
    rng = np.random.default_rng(0)
    mlp = MLP(3, (4, 600), 2)
    for k in broken:
        mlp.layers[k] = Broken(*mlp.layers[k].weight.shape[::-1], rng)
    rows = network_errors(mlp, rng.normal(size=(6, 3)), rng.integers(0, 2, 6))
    assert [k for k, row in enumerate(rows) if row["error"] > DIFFERENCES_TOLERANCE] == broken
    largest = max(np.abs(getattr(layer, f"grad_{name}")).max() for layer, name in parameters(mlp))
    assert [rows[k]["error"] for k in broken] == pytest.approx([1e-3 / largest] * len(broken), rel=1e-3)
    for row, (layer, name) in zip(rows, parameters(mlp), strict=True):
        array, some = getattr(layer, name), row["checked"]
        assert (row["parameter"], tuple(row["shape"])) == (name, array.shape)
        assert some == array.size if array.size <= MOST_ENTRIES else MOST_ENTRIES / 2 < some <= MOST_ENTRIES
