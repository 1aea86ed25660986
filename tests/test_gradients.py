"""Every hand-written gradient against central differences and torch.autograd in float64."""

import numpy as np
import pytest
import torch
from conftest import assert_right
from torch import nn

from common.gradients import (
    AUTOGRAD_TOLERANCE,
    DIFFERENCES_TOLERANCE,
    central_differences,
    check_layer,
    check_loss,
    network_errors,
    parameter_names,
    relative_error,
)
from common.normalization import BatchNorm, LayerNorm
from task1 import MLP, CrossEntropyLoss, Linear, ReLU, Softmax

SHAPES = [(1, 1, 1), (1, 3, 2), (5, 3, 4), (17, 2, 9)]
EXACT = 1e-12  # the same mathematics in another order


# The layers


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("batch", "inputs", "outputs"), SHAPES)
def test_linear_gradients_are_right(batch, inputs, outputs, seed):
    rng = np.random.default_rng(seed)
    layer = Linear(inputs, outputs, rng)
    layer.bias[:] = rng.normal(size=outputs)
    checks = check_layer(layer, nn.functional.linear, rng.normal(size=(batch, inputs)), rng, np.array)
    assert_right(checks, "x", "weight", "bias")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("batch", "_", "channels"), SHAPES)
@pytest.mark.parametrize(("layer", "twin"), [(ReLU, torch.relu), (Softmax, nn.Softmax(dim=1))])
def test_activation_gradients_are_right(layer, twin, batch, _, channels, seed):
    rng = np.random.default_rng(seed)
    assert_right(check_layer(layer(), twin, rng.normal(size=(batch, channels)), rng, np.array), "x")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("batch", "_", "classes"), SHAPES)
def test_cross_entropy_gradient_is_right_and_holds_the_mean(batch, _, classes, seed):
    rng = np.random.default_rng(seed)
    assert_right(check_loss(CrossEntropyLoss(), rng.dirichlet(np.full(classes, 10), batch), rng, np.array), "p")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("layer", "twin", "batch", "channels"),
    [  # never two values to normalize: they always become 1 and -1, and the gradient is zero
        (BatchNorm, lambda x, *gb: nn.functional.batch_norm(x, None, None, *gb, training=True), 3, 1),
        (BatchNorm, lambda x, *gb: nn.functional.batch_norm(x, None, None, *gb, training=True), 17, 9),
        (LayerNorm, lambda x, *gb: nn.functional.layer_norm(x, x.shape[1:], *gb), 1, 3),
        (LayerNorm, lambda x, *gb: nn.functional.layer_norm(x, x.shape[1:], *gb), 17, 9),
    ],
)
def test_normalization_gradients_are_right(layer, twin, batch, channels, seed):
    rng = np.random.default_rng(seed)
    made = layer(channels)
    made.scale[:], made.shift[:] = rng.normal(size=(2, channels))
    assert_right(check_layer(made, twin, rng.normal(size=(batch, channels)), rng, np.array), "x", "scale", "shift")


def test_relu_at_zero_has_slope_zero_as_in_torch():
    x = np.array([[0.0, -0.0, 1e-300, -1e-300]])
    layer = ReLU()
    layer.forward(x, remember=True)
    tensor = torch.tensor(x, requires_grad=True)
    torch.relu(tensor).sum().backward()
    assert layer.backward(np.ones_like(x)).tolist() == tensor.grad.tolist() == [[0, 0, 1, 0]]


def test_relu_stops_even_an_infinite_gradient():
    layer = ReLU()
    layer.forward(np.array([[-1.0, 0.0, 2.0]]), remember=True)
    assert layer.backward(np.full((1, 3), -np.inf)).tolist() == [[0, 0, -np.inf]]


# The network


def parameters(mlp):
    """Every parameter of a network as (layer, name)."""
    return [(layer, name) for layer in mlp.layers for name in parameter_names(layer)]


def torch_twin(mlp):
    """The same network in torch, logits out, with the same parameters in the same order."""
    modules = []
    for layer in mlp.layers[:-1]:
        match layer:
            case Linear():
                modules.append(nn.Linear(*layer.weight.shape[::-1]))
            case BatchNorm():
                modules.append(nn.BatchNorm1d(len(layer.scale)))
            case LayerNorm():
                modules.append(nn.LayerNorm(len(layer.scale)))
            case ReLU():
                modules.append(nn.ReLU())
    twin = nn.Sequential(*modules).double()
    for tensor, (layer, name) in zip(twin.parameters(), parameters(mlp), strict=True):
        tensor.data = torch.from_numpy(getattr(layer, name).copy())
    return twin


@pytest.mark.parametrize(
    ("normalization", "batch", "seed"), [(None, 1, 0), (None, 7, 1), ("batch", 9, 2), ("layer", 1, 3), ("layer", 7, 4)]
)
@pytest.mark.parametrize("hidden_channels", [(), (1,), (30, 30), (30,) * 10], ids=len)
def test_network_gradients_are_right(hidden_channels, normalization, batch, seed):
    rng = np.random.default_rng(seed)
    mlp = MLP(3, hidden_channels, 4, seed, normalization)
    x, y = rng.normal(size=(batch, 3)), rng.integers(0, 4, batch)
    loss = mlp.loss(x, y)
    grad_x = mlp.backward()

    twin, tensor = torch_twin(mlp), torch.tensor(x, requires_grad=True)
    theirs = nn.functional.cross_entropy(twin(tensor), torch.from_numpy(y))
    assert loss == pytest.approx(theirs.item(), rel=EXACT)
    theirs.backward()
    found = [(x, grad_x, tensor)]
    for (layer, name), parameter in zip(parameters(mlp), twin.parameters(), strict=True):
        found.append((getattr(layer, name), getattr(layer, f"grad_{name}"), parameter))
    largest = max(np.abs(gradient).max() for _, gradient, _ in found)
    for values, gradient, parameter in found:
        expected = parameter.grad.numpy()
        assert gradient.shape == values.shape
        if np.abs(expected).max() < 1e-10 * largest:  # a bias before batch normalization has no effect
            assert np.abs(gradient).max() < 1e-10 * largest
            continue
        assert relative_error(gradient, expected) < AUTOGRAD_TOLERANCE
        stride = max(values.size // 4, 1)
        some = slice(rng.integers(stride), None, stride)  # at least four entries where there are so many, as a view
        differences = central_differences(lambda: mlp.loss(x, y), values.reshape(-1)[some])
        scale = max(np.abs(gradient).max(), 1e-3 * largest)
        np.testing.assert_allclose(differences, gradient.reshape(-1)[some], atol=DIFFERENCES_TOLERANCE * scale)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("hidden_channels", [(), (30, 30)])
def test_closed_form_equals_the_chain_through_loss_and_softmax(hidden_channels, seed):
    rng = np.random.default_rng(seed)
    mlp = MLP(3, hidden_channels, 4, seed)
    x, y = rng.normal(size=(6, 3)), rng.integers(0, 4, 6)
    loss = mlp.loss(x, y)
    closed = mlp.backward()

    criterion = CrossEntropyLoss()
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


@pytest.mark.parametrize("sign", [1, -1])
def test_loss_and_gradient_at_extreme_logits_are_right(sign):
    mlp = classifier_of_logits()
    logits = np.array([[sign * 1e4, -sign * 1e4], [0.0, 0.0]])
    loss = mlp.loss(logits, np.array([0, 1]))
    assert loss == pytest.approx(((0 if sign > 0 else 2e4) + np.log(2)) / 2, rel=EXACT)
    expected = [[0, 0] if sign > 0 else [-0.5, 0.5], [0.25, -0.25]]
    np.testing.assert_allclose(mlp.backward(), expected, atol=EXACT)


@pytest.mark.parametrize("scale", [1e4, 1e300, 1.7e308])
def test_softmax_loss_and_gradients_are_finite_for_extreme_logits(scale):
    logits = scale * np.array([[1.0, -1.0], [-1.0, 1.0]])
    y = np.array([1, 1])
    p = Softmax().forward(logits)
    assert np.array_equal(p, np.eye(2))
    criterion, mlp = CrossEntropyLoss(), classifier_of_logits()
    assert np.isfinite(criterion.forward(p, y))
    assert np.isfinite(criterion.backward()).all()
    assert np.isfinite(mlp.loss(logits, y))
    assert np.isfinite(mlp.backward()).all()


@pytest.mark.parametrize("learning_rate", [0.05, 1.0])
@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_update_is_exactly_one_step_against_the_gradient(normalization, learning_rate):
    rng = np.random.default_rng(0)
    mlp = MLP(seed=1, normalization=normalization)
    mlp.loss(rng.normal(size=(8, 2)), rng.integers(0, 2, 8))
    mlp.backward()
    before = [(getattr(layer, name).copy(), getattr(layer, f"grad_{name}").copy()) for layer, name in parameters(mlp)]
    mlp.update(learning_rate)
    assert len(before) == (6 if normalization is None else 10)
    for (layer, name), (old, gradient) in zip(parameters(mlp), before, strict=True):
        assert gradient.any() or (normalization == "batch" and name == "bias")
        assert np.array_equal(getattr(layer, name), old - learning_rate * gradient)


# The tools: differences, errors, the table of task 1


def test_central_differences_find_the_derivative_and_restore_the_array():
    a = np.array([[0.5, -1.0], [2.0, 3.0]])
    before = a.copy()
    assert relative_error(central_differences(lambda: float((a**3).sum()), a), 3 * a**2) < DIFFERENCES_TOLERANCE
    some = central_differences(lambda: float((a**3).sum()), a.reshape(-1)[::-3])
    assert relative_error(some, np.array([27, 0.75])) < DIFFERENCES_TOLERANCE
    assert np.array_equal(a, before)


def test_central_differences_reach_an_array_that_is_not_contiguous():
    a = np.arange(6.0).reshape(2, 3).T
    found = central_differences(lambda: (a**2).sum(), a)
    np.testing.assert_allclose(found, 2 * a, rtol=DIFFERENCES_TOLERANCE, atol=DIFFERENCES_TOLERANCE)


@pytest.mark.parametrize("distance", [4e-6, -7e-7])
def test_central_differences_step_over_no_kink(distance):
    a = np.array([distance])  # the largest step would reach across the kink of |a|
    assert central_differences(lambda: abs(a[0]), a) == pytest.approx([np.sign(distance)], rel=DIFFERENCES_TOLERANCE)


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        ([1.0, -4.0], [1.0, -5.0], 0.2),
        ([1.0, -5.0], [1.0, -4.0], 0.2),
        ([0.0, 0.0], [0.0, 0.0], 0),
        ([0.0, 0.0], [0.0, 1e-9], 1),
        ([1.0, np.nan], [1.0, 1.0], np.inf),
        ([0.0, 0.0], [np.nan, np.nan], np.inf),
        ([1.0], [1.0, 1.0], np.inf),
    ],
)
def test_errors_are_relative_to_the_largest_entry(found, expected, error):
    assert relative_error(np.array(found), np.array(expected)) == pytest.approx(error, rel=EXACT)


@pytest.mark.parametrize("broken", [None, 1, 4])
def test_the_table_of_task_1_shows_which_gradient_is_wrong(broken, monkeypatch):
    rng = np.random.default_rng(0)
    mlp = MLP(2, (3, 4), 2)
    if broken is not None:
        layer, name = parameters(mlp)[broken]
        right = layer.backward

        def wrong(gradient):
            result = right(gradient)
            getattr(layer, f"grad_{name}").flat[-1] += 1e-3
            return result

        monkeypatch.setattr(layer, "backward", wrong)
    rows = network_errors(mlp, rng.normal(size=(6, 2)), rng.integers(0, 2, 6))
    shapes = [("weight", [3, 2]), ("bias", [3]), ("weight", [4, 3]), ("bias", [4]), ("weight", [2, 4]), ("bias", [2])]
    assert [(row["parameter"], row["shape"]) for row in rows] == shapes
    assert [k for k, row in enumerate(rows) if row["error"] > DIFFERENCES_TOLERANCE] == [broken] * (broken is not None)
    if broken is not None:
        largest = max(np.abs(getattr(layer, f"grad_{name}")).max() for layer, name in parameters(mlp))
        assert rows[broken]["error"] == pytest.approx(1e-3 / largest, rel=1e-3)
