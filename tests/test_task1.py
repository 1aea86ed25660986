"""Task 1: the network by hand, its training, the command line, results and figure."""

import re
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import figures_of
from matplotlib.colors import to_rgba_array
from torch import nn

import task1
from common.data import moons
from common.plotting import MOON_COLOURS
from task1 import MLP, Linear, ReLU, Softmax, train


def torch_twin(mlp):
    """The same network in torch, logits out, with copies of the parameters."""
    twin = nn.Sequential()
    for layer in mlp.layers[:-1]:
        if isinstance(layer, ReLU):
            twin.append(nn.ReLU())
            continue
        outputs, inputs = layer.weight.shape
        linear = nn.Linear(inputs, outputs, dtype=torch.float64)
        linear.weight.data = torch.tensor(layer.weight)
        linear.bias.data = torch.tensor(layer.bias)
        twin.append(linear)
    return twin


def test_weights_start_with_variance_two_over_inputs_and_biases_at_zero():
    for layer in MLP(2, (5000, 400, 30), 500).layers[:-1:2]:
        expected = np.sqrt(2 / layer.weight.shape[1])
        assert layer.weight.std() == pytest.approx(expected, rel=0.025)
        error = expected / np.sqrt(layer.weight.size)
        assert abs(layer.weight.mean()) < 4 * error
        assert not layer.bias.any()


def test_a_network_is_made_of_the_sheets_layers_by_its_seed():
    mlp = MLP(2, (5, 5), 3, seed=1)
    expected = [Linear, ReLU, Linear, ReLU, Linear, Softmax]
    assert [type(layer) for layer in mlp.layers] == expected
    first = mlp.layers[2].weight
    assert np.array_equal(first, MLP(2, (5, 5), 3, seed=1).layers[2].weight)
    assert not np.isin(first, MLP(2, (5, 5), 3, seed=2).layers[2].weight).any()
    assert not np.isin(first, mlp.layers[0].weight).any()
    with pytest.raises(ValueError, match="0"):
        MLP(2, (5, 0))


class Recorder(MLP):
    """A network that writes down its batches, each as rows of a point and its class."""

    def training_step(self, x, y, learning_rate):
        self.batches = [*getattr(self, "batches", []), np.c_[x, y]]
        return super().training_step(x, y, learning_rate)


@pytest.mark.parametrize("batch_size", [16, 25, 99])
def test_an_epoch_takes_every_point_once_in_an_order_of_its_own_by_the_seed(batch_size):
    data = moons(50, 10)
    points = np.c_[data.x_train, data.y_train].tolist()
    orders = []
    for seed in (0, 0, 1):
        mlp = Recorder(hidden_channels=(4,))
        train(mlp, data, 2, batch_size, seed=seed)
        sizes = [len(batch) for batch in mlp.batches]
        assert max(sizes) == min(batch_size, 50)
        assert len(sizes) == 2 * -(-50 // batch_size)
        orders += np.concatenate(mlp.batches).reshape(2, 50, 3).tolist()
    for order in orders:
        assert sorted(order) == sorted(points)
    assert orders[:2] == orders[2:4]
    assert len({str(order) for order in (points, *orders)}) == 5


@pytest.mark.parametrize(
    ("hidden_channels", "batch_size"), [((), 99), ((4,), 1), ((6, 5), 14)]
)
def test_training_equals_stochastic_gradient_descent_in_torch(
    hidden_channels, batch_size
):
    data = moons(50, 20, 0.2, 3)
    mlp = Recorder(hidden_channels=hidden_channels, seed=4)
    twin = torch_twin(mlp)
    history = train(mlp, data, 4, batch_size, 0.3)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.3)
    cross_entropy = nn.functional.cross_entropy
    x_train, y_train, x_test, y_test = map(torch.from_numpy, data)
    rows = []
    for step, batch in enumerate(map(torch.from_numpy, mlp.batches), 1):
        optimizer.zero_grad()
        cross_entropy(twin(batch[:, :2]), batch[:, 2].long()).backward()
        optimizer.step()
        if step % (len(mlp.batches) // 4) == 0:
            train_loss = cross_entropy(twin(x_train), y_train).item()
            rows.append((train_loss, cross_entropy(twin(x_test), y_test).item()))
    found = list(zip(history["train_loss"], history["test_loss"], strict=True))
    np.testing.assert_allclose(found, rows, rtol=1e-9)
    expected = torch.softmax(twin(x_test), 1).detach()
    np.testing.assert_allclose(mlp.forward(data.x_test), expected, rtol=1e-8)


def test_training_that_diverges_ends_and_names_the_epoch():
    with pytest.raises(ValueError, match="epoch 1"), np.errstate(all="ignore"):
        train(MLP(), moons(200, 10), 3, learning_rate=1e200)


def test_without_units_there_are_no_hidden_layers(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["task1.py", "--hidden_channels"])
    assert task1.parse_options().hidden_channels == []


def test_the_results_are_those_of_the_run(tmp_path, monkeypatch, capsys):
    flags = "--no-studies --hidden-channels 5 4 --epochs 2 --batch-size 100 --lr 0.5"
    flags += f" --seed 3 --points 4000 --noise 0.1 --figures {tmp_path}"
    monkeypatch.setattr(sys, "argv", ["task1.py", *flags.split()])
    results, _ = figures_of(task1.main, task1.parse_options())
    assert not list(tmp_path.glob("*studies*"))
    data = moons(4000, 2000, 0.1, seed=3)
    mlp = MLP(2, (5, 4), 2, seed=3)
    history = train(mlp, data, 2, 100, 0.5, seed=3)
    right = ((mlp.forward(data.x_test)[:, 1] > 0.5) == data.y_test).sum()
    assert results["history"] == history
    assert results["test_accuracy"] == pytest.approx(100 * right / 2000)
    assert (results["seed"], results["test_points"]) == (3, 2000)
    assert results["settings"] == {
        "hidden_channels": [5, 4],
        "points": 4000,
        "noise": 0.1,
        "epochs": 2,
        "batch_size": 100,
        "learning_rate": 0.5,
    }
    shapes = [[5, 2], [5], [4, 5], [4], [2, 4], [2]]
    rows = results["gradient_check"]
    expected = [(shape, np.prod(shape)) for shape in shapes]
    assert [(row["shape"], row["checked"]) for row in rows] == expected
    assert 0 < max(row["error"] for row in rows) < 1e-7
    largest = torch_twin(mlp)(torch.from_numpy(data.x_test)).abs().max().item()
    shift = results["without_shift"]
    assert shift["largest_logit"] == pytest.approx(largest, rel=1e-9)
    assert 0 < shift["difference"] < 1e-12  # of rounding
    ends = f"{history['train_loss'][1]:.5f}.*{history['test_loss'][1]:.5f}"
    assert re.search(ends, capsys.readouterr().out)


@pytest.mark.parametrize("rate", [0.5, 50])
def test_the_end_says_if_the_network_is_no_better_than_guessing(
    rate, run_here, tmp_path, capsys
):
    run_here("task1.py", "--no-studies", f"--lr={rate}", f"--figures={tmp_path}")
    assert ("no better" in capsys.readouterr().out) == (rate == 50)


def test_without_the_shift_large_logits_overflow():
    assert task1.difference_without_shift(np.array([[800.0, 0.0]])) == 1e300


def test_the_default_run_classifies_more_than_99_per_cent():
    data = moons()
    mlp = MLP()
    train(mlp, data)
    assert task1.accuracy(mlp, data.x_test, data.y_test) > 99


def test_the_figure_rings_the_points_on_the_wrong_side_of_the_boundary():
    x = np.array([[0.5, 0.0], [0.3, 1.0], [-0.5, 0.0], [-0.2, 0.3], [0.9, -1.0]])
    y = np.array([1, 1, 0, 1, 0])  # the last two are on the wrong side of x₁ = 0
    mlp = MLP(hidden_channels=())
    mlp.layers[0].weight = np.array([[-9.0, 0], [9, 0]])
    history = {"train_loss": [0.5, 0.25], "test_loss": [0.6, 0.375]}
    figure = task1.training_figure(history, mlp, x, y, "the network")
    plt.close(figure)
    left, right = figure.axes
    assert left.get_title() == "the network"
    assert [line.get_ydata().tolist() for line in left.lines] == [*history.values()]
    assert right.get_title().startswith("2 of 5")
    boundary, upper, lower, rings = right.collections
    assert rings.get_offsets().tolist() == x[3:].tolist()
    for moon, dots in enumerate((upper, lower)):
        assert dots.get_offsets().tolist() == x[y == moon].tolist()
        assert np.allclose(dots.get_facecolors(), to_rgba_array(MOON_COLOURS[moon]))
    tint = right.images[0].get_array()
    assert np.all(tint[:, 0] < 0.01)
    assert np.all(tint[:, -1] > 0.99)
    np.testing.assert_allclose(boundary.get_paths()[0].vertices[:, 0], 0, atol=0.01)
