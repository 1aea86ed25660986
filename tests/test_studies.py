"""The studies of task 1: what they train, the summaries of their runs, and their
figures.
"""

import json
from argparse import Namespace
from itertools import accumulate, chain

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from twins import torch_twin

from common import studies
from common.data import bayes_loss, moon_densities, moons, random_moons
from common.plotting import styled
from common.studies import Variant
from task1 import MLP, gradient_norms, train, train_studies, train_variant

TINY = Variant(
    1, 40, 0.3, 1050, 3, 20, 0.5, weight_std=1.0, normalization="batch", seeds=2
)
DIVERGING = Variant(4, 40, 0.3, 1050, 3, 20, 1e10)
SHORT, LONG = (
    Variant(0, 40, 0.1, 1050, 2, 10),
    Variant(3, 30, 0.7, 1050, 12, 10, 0.5, 0.02, 0.5),
)
LISTS = ("train", "test", "error", "stopped_epoch", "stopped_test", "stopped_error")
pytestmark = pytest.mark.filterwarnings(
    "error", "ignore::DeprecationWarning", "ignore::UserWarning:joblib"
)


@pytest.fixture
def table(monkeypatch):
    """Small studies in place of the project's, with settings that do not change."""
    sheet = [
        *(
            TINY._replace(depth=depth, weight_std=None, normalization=None)
            for depth in (0, 1, 2, 5)
        ),
        DIVERGING,
    ]
    scarce = [each._replace(noise=0.5, epochs=4) for each in sheet]
    table = {
        "sheet": sheet,
        "scarce": scarce,
        "else": [LONG],
        "normalization": [TINY, DIVERGING],
    }
    settings = {
        "WIDTH": 30,
        "VALIDATION_POINTS": 30,
        "SEEDS": 2,
        "LEARNED": 0.6,
        "STUDIES": table,
    }
    for name, value in settings.items():
        monkeypatch.setattr(studies, name, value)
    return table


@styled
def texts(figure):
    """Draw a figure and close it; return its texts."""
    figure.canvas.draw()
    plt.close(figure)
    return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]


@pytest.mark.parametrize("variant", [TINY, SHORT, SHORT._replace(epochs=1), LONG])
def test_a_run_comes_to_what_plain_trainings_of_every_length_come_to(variant, table):
    depth, points, noise, _, epochs, batch_size, rate, decay, std, normalization, _ = (
        variant
    )
    data, rows = moons(points, 1080, noise, 7), []
    (x, y), validation = (
        [part[rows] for part in data[2:]] for rows in (slice(30, None), slice(30))
    )
    for length in range(1, epochs + 1):
        mlp = MLP(2, [30] * depth, 2, 7, normalization, std)
        history = train(
            mlp,
            (*data[:2], *validation),
            length,
            batch_size,
            rate,
            7,
            weight_decay=decay,
        )
        rows.append(
            (
                mlp.loss(x, y),
                100 * ((mlp.forward(x)[:, 1] > 0.5) != y).mean(),
                mlp.forward(x),
            )
        )
    losses = history["test_loss"]
    last = sorted(range(max(0, epochs - 3), epochs), key=losses.__getitem__)
    final, best = last[len(last) // 2], int(np.argmin(losses))
    assert variant is not LONG or 0 < best < 11
    run = train_variant(variant, 7)
    expected = [
        history["train_loss"][final],
        *rows[final][:2],
        best + 1,
        *rows[best][:2],
    ]
    assert [run[name] for name in LISTS] == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(run["losses"], [*history.values()], rtol=1e-9)
    np.testing.assert_allclose(run["network"].forward(x), rows[final][2], rtol=1e-9)


@pytest.mark.parametrize(
    "folder", ["temporary", "Müller"]
)  # joblib's processes cannot work in the second
def test_runs_come_in_the_order_of_studies_variants_and_seeds(
    folder, monkeypatch, tmp_path
):
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(tmp_path / folder))
    tiny = Variant(0, 40, epochs=1, seeds=1)
    monkeypatch.setattr(
        studies,
        "STUDIES",
        {"a": [tiny, tiny._replace(depth=1, seeds=2)], "b": [DIVERGING]},
    )
    found = train_studies(7)
    assert [*map(len, found.values())] == [2, 1]
    for variant, runs in zip(
        chain(*studies.STUDIES.values()), chain(*found.values()), strict=True
    ):
        expected = [
            train_variant(variant, 7 + k)["losses"] for k in range(variant.seeds)
        ]
        np.testing.assert_allclose([run["losses"] for run in runs], expected, rtol=1e-9)


def test_gradient_norms_of_new_networks_equal_those_of_autograd_and_follow_the_law_in_the_figure():
    found, deviations = (
        gradient_norms(4),
        [std for std, *_ in studies.INITIALIZATIONS.values()],
    )
    assert found.shape[:2] == (len(deviations), studies.SEEDS)
    for (k, seed), _ in np.ndenumerate(found[..., 0, 0]):
        twin = torch_twin(
            MLP(
                2,
                [studies.WIDTH] * studies.DEEPEST,
                2,
                4 + seed,
                weight_std=deviations[k],
            )
        )
        x, y, _, _ = map(torch.from_numpy, moons(256, 2, 0.08, 4 + seed))
        outputs = [*accumulate(twin, lambda x, module: module(x), initial=x)][1:]
        loss = torch.nn.functional.cross_entropy(outputs[-1], y)
        gradients = torch.autograd.grad(
            loss, [*outputs[::2], *(module.weight for module in twin[::2])]
        )
        np.testing.assert_allclose(
            found[k, seed].flat, [gradient.norm() for gradient in gradients], rtol=1e-9
        )
    figure = studies.gradient_figure(found)
    factors = [text.split("×")[1] for text in texts(figure) if "per layer" in text]
    for norms, line, factor in zip(
        found[:, :, 0].mean(axis=1), figure.axes[0].lines[1::2], factors, strict=True
    ):
        law = line.get_ydata()
        assert (norms[-2], factor) == (
            pytest.approx(law[-1]),
            f"{law[0] / law[1]:.2g} per layer",
        )
        assert abs(np.log(norms[0] / law[0])) < 0.2 * len(law)


def test_the_results_are_summaries_and_the_figure_shows_the_runs_also_where_a_depth_diverges(
    table, tmp_path
):
    runs = {
        name: [[train_variant(each, 4 + k) for k in (0, 1)] for each in study]
        for name, study in table.items()
    }
    studies.save(runs, norms := gradient_norms(4), Namespace(seed=4, figures=tmp_path))
    settings = {"seeds": 2, "width": 30, "learned": 0.6, "validation_points": 30}
    floors = {"sheet": bayes_loss(0.3), "scarce": bayes_loss(0.5)}
    means = dict(zip(studies.INITIALIZATIONS, norms.mean(axis=1).tolist(), strict=True))
    expected = {
        "seed": 4,
        "settings": settings,
        "bayes_loss": floors,
        "gradient_norms_f_and_w": means,
    }
    rows = {name: studies.summarize(study, runs[name]) for name, study in table.items()}
    assert (
        json.loads((tmp_path / "task1_studies.json").read_text(encoding="utf-8"))
        == expected | rows
    )
    figure = studies.depth_figure(runs, {"sheet": 0.001, "scarce": 0.25}, 4)
    assert {"Bayes 0.001", "Bayes 0.25", "no hidden layers", "1 hidden layer"} <= {
        *texts(figure)
    }
    for name, row, floor in (
        ("sheet", figure.axes[:6], 0.001),
        ("scarce", figure.axes[6:12], 0.25),
    ):
        assert {axes.lines[-1].get_ydata()[0] for axes in row} == {floor}
        *drawn, _, final = (
            [line.get_ydata() for line in axes.lines[:2]] for axes in row
        )
        np.testing.assert_allclose(
            drawn[:4],
            [(one["losses"] + two["losses"]) / 2 for one, two in runs[name][:4]],
        )
        finals = [
            [(one[split] + two[split]) / 2 for one, two in runs[name][:4]]
            for split in ("train", "test")
        ]
        np.testing.assert_allclose(np.array(final)[:, :4], finals)
    # Both seeds of the deepest diverge, so the second is drawn
    (x, y, *_), (raw, _) = (
        moons(40, 2, 0.5, 5),
        random_moons(40, 0.5, np.random.default_rng(5).spawn(2)[0]),
    )
    for axes, (_, run) in zip(figure.axes[12:16], runs["scarce"], strict=False):
        wrong = 100 * (np.abs(run["network"].forward(x)[:, 1] - y) > 0.5).mean()
        assert axes.get_title() == f"{wrong:.1f} %, {run['error']:.1f} %"
        line = np.concatenate(
            [path.vertices for path in axes.collections[-1].get_paths()]
        )
        places = [
            np.polyval(np.polyfit(x[:, k], raw[:, k], 1), line[:, k]) for k in (0, 1)
        ]
        np.testing.assert_allclose(
            *np.diagonal(moon_densities(*places, 0.5), axis1=1, axis2=2), rtol=0.02
        )


def test_a_run_that_diverges_has_losses_up_to_there_and_counts_so_in_the_summary_and_in_the_table(
    table, capsys
):
    one, lost = (
        train_variant(DIVERGING._replace(epochs=epochs), 0) for epochs in (1, 3)
    )
    np.testing.assert_array_equal(
        lost["losses"], np.pad(one["losses"], [(0, 0), (0, 2)], constant_values=np.nan)
    )
    values = [
        (0.5, 0.7, 20, 3, 0.65, 18),
        (0.6, 0.9, 50, 1, 0.8, 45),
        (None,) * 6,
        (0.1, 0.3, 10, 2, 0.25, 9),
    ]
    runs = [
        lost if None in each else {**lost, **dict(zip(LISTS, each, strict=True))}
        for each in values
    ]
    rows = studies.summarize([TINY, DIVERGING], [runs, [lost]])
    lists = {
        name: [*column]
        for name, column in zip(LISTS, zip(*values, strict=True), strict=True)
    }
    assert rows[0] == TINY._asdict() | lists | {"diverged": 1, "learned": 2}
    assert rows[1] == DIVERGING._asdict() | {name: [None] for name in LISTS} | {
        "diverged": 1,
        "learned": 0,
    }
    studies.print_depths(rows)
    assert capsys.readouterr().out.split()[-8:] == [
        "1",
        "0.50000",
        "0.70000",
        "1",
        "4",
        "nan",
        "nan",
        "1",
    ]


def test_the_normalization_figure_counts_the_runs_that_learned_and_diverged_and_writes_the_medians():
    finals = (
        [None] * 5,
        [None, None, 0.37, 0.37, 0.37],
        [1, 2, 3, 40, 50],
        [None] * 3 + [5, 5],
    )
    rows = [
        TINY._asdict() | {"test": runs, "learned": k} for k, runs in enumerate(finals)
    ]
    found, lost = texts(studies.normalization_figure(rows)), (5, 2, 0, 3)
    notes = [
        f"{k} of 5\nlearned" + f"\n{count} diverged" * (count > 0)
        for k, count in enumerate(lost)
    ]
    assert [text for text in found if "learned" in text] == notes
    assert (found.count("0.37"), found.count("3"), found.count("5")) == (1, 1, 0)
