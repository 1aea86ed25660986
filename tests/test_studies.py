"""The studies of task 1: what they train, the summaries of their losses, and their figures."""

import argparse
import json
from itertools import accumulate

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from twins import torch_twin

from common import studies
from common.data import bayes_limit, moons
from common.studies import Variant, running_median
from task1 import MLP, gradient_norms, rescale_weights, run_studies, train, train_study, train_variant

TINY = {"points": 40, "test_points": 60, "noise": 0.3, "epochs": 3, "batch_size": 20, "learning_rate": 0.5}
VARIANTS = [Variant(2, **TINY), Variant(0, **TINY), Variant(1, **TINY, weight_std=1.0, normalization="batch")]
DIVERGING = Variant(4, **TINY)._replace(learning_rate=1e10)
pytestmark = pytest.mark.filterwarnings("error", "ignore::DeprecationWarning", "ignore::UserWarning:joblib")


@pytest.mark.parametrize("folder", ["temporary", "Müller"])  # joblib's processes cannot work in the second
def test_runs_come_in_the_order_of_variants_and_seeds_and_train_as_the_script_does(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(tmp_path / folder))
    monkeypatch.setattr(studies, "SEEDS", 2)
    monkeypatch.setitem(studies.STUDIES, "tiny", VARIANTS)
    for (depth, *_, std, normalization), runs in zip(VARIANTS, train_study("tiny", 7), strict=True):
        for seed, losses in enumerate(runs, 7):
            mlp = MLP(hidden_channels=[studies.WIDTH] * depth, seed=seed, normalization=normalization)
            rescale_weights(mlp, std)
            history = train(mlp, moons(40, 60, 0.3, seed), 3, 20, 0.5, seed)
            np.testing.assert_allclose(losses, [history["train_loss"], history["test_loss"]], rtol=1e-9)


def test_losses_are_nan_from_the_epoch_in_which_training_diverges(monkeypatch):
    monkeypatch.setattr(studies, "WIDTH", 30)
    finite = train_variant(DIVERGING._replace(epochs=1), 0)
    expected = np.pad(finite, [(0, 0), (0, 2)], constant_values=np.nan)
    np.testing.assert_array_equal(train_variant(DIVERGING, 0), expected)


def test_gradient_norms_of_new_networks_with_weights_of_the_given_deviation_equal_those_of_autograd():
    for (std, *_), found in zip(studies.INITIALIZATIONS.values(), gradient_norms(4), strict=True):
        for seed, norms in enumerate(found.swapaxes(0, 1), 4):
            mlp = MLP(hidden_channels=[studies.WIDTH] * studies.DEEPEST, seed=seed)
            for layer in mlp.layers[::2]:
                layer.weight *= 1 if std is None else std * np.sqrt(layer.weight.shape[1] / 2)
            x, y, _, _ = map(torch.from_numpy, moons(256, 2, 0.08, seed))
            twin = torch_twin(mlp)
            outputs = [*accumulate(twin, lambda x, module: module(x), initial=x)][1:]
            loss = torch.nn.functional.cross_entropy(outputs[-1], y)
            gradients = torch.autograd.grad(loss, [*outputs[::2], *(module.weight for module in twin[::2])])
            np.testing.assert_allclose(norms.flat, [gradient.norm() for gradient in gradients], rtol=1e-9)


def test_the_results_are_the_summaries_of_all_studies_the_limits_and_the_norms(monkeypatch, tmp_path, capsys):
    sheet = [Variant(depth, **TINY) for depth in (0, 1, 2, 3, 5)]
    scarce = [variant._replace(noise=0.5, epochs=5) for variant in sheet]
    monkeypatch.setattr(studies, "STUDIES", {"sheet": sheet, "scarce": scarce, "normalization": [*VARIANTS, DIVERGING]})
    monkeypatch.setattr(studies, "SEEDS", 2)
    run_studies(argparse.Namespace(seed=9, figures=tmp_path))
    assert "noise 0.5, 5 epochs: final loss" in capsys.readouterr().out
    files = {f"task1_{name}.{suffix}" for name in ("depth", "gradients", "normalization") for suffix in ("png", "svg")}
    assert {path.name for path in tmp_path.iterdir()} == {*files, "task1_studies.json"}
    norms = zip(studies.INITIALIZATIONS, gradient_norms(9).mean(axis=2).tolist(), strict=True)
    assert json.loads((tmp_path / "task1_studies.json").read_text(encoding="utf-8")) == {
        "seed": 9,
        "settings": {"seeds": 2, "width": studies.WIDTH},
        "bayes_loss_and_accuracy": {"sheet": [*bayes_limit(0.3)], "scarce": [*bayes_limit(0.5)]},
        "gradient_norms_f_and_w": dict(norms),
        **{name: studies.summarize(rows, train_study(name, 9)) for name, rows in studies.STUDIES.items()},
    }


def test_the_running_median_is_of_the_last_tenth_and_at_least_three_epochs():
    assert running_median(np.array([5.0, 1, 9, 2, 8])).tolist() == [5, 3, 5, 2, 8]
    jump = np.r_[np.arange(46.0), 0, 46, 0, 47]  # fifty epochs, of which the last five count
    assert running_median(jump)[[3, 4, 5, -1]].tolist() == [1.5, 2, 3, 45]


def test_summary_and_printed_table_by_hand_of_runs_of_which_some_diverge(capsys):
    train_losses = [[9, 8, 7, 6, 5, 4, 3], [9, 9, 9, 9, 9, 9, 9], [1, 1, 1, 1, 1, 1, np.nan]]
    test_losses = [[8, 6, 4, 3, 5, 6, 9], [7, 6, 5, 4, 3, 2, 1], [1, 1, 1, 1, 1, 1, np.nan]]
    # running medians of three of the test losses: 8, 7, 6, 4, 4, 5, 6 and 7, 6.5, 6, 5, 4, 3, 2
    runs = np.stack([train_losses, test_losses], axis=1)
    rows = studies.summarize([Variant(4, **TINY), Variant(12)], np.array([runs, runs * np.nan]))
    found = {"train": [4, 9, None], "test": [6, 2, None], "least_test": [4, 2, None], "least_epoch": [4, 7, None]}
    assert rows[0] == Variant(4, **TINY)._asdict() | found | {"diverged": 1}
    assert rows[1] == Variant(12)._asdict() | dict.fromkeys(found, [None] * 3) | {"diverged": 3}
    studies.print_depths(rows)
    assert capsys.readouterr().out.split()[-8:] == ["4", "6.50000", "4.00000", "1", "12", "nan", "nan", "3"]


def texts(figure):
    """Draw a figure and close it; return its texts."""
    figure.canvas.draw()
    plt.close(figure)
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]


def test_the_depth_figure_draws_medians_also_when_all_runs_of_a_depth_or_of_a_study_diverge(monkeypatch):
    variants = [Variant(depth, **TINY) for depth in (0, 2, 3, 5, 8)]
    monkeypatch.setattr(studies, "STUDIES", {"sheet": variants, "scarce": variants})
    losses = np.random.default_rng(0).uniform(0.1, 1, (5, 3, 2, 12))
    losses[4, ..., 4:] = np.nan
    limits = {"sheet": (0.001, 100), "scarce": (0.25, 91)}
    figure = studies.depth_figure({"sheet": losses, "scarce": losses * np.nan}, limits)
    assert {"Bayes 0.001", "Bayes 0.25", "no hidden layer", "8 hidden layers"} <= {*texts(figure)}
    assert [axes.lines[-1].get_ydata()[0] for axes in figure.axes] == [0.001] * 6 + [0.25] * 6
    medians = np.median(running_median(losses), axis=1)  # [5, 2, 12]
    drawn = [[line.get_ydata() for line in axes.lines[:2]] for axes in figure.axes[:6]]
    np.testing.assert_allclose(drawn[:4], medians[:4])
    np.testing.assert_allclose(np.array(drawn[5])[:, :4].T, medians[:4, :, -1])


@pytest.mark.parametrize(("epoch", "least", "turns"), [(3, 1, [3]), (19, 1, []), (3, 1.96, [])])
def test_the_epoch_is_written_in_which_the_test_loss_turns_clearly_before_the_end(epoch, least, turns):
    figure, axes = plt.subplots()
    studies.draw_epochs(axes, np.where(np.arange(1, 21) == epoch, [[2], [least]], 2))
    assert [text for text in texts(figure) if "epoch " in text] == [f" epoch {turn} " for turn in turns]


def test_the_normalization_figure_counts_the_diverged_runs_and_writes_the_medians():
    finals = [None] * 5, [None, None, 0.37, 0.37, 0.37], [1, 2, 3, 40, 50], [None] * 3 + [5, 5]
    found = texts(studies.normalization_figure([VARIANTS[2]._asdict() | {"test": runs} for runs in finals]))
    assert [text for text in found if "diverge" in text] == [f"{count} of 5\ndiverge" for count in (5, 2, 3)]
    assert (found.count("0.37"), found.count("3"), found.count("5")) == (1, 1, 0)


def test_the_law_in_the_gradient_figure_fits_the_norms():
    figure = studies.gradient_figure(gradient_norms(0))
    lines, factors = figure.axes[0].lines, [text.split("×")[1] for text in texts(figure) if "per layer" in text]
    for dots, law, factor in zip(lines[::2], lines[1::2], factors, strict=True):
        norms, fitted = dots.get_ydata(), law.get_ydata()
        assert norms[-2] == pytest.approx(fitted[-1])
        assert abs(np.log(norms[0] / fitted[0])) < 0.2 * len(fitted)
        assert factor == f"{fitted[0] / fitted[1]:.2g} per layer"
