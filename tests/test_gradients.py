"""Every hand-written gradient against central differences and torch.autograd, in float64."""

import re

import numpy as np
import pytest
import torch
from conftest import run_script

from common.gradient_check import central_differences, relative_error
from common.losses import softmax_cross_entropy, softmax_cross_entropy_gradient
from common.normalization import EPSILON, BatchNorm, LayerNorm
from common.solution_check import (
    AUTOGRAD_TOLERANCE,
    DIFFERENCES_TOLERANCE,
    check_file,
    check_layer,
    check_loss,
    linear_twin,
    new_linear,
    report,
)
from task1 import MLP, CrossEntropyLoss, Linear, ReLU, Softmax

SHAPES = [(1, 1, 1), (1, 3, 2), (5, 3, 4), (17, 2, 9)]
functional = torch.nn.functional


def assert_right(checks):
    assert checks
    for check in checks:
        assert check.differences_error < DIFFERENCES_TOLERANCE, check
        assert check.autograd_error < AUTOGRAD_TOLERANCE, check


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("batch", "inputs", "outputs"), SHAPES)
def test_linear_gradients_are_right(batch, inputs, outputs, seed):
    rng = np.random.default_rng(seed)
    layer = new_linear(Linear, inputs, outputs, rng)
    checks = check_layer(layer, linear_twin(layer, outputs), rng.normal(size=(batch, inputs)), rng)
    assert {check.gradient for check in checks} == {"∂L/∂x", "∂L/∂weight", "∂L/∂bias"}
    assert_right(checks)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("batch", "_", "channels"), SHAPES)
@pytest.mark.parametrize(("layer", "twin"), [(ReLU, torch.relu), (Softmax, lambda z: torch.softmax(z, dim=1))])
def test_activation_gradients_are_right(layer, twin, batch, _, channels, seed):
    rng = np.random.default_rng(seed)
    assert_right(check_layer(layer(), twin, rng.normal(size=(batch, channels)), rng))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("batch", "_", "classes"), SHAPES)
def test_cross_entropy_gradient_is_right_and_holds_the_mean(batch, _, classes, seed):
    rng = np.random.default_rng(seed)
    like = Linear(1, 1, rng)
    assert_right([check_loss(CrossEntropyLoss(), rng.normal(size=(batch, classes)) / 2, rng, like)])


def batch_norm_twin(x, scale, shift):
    return functional.batch_norm(x, None, None, scale, shift, training=True, eps=EPSILON)


def layer_norm_twin(x, scale, shift):
    return functional.layer_norm(x, x.shape[1:], scale, shift, eps=EPSILON)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("layer", "twin", "batch", "channels"),
    [  # never two values to normalize: they always become 1 and -1, and the gradient is zero
        (BatchNorm, batch_norm_twin, 3, 1),
        (BatchNorm, batch_norm_twin, 17, 9),
        (LayerNorm, layer_norm_twin, 1, 3),
        (LayerNorm, layer_norm_twin, 17, 9),
    ],
)
def test_normalization_gradients_are_right(layer, twin, batch, channels, seed):
    rng = np.random.default_rng(seed)
    made = layer(channels)
    made.scale[:], made.shift[:] = rng.normal(size=(2, channels))
    checks = check_layer(made, twin, rng.normal(size=(batch, channels)), rng)
    assert {check.gradient for check in checks} == {"∂L/∂x", "∂L/∂scale", "∂L/∂shift"}
    assert_right(checks)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", [2, 6])
def test_batch_norm_equals_torch_with_its_running_statistics(batch, training):
    rng = np.random.default_rng(batch)
    ours, theirs = BatchNorm(4), torch.nn.BatchNorm1d(4, dtype=torch.float64)
    for _ in range(3):
        x = rng.normal(3, 2, (batch, 4))
        np.testing.assert_allclose(ours.forward(x, remember=True), theirs(torch.from_numpy(x)).detach(), rtol=1e-9)
    np.testing.assert_allclose(ours.running_mean, theirs.running_mean, rtol=1e-12)
    np.testing.assert_allclose(ours.running_variance, theirs.running_var, rtol=1e-12)
    theirs.train(training)
    x = rng.normal(size=(batch, 4))
    np.testing.assert_allclose(ours.forward(x, training), theirs(torch.from_numpy(x)).detach(), rtol=1e-9, atol=1e-12)


def test_layer_norm_equals_torch_in_training_and_evaluation():
    x = np.random.default_rng(0).normal(3, 2, (5, 7))
    theirs = torch.nn.LayerNorm(7, dtype=torch.float64)(torch.from_numpy(x)).detach()
    for remember in (True, False):
        np.testing.assert_allclose(LayerNorm(7).forward(x, remember), theirs, rtol=1e-9)


def torch_loss(mlp, x, y):
    """The same network and loss in torch; returns the loss and its parameters beside our names of their gradients."""
    parameters = []

    def parameter(layer, name):
        tensor = torch.tensor(getattr(layer, name), requires_grad=True)
        parameters.append((layer, name, tensor))
        return tensor

    for layer in mlp.layers:
        match layer:
            case Linear():
                x = functional.linear(x, parameter(layer, "weight"), parameter(layer, "bias"))
            case BatchNorm():
                x = batch_norm_twin(x, parameter(layer, "scale"), parameter(layer, "shift"))
            case LayerNorm():
                x = layer_norm_twin(x, parameter(layer, "scale"), parameter(layer, "shift"))
            case ReLU():
                x = torch.relu(x)
    return functional.cross_entropy(x, torch.from_numpy(y)), parameters


NETWORKS = [(), (1,), (30, 30), (30,) * 10]


@pytest.mark.parametrize(
    ("normalization", "batch", "seed"), [(None, 1, 0), (None, 7, 1), ("batch", 9, 2), ("layer", 1, 3), ("layer", 7, 4)]
)
@pytest.mark.parametrize("hidden_channels", NETWORKS, ids=len)
def test_network_gradients_are_right(hidden_channels, normalization, batch, seed):
    rng = np.random.default_rng(seed)
    mlp = MLP(3, hidden_channels, 4, seed, normalization)
    x, y = rng.normal(size=(batch, 3)), rng.integers(0, 4, batch)
    loss = mlp.loss(x, y)
    grad_x = mlp.backward()

    tensor = torch.tensor(x, requires_grad=True)
    theirs, parameters = torch_loss(mlp, tensor, y)
    assert loss == pytest.approx(theirs.item(), rel=1e-12)
    theirs.backward()
    found = [(x, grad_x, tensor)]
    found += [(getattr(layer, name), getattr(layer, f"grad_{name}"), twin) for layer, name, twin in parameters]
    largest = max(np.abs(gradient).max() for _, gradient, _ in found)
    for values, gradient, twin in found:
        assert gradient.shape == values.shape
        if np.abs(gradient).max() < 1e-10 * largest:  # a bias before batch normalization has no effect
            continue
        assert relative_error(gradient, twin.grad.numpy()) < AUTOGRAD_TOLERANCE
        entries = rng.permutation(values.size)[:4]
        differences = central_differences(lambda: mlp.loss(x, y), values, entries)
        scale = max(np.abs(gradient).max(), 1e-3 * largest)
        np.testing.assert_allclose(differences, gradient.reshape(-1)[entries], atol=DIFFERENCES_TOLERANCE * scale)


def test_relu_at_zero_has_slope_zero_as_in_torch():
    x = np.array([[0.0, -0.0, 1e-300, -1e-300]])
    layer = ReLU()
    layer.forward(x, remember=True)
    tensor = torch.tensor(x, requires_grad=True)
    torch.relu(tensor).sum().backward()
    assert layer.backward(np.ones_like(x)).tolist() == tensor.grad.tolist() == [[0, 0, 1, 0]]


@pytest.mark.parametrize("learning_rate", [0.05, 1.0])
@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_update_is_exactly_one_step_against_the_gradient(normalization, learning_rate):
    rng = np.random.default_rng(0)
    mlp = MLP(seed=1, normalization=normalization)
    mlp.loss(rng.normal(size=(8, 2)), rng.integers(0, 2, 8))
    mlp.backward()
    names = [(layer, name) for layer in mlp.layers for name in vars(layer) if f"grad_{name}" in vars(layer)]
    before = [(getattr(layer, name).copy(), getattr(layer, f"grad_{name}").copy()) for layer, name in names]
    mlp.update(learning_rate)
    for (layer, name), (old, gradient) in zip(names, before, strict=True):
        assert np.array_equal(getattr(layer, name), old - learning_rate * gradient)


@pytest.mark.parametrize("sign", [1, -1])
def test_loss_and_gradient_at_extreme_logits_are_right(sign):
    logits = np.array([[sign * 1e4, -sign * 1e4], [0.0, 0.0]])
    loss, p = softmax_cross_entropy(logits, np.array([0, 1]))
    assert loss == pytest.approx(((0 if sign > 0 else 2e4) + np.log(2)) / 2, rel=1e-12)
    expected = [[0, 0] if sign > 0 else [-0.5, 0.5], [0.25, -0.25]]
    np.testing.assert_allclose(softmax_cross_entropy_gradient(p, np.array([0, 1])), expected, atol=1e-15)


SOLUTION = """
import torch

class Linear:
    def __init__(self, in_channels, out_channels):
        self.weight = torch.randn(in_channels, out_channels)
        self.bias = torch.zeros(out_channels)
    def forward(self, x, remember=False):
        self.x = x
        return x @ self.weight + self.bias
    def backward(self, gradient):
        self.grad_weight = self.x.T @ gradient
        self.grad_bias = gradient.sum(0)
        return gradient @ self.weight.T

class ReLU:
    def forward(self, x):
        self.x = x
        return x.clamp(min=0)
    def backward(self, gradient):
        return gradient * (self.x > 0)

class Softmax:
    def forward(self, x, remember=False):
        self.p = torch.softmax(x, 1)
        return self.p
    def backward(self, gradient):
        return self.p * (gradient - (gradient * self.p).sum(1, keepdim=True))

class CrossEntropyLoss:
    def forward(self, p, y):
        self.p, self.y = p, y
        return -p[range(len(y)), y].log().mean()
    def backward(self):
        gradient = torch.zeros_like(self.p)
        gradient[range(len(self.y)), self.y] = -1 / self.p[range(len(self.y)), self.y] / len(self.y)
        return gradient
"""


def test_the_check_passes_for_task_1_as_a_command():
    finished = run_script("task1.py", "--check-gradients")
    assert finished.returncode == 0, finished.stderr
    rows = finished.stdout.splitlines()[1:]
    assert len(rows) == 12
    assert all(row.endswith("right") for row in rows)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (" / len(self.y)", "", r"CrossEntropyLoss .* WRONG  the 1/N of the mean is missing"),
        ("self.x.T @ gradient", "gradient.T @ self.x", r"Linear .*weight .* WRONG"),
        ("(self.x > 0)", "(self.x < 0)", r"ReLU .* WRONG"),
        ("class Softmax", "class Other", r"has no Softmax"),
        ("import torch", "import torch, no_such_module", r"cannot be imported: ModuleNotFoundError"),
        ("import torch", "import torch; raise SystemExit('two\\nlines')", r"cannot be imported: SystemExit: two lines"),
        ("def __init__", "def other", r"its classes are not the sheet's: TypeError: Linear\(\) takes no arguments"),
        ("self.grad_bias = gradient.sum(0)", "raise NotImplementedError('later')", r"NotImplementedError: later"),
    ],
)
def test_what_is_wrong_with_another_solution_is_named(old, new, message, tmp_path, capsys):
    path = tmp_path / "other.py"
    path.write_text(SOLUTION.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=r"^[^\n]+$") as failure:
        report(check_file(path))
    assert re.search(message, capsys.readouterr().out + str(failure.value))


def test_a_file_that_is_no_solution_is_refused(tmp_path):
    for path in (tmp_path / "none.py", tmp_path):
        with pytest.raises(ValueError, match="there is no file"):
            check_file(path)
    (tmp_path / "text.txt").write_text("")
    with pytest.raises(ValueError, match="no Python file"):
        check_file(tmp_path / "text.txt")


def test_another_solution_in_torch_passes_as_a_command(tmp_path):
    path = tmp_path / "other.py"
    path.write_text(SOLUTION, encoding="utf-8")
    finished = run_script("task1.py", "--check-gradients", path, PYTHONIOENCODING="ascii")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("right") == 12
