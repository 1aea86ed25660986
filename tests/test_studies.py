"""The other networks of 1.4: what is trained, read off the curves and drawn."""

from argparse import Namespace
from functools import partial

import numpy as np
import pytest
from conftest import figures_of
from scipy.stats import norm

from common import studies
from common.data import half_circles, moons
from common.plotting import moon_map
from common.studies import Run, Variant
from task1 import MLP, accuracy, train, train_variant, train_variants

TINY = Variant("default", 1, 40, 60, 0.3, 4, 20, 0.5, seeds=2)
DIVERGING = TINY._replace(hidden_layers=4, learning_rate=1e200)
pytestmark = pytest.mark.filterwarnings(
    "error", "ignore::DeprecationWarning", "ignore::UserWarning:joblib"
)


@pytest.mark.parametrize("variant", [TINY, TINY._replace(hidden_layers=0)])
def test_a_run_is_a_plain_training_of_its_variant(variant):
    run = train_variant(variant, 7)
    data = moons(40, 60, 0.3, 7)
    mlp = MLP(hidden_channels=[studies.WIDTH] * variant.hidden_layers, seed=7)
    history = train(mlp, data, 4, 20, 0.5, 7)
    assert {"train_loss": run.train_loss, "test_loss": run.test_loss} == history
    assert run.train_error == 100 - accuracy(mlp, data.x_train, data.y_train)
    assert run.test_error == 100 - accuracy(mlp, data.x_test, data.y_test)
    assert run.map is None
    drawn = train_variant(variant._replace(study="scarce"), 7).map
    assert np.array_equal(drawn, moon_map(mlp.forward, studies.MAP_LIMIT))


def test_runs_come_in_the_order_of_variants_and_seeds(monkeypatch):
    variants = [TINY, DIVERGING._replace(seeds=1), TINY._replace(noise=0.2)]
    monkeypatch.setattr(studies, "VARIANTS", variants)
    runs = train_variants(7)
    places = [(0, 7), (0, 8), (1, 7), (2, 7), (2, 8)]
    assert [(variants.index(run.variant), run.seed) for run in runs] == places
    for run in runs:
        expected = train_variant(run.variant, run.seed).test_loss
        assert run.test_loss == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("test_loss", "end", "least", "rises"),
    [
        ([9, 3, 6, 1, 5, 3.2], 3.2, (1, 4), False),  # too little
        ([9, 3, 6, 1, 5, 3.4], 3.4, (1, 4), True),
        ([], None, (None, None), False),
    ],
)
def test_end_least_and_rise_are_read_off_the_curve(test_loss, end, least, rises):
    run = Run(TINY, 0, [], test_loss, 0, 0, None)
    assert studies.end(test_loss) == end
    assert studies.least(run) == least
    assert studies.rises_again(run) is rises


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Runs, results and figure of small studies in which one network diverges."""
    default = [TINY._replace(hidden_layers=depth) for depth in (0, 1, 5)]
    default.append(DIVERGING)
    scarce = [each._replace(study="scarce", noise=0.5) for each in default]
    scarce[3] = scarce[3]._replace(learning_rate=0.5)
    runs = []
    for variant in default + scarce:
        runs += [train_variant(variant, seed) for seed in (3, 4)]
    folder = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "DEPTHS", (0, 1, 5, 4))
        patch.setattr(studies, "DEFAULT", default)
        patch.setattr(studies, "SCARCE", scarce)
        patch.setattr(studies, "VARIANTS", default + scarce)
        options = Namespace(seed=3, figures=folder)
        results, figures = figures_of(partial(studies.save, runs), options)
    return runs, results, figures[0]


def test_the_results_are_rows_of_settings_and_lists_over_the_runs(saved):
    runs, results, _ = saved
    row = results["scarce"][1]
    chosen = runs[10:12]
    assert {name: row[name] for name in Variant._fields} == chosen[0].variant._asdict()
    assert row["train_end"] == [studies.end(run.train_loss) for run in chosen]
    assert row["test_end"] == [studies.end(run.test_loss) for run in chosen]
    assert row["least"] == [min(run.test_loss) for run in chosen]
    assert row["least_epoch"] == [studies.least(run)[1] for run in chosen]
    assert row["learned"] == sum(least < studies.LEARNED for least in row["least"])
    assert results["default"][3]["test_end"] == [None, None]
    assert (results["default"][3]["learned"], results["seed"]) == (0, 3)
    assert results["settings"]["bayes_loss"] == studies.bayes_loss(0.5)


def test_the_figure_shows_every_run_and_its_end(saved):
    runs, _, figure = saved
    two = runs[10:12]
    curves = [line.get_ydata() for line in figure.axes[6].lines]
    for split in ("train_loss", "test_loss"):
        both = [getattr(run, split) for run in two]
        for expected in (*both, np.median(both, axis=0)):
            assert any(np.allclose(expected, curve) for curve in curves)
    dots = [line.get_ydata() for line in figure.axes[9].lines]
    ends = [studies.end(run.test_loss) for run in two]
    assert any(np.array_equal(ends, each) for each in dots)
    diverged = figure.axes[3]
    assert diverged.get_title() == "4 hidden layers"
    assert not diverged.lines


def test_the_maps_are_those_of_the_median_gap_with_the_best_boundary(saved):
    runs, _, figure = saved
    gaps = []
    for run in runs[14:]:  # of the deepest network
        gaps.append(np.median(run.test_loss[-3:]) - np.median(run.train_loss[-3:]))
    drawn = runs[12 + int(np.argmax(gaps))]  # of two, the upper one
    shown = figure.axes[12]
    assert np.array_equal(shown.images[0].get_array(), drawn.map)
    assert f"train {drawn.train_error:.0f} %" in shown.get_title()
    x = moons(40, 2, 0.5, drawn.seed).x_train
    unscaled, _ = studies.unscaled_points(drawn)
    boundary = shown.collections[-1].get_paths()[0].vertices
    low = unscaled.min(axis=0)
    half = np.ptp(unscaled, axis=0) / 2
    np.testing.assert_allclose((x + 1) * half + low, unscaled)
    upper, lower = studies.moon_densities((boundary + 1) * half + low, 0.5)
    np.testing.assert_allclose(upper, lower, rtol=0.03)


def test_a_density_is_the_mean_over_the_half_circle_of_a_normal_distribution():
    points = np.array([[-0.9, -0.3], [0.4, 0.8], [1.9, 0.1]])
    arcs = half_circles(np.linspace(0, np.pi, 20_001))
    densities = studies.moon_densities(points, 0.2)
    for density, arc in zip(densities, arcs, strict=True):
        parts = norm(arc, 0.2).pdf(points[:, None]).prod(axis=2)
        np.testing.assert_allclose(density, parts.mean(axis=1), rtol=1e-3)


@pytest.mark.parametrize("noise", [0.2, 0.3, 5])
def test_the_bayes_loss_is_that_of_the_best_classifier_on_many_points(noise):
    run = Run(TINY._replace(points=10_000, noise=noise), 0, [], [], 0, 0, None)
    best = studies.best_train_loss(run)
    assert studies.bayes_loss(noise) == pytest.approx(best, abs=0.01)
