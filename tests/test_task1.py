"""Task 1: the network by hand, its training, the moons, and what the script reports."""

import inspect
import json
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import ROOT
from test_gradients import torch_twin

import task1
from common.data import moons
from common.normalization import BatchNorm
from common.studies import Variant
from task1 import MLP, CrossEntropyLoss, Linear, ReLU, Softmax, train

SAME = {"rel": 1e-9}  # after some steps of the same arithmetic in another order

# The layers and the network


@pytest.mark.parametrize(("inputs", "outputs"), [(2, 5000), (30, 400), (400, 30)])
def test_weights_start_with_variance_two_over_inputs_and_biases_at_zero(inputs, outputs):
    layer = Linear(inputs, outputs, np.random.default_rng(0))
    assert layer.weight.shape == (outputs, inputs)
    assert layer.weight.var() * inputs == pytest.approx(2, rel=0.05)  # 10,000 weights and more: three deviations
    assert abs(layer.weight.mean()) < 4 * layer.weight.std() / np.sqrt(layer.weight.size)
    assert not layer.bias.any()


def test_a_layer_at_the_prompt_needs_no_generator():
    assert np.array_equal(Linear(2, 3).weight, Linear(2, 3).weight)
    assert Linear(2, 3).forward(np.ones((4, 2))).shape == (4, 3)


def test_a_network_is_made_of_the_sheets_layers_by_its_seed():
    mlp = MLP(2, (5, 5), 3, seed=1)
    assert [type(layer) for layer in mlp.layers] == [Linear, ReLU, Linear, ReLU, Linear, Softmax]
    shapes = [layer.weight.shape for layer in mlp.layers[::2]]
    assert shapes == [(5, 2), (5, 5), (3, 5)]
    first, again, other = (MLP(2, (5, 5), 3, seed).layers[2].weight for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.isin(first, other).any()
    assert not np.isin(first, mlp.layers[0].weight).any()
    assert [type(layer) for layer in MLP(hidden_channels=()).layers] == [Linear, Softmax]
    normalized = MLP(hidden_channels=(5, 5), normalization="batch").layers
    assert [type(layer) for layer in normalized] == 2 * [Linear, BatchNorm, ReLU] + [Linear, Softmax]


def test_forward_without_remember_keeps_nothing():
    for layer in (Linear(2, 3), ReLU(), Softmax()):
        before = dict(vars(layer))
        layer.forward(np.ones((4, 2)))
        assert vars(layer) == before


def test_loss_and_gradient_of_cross_entropy_by_hand():
    criterion = CrossEntropyLoss()
    p = np.array([[0.5, 0.5], [0.2, 0.8]])
    assert criterion.forward(p, np.array([0, 1])) == pytest.approx(-(np.log(0.5) + np.log(0.8)) / 2, rel=1e-12)
    np.testing.assert_allclose(criterion.backward(), [[-1, 0], [0, -0.625]], rtol=1e-12)


def test_forward_gives_probabilities_and_loss_their_cross_entropy():
    rng = np.random.default_rng(0)
    mlp = MLP(3, (6,), 4)
    x, y = rng.normal(size=(9, 3)), rng.integers(0, 4, 9)
    p = mlp.forward(x)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    assert mlp.loss(x, y) == pytest.approx(-np.log([row[label] for row, label in zip(p, y, strict=True)]).mean())


def test_backward_after_a_forward_pass_of_another_batch_is_refused():
    mlp, x, y = MLP(), np.ones((3, 2)), np.zeros(3, int)
    mlp.loss(x, y)
    mlp.forward(2 * x, remember=True)
    with pytest.raises(ValueError, match="call that first"):
        mlp.backward()


def test_backward_is_not_disturbed_by_passes_that_are_not_remembered_nor_by_itself():
    mlp, x, y = MLP(), np.ones((3, 2)), np.zeros(3, int)
    mlp.loss(x, y)
    expected = mlp.backward()
    mlp.forward(-x)
    mlp.loss(-x, 1 - y, remember=False)
    assert np.array_equal(mlp.backward(), expected)


def test_a_training_step_returns_the_loss_before_it_and_lowers_it():
    mlp, data = MLP(), moons(50, 2)
    before = mlp.loss(data.x_train, data.y_train)
    assert mlp.training_step(data.x_train, data.y_train, 0.1) == before
    assert mlp.loss(data.x_train, data.y_train) < before


# Training


class Recorder(MLP):
    """A network that writes down its batches."""

    def training_step(self, x, y, learning_rate):
        self.batches = [*getattr(self, "batches", []), (x.copy(), y.copy(), learning_rate)]
        return super().training_step(x, y, learning_rate)


def recorded_epochs(seed=0, count=50, batch_size=16, epochs=3):
    """The batches of a run, epoch by epoch."""
    mlp = Recorder()
    train(mlp, moons(count, 10), epochs, batch_size, seed=seed)
    steps = len(mlp.batches) // epochs
    return [mlp.batches[start : start + steps] for start in range(0, len(mlp.batches), steps)]


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(16, [16, 16, 16, 2]), (25, [25, 25]), (7, [7] * 7 + [1]), (99, [50])]
)
def test_an_epoch_takes_every_point_once_with_its_label(batch_size, sizes):
    data = moons(50, 10)
    points = sorted(zip(*data.x_train.T, data.y_train, strict=True))
    epochs = recorded_epochs(batch_size=batch_size)
    assert len(epochs) == 3
    for epoch in epochs:
        assert [len(x) for x, _, _ in epoch] == sizes
        x, y = (np.concatenate([batch[k] for batch in epoch]) for k in (0, 1))
        assert sorted(zip(*x.T, y, strict=True)) == points


def test_points_are_shuffled_anew_in_every_epoch_and_by_the_seed():
    runs = [recorded_epochs(seed) for seed in (0, 0, 1)]
    orders = [[np.concatenate([x for x, _, _ in epoch]).tolist() for epoch in run] for run in runs]
    assert orders[0] == orders[1]
    different = [moons(50, 10).x_train.tolist(), *orders[0], *orders[2]]
    assert all(one != other for k, one in enumerate(different) for other in different[:k])


@pytest.mark.parametrize("batch_size", [1, 7, 16, 99])
@pytest.mark.parametrize("hidden_channels", [(), (4,)], ids=len)
def test_training_equals_a_plain_loop(hidden_channels, batch_size):
    """The loop of the textbook, every derivative written out, on the batches that `train` took."""
    data, mlp = moons(50, 20, 0.2, 3), Recorder(hidden_channels=hidden_channels, seed=4)
    linear = [layer for layer in mlp.layers if isinstance(layer, Linear)]
    weights, biases = ([getattr(layer, name).copy() for layer in linear] for name in ("weight", "bias"))

    def outputs(x):
        hidden = np.maximum(x @ weights[0].T + biases[0], 0) if hidden_channels else x
        exponentials = np.exp(hidden @ weights[-1].T + biases[-1])
        return hidden, exponentials / exponentials.sum(axis=1)[:, None]

    history = train(mlp, data, 3, batch_size, 0.3)
    steps = -(-50 // batch_size)
    assert len(mlp.batches) == 3 * steps
    expected = {"train_loss": [], "test_loss": []}
    for step, (x, y, _) in enumerate(mlp.batches, 1):
        hidden, p = outputs(x)
        delta = (p - np.eye(2)[y]) / len(x)
        below = delta @ weights[-1] * (hidden > 0)
        weights[-1] = weights[-1] - 0.3 * sum(np.outer(d, h) for d, h in zip(delta, hidden, strict=True))
        biases[-1] = biases[-1] - 0.3 * sum(delta)
        if hidden_channels:
            weights[0] = weights[0] - 0.3 * sum(np.outer(d, h) for d, h in zip(below, x, strict=True))
            biases[0] = biases[0] - 0.3 * sum(below)
        if step % steps == 0:
            for split, x, y in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
                expected[f"{split}_loss"].append(-np.log(outputs(x)[1][np.arange(len(y)), y]).mean())
    assert history == {split: pytest.approx(losses, **SAME) for split, losses in expected.items()}


@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_training_equals_stochastic_gradient_descent_in_torch(normalization):
    data, mlp = moons(50, 20, 0.2, 3), Recorder(hidden_channels=(6, 5), seed=4, normalization=normalization)
    twin, loss = torch_twin(mlp), torch.nn.CrossEntropyLoss()
    history = train(mlp, data, 4, 14, 0.3)  # batches of 14, 14, 14 and 8
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.3)
    expected = {"train_loss": [], "test_loss": []}
    x_train, y_train, x_test, y_test = map(torch.from_numpy, data)
    for epoch in range(4):
        for x, y, _ in mlp.batches[4 * epoch : 4 * epoch + 4]:
            optimizer.zero_grad()
            loss(twin.train()(torch.from_numpy(x)), torch.from_numpy(y)).backward()
            optimizer.step()
        with torch.no_grad():
            expected["train_loss"].append(loss(twin.eval()(x_train), y_train).item())
            expected["test_loss"].append(loss(twin.eval()(x_test), y_test).item())
    assert history == {split: pytest.approx(losses, **SAME) for split, losses in expected.items()}


def test_the_report_follows_every_epoch_with_the_history_so_far():
    calls = []

    def report(epoch, history):
        calls.append((epoch, len(history["train_loss"]), history["test_loss"][-1]))

    history = train(MLP(), moons(20, 10), 3, report=report)
    assert calls == [(k + 1, k + 1, loss) for k, loss in enumerate(history["test_loss"])]


def test_training_separates_the_moons_and_repeats_itself():
    data = moons(1000, 500, 0.08, 0)
    histories = [train(MLP(seed=1), data, epochs=8, learning_rate=0.2, seed=2) for _ in range(2)]
    assert histories[0] == histories[1]
    assert len(histories[0]["train_loss"]) == len(histories[0]["test_loss"]) == 8
    assert histories[0]["test_loss"][-1] < 0.1 < histories[0]["test_loss"][0]


class Script:
    """A network whose losses are given beforehand: those of the steps, and those of the splits."""

    def __init__(self, steps, splits):
        self.steps, self.splits = iter(steps), iter(splits)

    def training_step(self, x, y, learning_rate):
        return next(self.steps)

    def loss(self, x, y, remember=True):
        return next(self.splits)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(
    ("steps", "splits", "epoch", "step"),
    [  # three steps an epoch; 0 marks where the loss is not finite
        ([0], [], 1, 1),
        ([1, 1, 1, 1, 0], [1, 1], 2, 2),
        ([1, 1, 1, 1, 1, 0], [1, 1], 2, 3),
        ([1, 1, 1], [0, 1], 1, 3),
        ([1, 1, 1, 1, 1, 1], [1, 1, 1, 0], 2, 3),
    ],
)
def test_divergence_is_named_with_its_epoch_and_step(steps, splits, epoch, step, value):
    losses = ([number or value for number in numbers] for numbers in (steps, splits))
    reported = []
    with pytest.raises(ValueError, match=rf"the loss is {value} in epoch {epoch}, step {step}; .*smaller"):
        train(Script(*losses), moons(10, 5), 5, 4, report=lambda number, history: reported.append(number))
    assert reported == list(range(1, epoch))


def test_a_learning_rate_that_is_too_large_diverges_in_its_second_step():
    with pytest.raises(ValueError, match="epoch 1, step 2;"):
        train(MLP(), moons(64, 64), learning_rate=1e200)


# The script


def defaults(function):
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


def test_the_settings_at_the_top_of_the_file_are_the_defaults_everywhere(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["task1.py"])
    names = ("epochs", "batch_size", "learning_rate")
    values = [task1.EPOCHS, task1.BATCH_SIZE, task1.LEARNING_RATE]
    options = task1.parse_options()
    assert [getattr(options, name) for name in names] == values == [10, 32, 0.05]
    assert [defaults(train)[name] for name in names] == values
    assert options.hidden_channels == task1.HIDDEN_CHANNELS == defaults(MLP)["hidden_channels"] == (30, 30)
    study, data = defaults(Variant), defaults(moons)
    assert [study[name] for name in ("epochs", "learning_rate")] == [task1.EPOCHS, task1.LEARNING_RATE]
    assert (study["points"], study["test_points"], study["noise"]) == (8000, 2000, 0.08)
    assert (data["n_train"], data["n_test"], data["noise"]) == (8000, 2000, 0.08)


def test_task_1_and_task_2_need_no_torch():
    code = "import sys, task1, task2; assert not {'torch', 'torchvision'} & sys.modules.keys()"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr


def test_the_results_are_those_of_the_run(tmp_path, monkeypatch, capsys):
    flags = ["--hidden_channels", "5", "4", "--epochs", "2", "--batch-size", "100", "--lr", "0.5", "--seed", "3"]
    monkeypatch.setattr(sys, "argv", ["task1.py", "--no-studies", *flags, "--figures", str(tmp_path)])
    task1.main(task1.parse_options())
    plt.close("all")
    assert {path.name for path in tmp_path.iterdir()} == {"task1.json", "task1_loss.png", "task1_loss.svg"}
    results = json.loads((tmp_path / "task1.json").read_text(encoding="utf-8"))
    settings = {"hidden_channels": [5, 4], "epochs": 2, "batch_size": 100, "learning_rate": 0.5}
    assert results["settings"] == settings
    data, mlp = moons(seed=3), MLP(2, (5, 4), 2, seed=3)
    assert results["history"] == train(mlp, data, 2, 100, 0.5, seed=3)
    right = sum(int(p1 > p0) == label for (p0, p1), label in zip(mlp.forward(data.x_test), data.y_test, strict=True))
    assert results["test_points"] == 2000
    assert results["test_accuracy"] == pytest.approx(100 * right / 2000)
    shapes = [row["shape"] for row in results["gradient_check"]]
    assert shapes == [[30, 2], [30], [30, 30], [30], [2, 30], [2]]
    assert max(row["error"] for row in results["gradient_check"]) < 1e-7
    printed = capsys.readouterr().out
    assert f"epoch  2/2  train loss {results['history']['train_loss'][1]:.5f}" in printed
    assert f"test accuracy {right / 20:.2f} %" in printed


def test_the_figure_counts_the_points_on_the_wrong_side():
    x = np.array([[0.5, 0.0], [0.3, 1.0], [-0.5, 0.0], [-0.2, 0.3], [0.9, -1.0]])
    y = np.array([1, 1, 0, 1, 0])  # the last two are on the wrong side of the axis

    def predict(points):
        right = 1 / (1 + np.exp(-9 * points[:, 0]))
        return np.stack([1 - right, right], axis=1)

    history = {"train_loss": [0.5, 0.25], "test_loss": [0.6, 0.375]}
    figure = task1.training_figure(history, predict, x, y)
    left, right = figure.axes
    assert right.get_title() == "2 of 5 test points wrong (ringed)"
    assert np.array_equal(right.collections[-1].get_offsets(), x[3:])
    assert [line.get_ydata().tolist() for line in left.lines] == [[0.5, 0.25], [0.6, 0.375]]
    assert {text.get_text() for text in left.texts} == {"train 0.2500", "test 0.3750"}
    plt.close(figure)
