"""The studies of task 1: every number of their summaries worked by hand or in a second way."""

import argparse
import json
import os

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import task1
from common import studies
from common.checks import Failure
from common.data import bayes_limit, moons
from common.studies import STUDIES, Variant, running_median, scale_weights, summarize, train_variant
from task1 import MLP, Linear, train

TINY = {"points": 40, "test_points": 60, "noise": 0.3, "epochs": 3}
NAN = np.nan

# One run


def test_the_running_median_is_of_the_last_tenth_and_at_least_three_epochs():
    assert running_median(np.array([5.0, 1, 9, 2, 8])).tolist() == [5, 3, 5, 2, 8]
    jump = np.r_[np.arange(46.0), 0, 46, 0, 47]  # fifty epochs, of which the last five count
    assert running_median(jump)[[3, 4, 5, -1]].tolist() == [1.5, 2, 3, 45]
    assert [running_median(np.arange(count))[-1] for count in (59.0, 60.0)] == [56, 56.5]  # of five, and of six
    both = np.array([[[1.0, 2, 3]], [[6, 5, 4]]])
    assert running_median(both).tolist() == [[[1, 1.5, 2]], [[6, 5.5, 5]]]


VARIANTS = [
    Variant(2, **TINY),
    Variant(0, **TINY, learning_rate=0.5),
    Variant(1, **TINY, weight_std=1.0, normalization="batch"),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=range(3))
def test_a_variant_is_trained_as_the_script_trains(variant):
    losses, (wrong, share) = train_variant(MLP, train, variant, seed=5)

    mlp = MLP(hidden_channels=[30] * variant.depth, seed=5, normalization=variant.normalization)
    if variant.weight_std:
        for layer in mlp.layers:
            if isinstance(layer, Linear):
                layer.weight *= variant.weight_std / np.sqrt(2 / layer.weight.shape[1])
    data = moons(40, 60, 0.3, seed=5)
    history = train(mlp, data, 3, learning_rate=variant.learning_rate, seed=5)
    assert losses.tolist() == [history["train_loss"], history["test_loss"]]

    p = mlp.forward(data.x_test)[np.arange(60), data.y_test]
    assert 0 < wrong == (p < 0.5).sum() < 60
    assert share == pytest.approx(np.log(p[p < 0.5]).sum() / np.log(p).sum(), rel=1e-9)


def test_without_a_wrong_point_their_share_is_zero():
    data = {"points": 200, "test_points": 50, "noise": 0.0, "epochs": 30}
    _, errors = train_variant(MLP, train, Variant(2, **data, learning_rate=0.5), seed=0)
    assert errors.tolist() == [0, 0]


def test_all_values_from_the_epoch_of_a_divergence_are_nan():
    def diverge(mlp, data, epochs, learning_rate, seed, report):
        history = {"train_loss": [0.5], "test_loss": [0.6]}
        report(1, history)
        history["train_loss"].append(0.25)
        history["test_loss"].append(0.375)
        report(2, history)
        raise Failure("the loss is inf")

    losses, errors = train_variant(MLP, diverge, Variant(1, **{**TINY, "epochs": 4}), seed=0)
    np.testing.assert_array_equal(losses, [[0.5, 0.25, NAN, NAN], [0.6, 0.375, NAN, NAN]])
    np.testing.assert_array_equal(errors, [NAN, NAN])


def test_a_run_that_diverges_at_once_is_nan_throughout():
    arrays = train_variant(MLP, train, Variant(4, **TINY, learning_rate=1e200), seed=0)
    assert [array.shape for array in arrays] == [(2, 3), (2,)]
    assert all(np.isnan(array).all() for array in arrays)


@pytest.mark.parametrize("std", [1.0, 0.1])
def test_scaled_weights_have_the_given_deviation_in_every_layer(std):
    mlp = MLP(50, (400, 30), 60, seed=0)
    first = MLP(50, (400, 30), 60, seed=0).layers[2].weight
    scale_weights(mlp, std)
    for layer in mlp.layers[::2]:
        assert layer.weight.std() == pytest.approx(std, rel=0.05)
        assert not layer.bias.any()
    np.testing.assert_allclose(mlp.layers[2].weight, first * std / np.sqrt(2 / 400), rtol=1e-12)


def test_no_deviation_leaves_the_weights_as_they_are():
    mlp = MLP(seed=3)
    scale_weights(mlp, None)
    assert np.array_equal(mlp.layers[2].weight, MLP(seed=3).layers[2].weight)


# Many runs


def test_runs_come_in_the_order_of_variants_and_seeds(monkeypatch):
    monkeypatch.setattr(studies, "SEEDS", 2)
    losses, errors = studies.train_all(MLP, train, VARIANTS, 7, "tiny")
    assert losses.shape == (3, 2, 2, 3)
    assert errors.shape == (3, 2, 2)
    for k, variant in enumerate(VARIANTS):
        for number in range(2):
            alone = train_variant(MLP, train, variant, 7 + number)
            assert np.array_equal(losses[k, number], alone[0])
            assert np.array_equal(errors[k, number], alone[1])


class Dying:
    """A training routine that ends its process, unless that is the one of the tests."""

    def __init__(self):
        self.tests = os.getpid()

    def __call__(self, *arguments, **keywords):
        if os.getpid() != self.tests:
            os._exit(1)


@pytest.mark.skipif(joblib.cpu_count() == 1, reason="on one core there are no workers")
def test_a_dead_worker_is_one_failure(monkeypatch):
    monkeypatch.setattr(studies, "SEEDS", 2)
    with pytest.raises(Failure, match=r"^a worker process died.*run the script again$"):
        studies.train_all(MLP, Dying(), VARIANTS[:1], 0, "dying")


def test_an_error_in_a_worker_is_raised_as_it_is(monkeypatch):
    monkeypatch.setattr(studies, "SEEDS", 2)
    with pytest.raises(ValueError, match="expected at least two points"):
        studies.train_all(MLP, train, [VARIANTS[0]._replace(points=1)], 0, "wrong")


# What is varied


@pytest.mark.parametrize("name", ["sheet", "scarce"])
def test_the_depth_studies_vary_the_depth_alone(name):
    assert [variant.depth for variant in STUDIES[name]] == [0, 2, 4, 12]
    assert len({variant._replace(depth=0) for variant in STUDIES[name]}) == 1


def test_the_sheets_setting_is_that_of_the_scripts_own_run():
    assert STUDIES["sheet"][1] == Variant(2)


def test_the_remedy_of_overfitting_is_more_points_of_the_same_noise():
    (variant,) = STUDIES["more_points"]
    assert variant.points == 4000
    (scarce,) = (other for other in STUDIES["scarce"] if other.depth == variant.depth)
    assert variant == scarce._replace(points=20 * scarce.points, epochs=12)


def test_the_normalization_study_varies_method_and_rate():
    pairs = [(method, rate) for method in (None, "batch", "layer") for rate in (0.05, 0.5)]
    assert [(variant.normalization, variant.learning_rate) for variant in STUDIES["normalization"]] == pairs
    alike = {variant._replace(normalization=None, learning_rate=0.05) for variant in STUDIES["normalization"]}
    assert alike == {Variant(12, points=800, weight_std=1)}


def test_large_weights_are_tried_at_several_depths_and_small_ones_in_the_deepest_network():
    assert STUDIES["large_weights"] == [Variant(depth, epochs=2, weight_std=1) for depth in (2, 4, 6, 8, 12)]
    assert STUDIES["small_weights"] == [Variant(12, points=1000, epochs=2, weight_std=0.1)]


def test_the_results_name_each_study_its_variants_and_the_limits_of_its_moons(monkeypatch, tmp_path):
    trained = []

    def train_all(network, routine, variants, seed, label):
        assert (network, routine, seed) == (MLP, train, 9)
        trained.append(variants)
        losses = np.full((len(variants), 3, 2, 4), float(len(trained)))
        return losses + np.arange(len(variants))[:, None, None, None] / 10, np.zeros((len(variants), 3, 2))

    monkeypatch.setattr(studies, "train_all", train_all)
    task1.run_studies(argparse.Namespace(seed=9, figures=tmp_path))
    plt.close("all")
    results = json.loads((tmp_path / "task1_studies.json").read_text(encoding="utf-8"))
    assert trained == list(STUDIES.values())
    for number, (name, variants) in enumerate(STUDIES.items(), 1):
        for k, (row, variant) in enumerate(zip(results[name], variants, strict=True)):
            assert Variant(*(row[field] for field in Variant._fields)) == variant
            assert row["train"] == row["test"] == [number + k / 10] * 3
    assert results["settings"] == {"seeds": 5, "width": 30, "turned": 1.25, "batch_size": 32}
    for name, limit in results["bayes_loss_and_accuracy"].items():
        assert tuple(limit) == bayes_limit(STUDIES[name][0].noise)
    norms = studies.gradient_norms(MLP, 9)
    for number, name in enumerate(("large", "He", "small")):
        np.testing.assert_allclose(results["gradient_norms_f_and_w"][name], norms[number].mean(axis=1), rtol=1e-12)


# The summary


def summary(train_losses, test_losses, errors=((0, 0),)):
    """The row of one variant, whose runs have these losses and errors, after another variant of which all are one."""
    runs = np.stack([np.array(train_losses, float), np.array(test_losses, float)], axis=1)
    losses = np.stack([np.ones_like(runs), runs])
    other, row = summarize(VARIANTS[:2], losses, np.zeros((2, len(runs), 2)) + np.array(errors))
    assert (other["test"], other["diverged"], other["turned"]) == ([1] * len(runs), 0, 0)
    return row


def test_the_summary_of_a_variant_is_that_of_its_running_medians():
    train_losses = [[9, 8, 7, 6, 5, 4, 3], [9, 9, 9, 9, 9, 9, 9]]
    test_losses = [[8, 6, 4, 3, 5, 6, 9], [7, 6, 5, 4, 3, 2, 1]]
    # running medians of three: 8, 7, 6, 4, 4, 5, 6 and 7, 6.5, 6, 5, 4, 3, 2
    assert summary(train_losses, test_losses, [(4, 0.5), (3, 0.25)]) == {
        **VARIANTS[1]._asdict(),
        "train": [4, 9],
        "test": [6, 2],
        "least_test": [4, 2],
        "least_epoch": [4, 7],
        "wrong_points": [4, 3],
        "wrong_share": [0.5, 0.25],
        "turned": 1,
        "diverged": 0,
    }


@pytest.mark.parametrize(("end", "turned"), [(1.24, 0), (1.26, 1)])
def test_a_run_has_turned_around_above_five_quarters_of_its_minimum(end, turned):
    assert summary([[1] * 6], [[3, 1, 1, 1, end, end]])["turned"] == turned


def test_diverged_runs_are_null_in_every_column_and_counted():
    late = [3, 2, 1, 1, NAN, NAN]
    runs = [late, [1] * 6, [NAN] * 6]
    row = summary(runs, runs, [(NAN, NAN), (2, 0.5), (NAN, NAN)])
    assert (row.pop("turned"), row.pop("diverged")) == (0, 2)
    assert {name: values for name, values in row.items() if isinstance(values, list)} == {
        **{name: [None, 1, None] for name in ("train", "test", "least_test", "least_epoch")},
        **{"wrong_points": [None, 2, None], "wrong_share": [None, 0.5, None]},
    }


def test_the_printed_table_holds_medians_of_the_runs_that_did_not_diverge(capsys):
    setting = {"points": 1200, "noise": 0.3, "epochs": 20}
    rows = [
        {**setting, "depth": 4, "train": [0.5, None, 0.25], "test": [3, None, 1], "diverged": 1},
        {"depth": 12, "train": [None], "test": [None], "diverged": 1},
    ]
    studies.print_depths(rows)
    title, _, *lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert " ".join(title) == "1,200 points, noise 0.3, 20 epochs: final loss, median of the seeds"
    assert lines == [["4", "0.37500", "2.00000", "1"], ["12", "nan", "nan", "1"]]


# The gradients of new networks


@pytest.fixture(scope="module")
def norms():
    return dict(zip(("large", "He", "small"), studies.gradient_norms(MLP, 4), strict=True))


@pytest.mark.parametrize(("name", "std"), [("large", 1.0), ("He", None), ("small", 0.1)])
def test_gradient_norms_equal_those_of_torch(name, std, norms):
    torch = pytest.importorskip("torch")
    for number in (0, 4):
        mlp = MLP(hidden_channels=(30,) * 12, seed=4 + number)
        data = moons(256, 2, seed=4 + number)
        x, weights, outputs = torch.from_numpy(data.x_train), [], []
        for k, layer in enumerate(mlp.layers[::2]):
            weight = layer.weight if std is None else layer.weight * std / np.sqrt(2 / layer.weight.shape[1])
            weights.append(torch.tensor(weight, requires_grad=True))
            outputs.append((torch.relu(x) if k else x) @ weights[-1].T)
            outputs[-1].retain_grad()
            x = outputs[-1]
        torch.nn.functional.cross_entropy(x, torch.from_numpy(data.y_train)).backward()
        for kind, tensors in enumerate((outputs, weights)):
            assert norms[name][kind].shape == (studies.SEEDS, 13)
            np.testing.assert_allclose(norms[name][kind, number], [t.grad.norm().item() for t in tensors], rtol=1e-9)


@pytest.mark.parametrize(("name", "std"), [("large", 1.0), ("He", np.sqrt(2 / 30)), ("small", 0.1)])
def test_gradients_grow_from_layer_to_layer_by_the_law(name, std, norms):
    logarithms = np.log(norms[name][0, :, :12]).mean(axis=0)
    slope = -np.polyfit(np.arange(12), logarithms, 1)[0]  # backward
    assert slope == pytest.approx(np.log(std * np.sqrt(30 / 2)), abs=0.15)
