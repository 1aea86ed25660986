"""Task 1: the network by hand, its training, the command line, the results and the
figure.
"""

import json
import sys
from unittest.mock import Mock

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba_array
from twins import torch_twin

import task1
from common.data import moons
from common.normalization import BatchNorm
from common.plotting import MOON_COLOURS
from task1 import MLP, Linear, ReLU, Softmax, train


@pytest.mark.parametrize("deviation", [None, 0.7])
def test_weights_start_with_variance_two_over_inputs_or_the_deviation_asked_for_and_biases_at_zero(
    deviation,
):
    for layer in MLP(2, (5000, 400, 30), 500, weight_std=deviation).layers[:-1:2]:
        expected = (
            np.sqrt(2 / layer.weight.shape[1]) if deviation is None else deviation
        )
        assert layer.weight.std() == pytest.approx(
            expected, rel=0.025
        )  # 10,000 weights and more: three deviations
        assert abs(layer.weight.mean()) < 4 * layer.weight.std() / np.sqrt(
            layer.weight.size
        )
        assert not layer.bias.any()


def test_a_network_is_made_of_the_sheets_layers_by_its_seed():
    mlp = MLP(2, (5, 5), 3, seed=1)
    assert [type(layer) for layer in mlp.layers] == [
        Linear,
        ReLU,
        Linear,
        ReLU,
        Linear,
        Softmax,
    ]
    assert [layer.weight.shape for layer in mlp.layers[::2]] == [(5, 2), (5, 5), (3, 5)]
    first, again, other = (
        MLP(2, (5, 5), 3, seed).layers[2].weight for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.isin(first, [*other.flat, *mlp.layers[0].weight.flat]).any()
    normalized = MLP(hidden_channels=(5, 5), normalization="batch").layers
    assert [type(layer) for layer in normalized] == 2 * [Linear, BatchNorm, ReLU] + [
        Linear,
        Softmax,
    ]


def test_forward_without_remember_keeps_nothing():
    for layer in (Linear(2, 3), ReLU(), Softmax()):
        before = dict(vars(layer))
        layer.forward(np.ones((4, 2)))
        assert vars(layer) == before


def test_backward_is_refused_after_a_loss_that_is_not_remembered_and_after_another_batch():
    mlp, x, y = MLP(), np.ones((3, 2)), np.zeros(3, int)
    for passes in (
        lambda: mlp.loss(x, y),
        lambda: (mlp.loss(x, y, remember=True), mlp.forward(x, remember=True)),
    ):
        passes()
        with pytest.raises(ValueError, match="remember=True before backward"):
            mlp.backward()


def test_points_of_another_width_and_labels_that_are_no_classes_are_refused():
    for x, y in (
        (np.ones((2, 3)), [0, 1]),
        (np.ones((2, 2)), [0, -1]),
        (np.ones((2, 2)), [[0, 1], [1, 0]]),
    ):
        with pytest.raises(ValueError, match="expected"):
            MLP().loss(x, np.array(y))


def test_an_evaluation_disturbs_neither_the_backward_pass_nor_the_running_statistics():
    mlp, (x, y, *_) = MLP(hidden_channels=(5,), normalization="batch"), moons(30, 2)
    mlp.loss(x, y, remember=True)
    gradient, layer = mlp.backward(), mlp.layers[1]
    statistics = np.copy([layer.running_mean, layer.running_variance])
    mlp.loss(-x, 1 - y)
    mlp.forward(2 * x)
    assert np.array_equal(mlp.backward(), gradient)
    assert np.array_equal([layer.running_mean, layer.running_variance], statistics)


class Recorder(MLP):
    """A network that writes down its batches, each as rows of a point and its class."""

    def training_step(self, x, y, learning_rate):
        self.batches = [*getattr(self, "batches", []), np.c_[x, y]]
        return super().training_step(x, y, learning_rate)


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(16, [16, 16, 16, 2]), (25, [25, 25]), (99, [50])]
)
def test_an_epoch_takes_every_point_once_in_an_order_of_its_own_by_the_seed(
    batch_size, sizes
):
    data, orders = moons(50, 10), []
    for seed in (0, 0, 1):
        mlp = Recorder(hidden_channels=(4,))
        train(mlp, data, 2, batch_size, seed=seed)
        assert [len(batch) for batch in mlp.batches] == 2 * sizes
        orders += np.concatenate(mlp.batches).reshape(2, 50, 3).tolist()
    points = np.c_[data.x_train, data.y_train].tolist()
    assert all(sorted(order) == sorted(points) for order in orders)
    assert orders[:2] == orders[2:4]
    assert len({str(order) for order in (points, *orders)}) == 5


@pytest.mark.parametrize(
    ("hidden_channels", "normalization", "batch_size", "decay"),
    [
        ((), None, 99, 0),
        ((4,), None, 1, 0),
        ((6, 5), None, 14, 0.5),
        ((5,), "batch", 14, 0),
        ((6,), "layer", 14, 0.5),
    ],
)
def test_training_equals_stochastic_gradient_descent_in_torch(
    hidden_channels, normalization, batch_size, decay
):
    data, mlp = (
        moons(50, 20, 0.2, 3),
        Recorder(hidden_channels=hidden_channels, seed=4, normalization=normalization),
    )
    twin, loss, reports = torch_twin(mlp), torch.nn.functional.cross_entropy, []
    report = lambda number, history: reports.append((number, history["test_loss"][-1]))  # noqa: E731
    history = train(mlp, data, 4, batch_size, 0.3, 0, report, decay)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.3)
    expected = {"train_loss": [], "test_loss": []}
    x_train, y_train, x_test, y_test = map(torch.from_numpy, data)
    for step, batch in enumerate(map(torch.from_numpy, mlp.batches), 1):
        optimizer.zero_grad()
        loss(twin.train()(batch[:, :2]), batch[:, 2].long()).backward()
        optimizer.step()
        for module in twin:
            if isinstance(module, torch.nn.Linear):
                module.weight.data -= 0.3 * decay * module.weight.data
        if step % (len(mlp.batches) // 4) == 0:
            expected["train_loss"].append(loss(twin.eval()(x_train), y_train).item())
            expected["test_loss"].append(loss(twin(x_test), y_test).item())
    assert history == {
        split: pytest.approx(losses, rel=1e-9) for split, losses in expected.items()
    }
    assert reports == [*enumerate(history["test_loss"], 1)]
    np.testing.assert_allclose(
        mlp.forward(data.x_test), torch.softmax(twin(x_test), 1).detach(), rtol=1e-8
    )


@pytest.mark.parametrize(
    ("steps", "splits", "epoch", "step"),
    [  # three steps an epoch
        ([np.nan], [], 1, 1),
        ([1, 1, 1, 1, np.inf], [1, 1], 2, 2),
        ([1, 1, 1], [np.inf, 1], 1, 3),
        ([1, 1, 1, 1, 1, 1], [1, 1, 1, np.nan], 2, 3),
    ],
)
def test_divergence_is_named_with_its_epoch_and_step(steps, splits, epoch, step):
    mlp, reported = (
        Mock(**{"training_step.side_effect": steps, "loss.side_effect": splits}),
        [],
    )
    with pytest.raises(
        ValueError,
        match=rf"the loss is (nan|inf) in epoch {epoch}, step {step}; .*smaller",
    ):
        train(
            mlp,
            moons(10, 5),
            5,
            4,
            report=lambda number, history: reported.append(number),
        )
    assert reported == list(range(1, epoch))


@pytest.mark.parametrize(
    ("words", "units"),
    [((), []), (("7",), [7]), (("6", "5"), [6, 5]), (None, [4])],
    ids=str,
)
def test_hidden_channels_are_any_number_of_layers_and_at_the_prompt_also_an_integer(
    words, units, monkeypatch
):
    monkeypatch.setattr(sys, "argv", ["task1.py", "--hidden_channels", *(words or ())])
    mlp = MLP(
        hidden_channels=4 if words is None else task1.parse_options().hidden_channels
    )
    assert [len(layer.bias) for layer in mlp.layers if isinstance(layer, Linear)] == [
        *units,
        2,
    ]


@pytest.mark.parametrize(
    "words", [["30,30"], ["[30,", "30]"], ["0"], ["-3"], ["30", "2.5"]], ids=" ".join
)
def test_hidden_channels_in_another_form_are_wrong_use(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["task1.py", "--hidden-channels", *words])
    with pytest.raises(SystemExit, match="2"):
        task1.parse_options()
    assert "write layers as 30 30" in capsys.readouterr().err


def test_the_results_are_those_of_the_run(tmp_path, monkeypatch, capsys):
    flags = [
        "--hidden-channels",
        "5",
        "4",
        "--epochs",
        "2",
        "--batch-size",
        "100",
        "--lr",
        "0.5",
        "--seed",
        "3",
    ]
    monkeypatch.setattr(
        sys, "argv", ["task1.py", "--no-studies", *flags, "--figures", str(tmp_path)]
    )
    task1.main(task1.parse_options())
    assert {path.name for path in tmp_path.iterdir()} == {
        "task1.json",
        "task1_loss.png",
        "task1_loss.svg",
    }
    results = json.loads((tmp_path / "task1.json").read_text(encoding="utf-8"))
    errors, shapes = (
        results.pop("gradient_check"),
        [[5, 2], [5], [4, 5], [4], [2, 4], [2]],
    )
    assert [(row["shape"], row["checked"]) for row in errors] == [
        (shape, np.prod(shape)) for shape in shapes
    ]
    assert 0 < max(row["error"] for row in errors) < 1e-7
    shift, data, mlp = (
        results.pop("without_shift"),
        moons(8000, 2000, 0.08, seed=3),
        MLP(2, (5, 4), 2, seed=3),
    )
    history = train(mlp, data, 2, 100, 0.5, seed=3)
    right = sum(
        int(p1 > p0) == label
        for (p0, p1), label in zip(mlp.forward(data.x_test), data.y_test, strict=True)
    )
    logits = torch_twin(mlp)(torch.from_numpy(data.x_test))
    assert shift["largest_logit"] == pytest.approx(logits.abs().max().item(), rel=1e-9)
    assert 0 < shift["difference"] < 1e-12  # of rounding
    settings = {
        "hidden_channels": [5, 4],
        "epochs": 2,
        "batch_size": 100,
        "learning_rate": 0.5,
    }
    expected = {
        "seed": 3,
        "settings": settings,
        "history": history,
        "test_points": 2000,
        "difference_step": 1e-5,
    }
    assert results == {**expected, "test_accuracy": pytest.approx(100 * right / 2000)}
    printed = capsys.readouterr().out
    assert (
        f"epoch  2/2  train loss {history['train_loss'][1]:.5f}  test loss {history['test_loss'][1]:.5f}"
        in printed
    )
    assert f"test accuracy {right / 20:.2f} %" in printed


def test_the_figure_rings_the_points_on_the_wrong_side_of_the_boundary():
    x = np.array([[0.5, 0.0], [0.3, 1.0], [-0.5, 0.0], [-0.2, 0.3], [0.9, -1.0]])
    y = np.array([1, 1, 0, 1, 0])  # the last two are on the wrong side of x₁ = 0

    def predict(points):
        return np.stack([points[:, 0] < 0, points[:, 0] >= 0], axis=1).astype(float)

    history = {"train_loss": [0.5, 0.25], "test_loss": [0.6, 0.375]}
    figure = task1.training_figure(history, predict, x, y)
    plt.close(figure)
    assert figure.axes[1].get_title() == "2 of 5 test points wrong (ringed)"
    (tint,), (boundary, dots, rings) = figure.axes[1].images, figure.axes[1].collections
    assert rings.get_offsets().tolist() == x[3:].tolist()
    assert np.allclose(dots.get_facecolors(), to_rgba_array(MOON_COLOURS)[y])
    assert np.array_equal(
        tint.get_array()[:, [0, 140, 160, 299]], [[0, 0, 1, 1]] * 300
    )  # rows go up along x₂
    np.testing.assert_allclose(boundary.get_paths()[0].vertices[:, 0], 0, atol=0.01)
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [
        *history.values()
    ]
