"""The figures of the studies: what they write and where, also for runs that diverge."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest

from common import studies
from common.studies import STUDIES
from task1 import MLP

NAN = np.nan


@pytest.fixture
def draw():
    """Draw a figure, in which nothing may warn; return its texts."""
    plt.close("all")
    made = []

    def texts(function, *arguments):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", DeprecationWarning)  # of an old matplotlib about a newer pyparsing
            figure = function(*arguments)
            figure.canvas.draw()
        made.append(figure)
        return [text.get_text() for text in figure.findobj(plt.Text) if text.get_text()]

    yield texts
    for figure in made:
        plt.close(figure)


def study_losses(epochs):
    """Losses of all depths and three seeds that turn in the middle."""
    course = 0.05 + np.abs(np.linspace(-1, 1, epochs)) / 2
    return np.ones((len(studies.DEPTHS), 3, 2, 1)) * course


@pytest.mark.parametrize("lost", [(), (3,), (0, 2), range(4)], ids=str)
def test_the_depth_figure_draws_also_when_all_runs_of_a_depth_diverge(lost, draw):
    losses = {"sheet": study_losses(10), "scarce": study_losses(41)}
    for values in losses.values():
        values[list(lost), :, :, 4:] = NAN
        values[list(lost), 0] = NAN
    texts = draw(studies.depth_figure, losses, {"sheet": (0.001, 100), "scarce": (0.2, 91)})
    assert {"Bayes 0.001", "Bayes 0.2", "no hidden layer", "12 hidden layers"} <= set(texts)
    turned = sum(depth not in lost for depth in range(4))
    assert sum(text.startswith(" epoch ") for text in texts) >= turned


def test_the_turning_epoch_is_written_at_its_place(draw):
    smooth = np.array([[3.0, 2, 1, 1, 1, 1, 1, 1], [3, 2, 1, 2, 2, 2, 2, 2]])

    def one_panel():
        figure, axes = plt.subplots()
        studies.draw_epochs(axes, smooth)
        assert axes.lines[-1].get_xdata() == [3, 3]
        return figure

    assert " epoch 3 " in draw(one_panel)


@pytest.mark.parametrize(
    "test", [[3, *[1] * 11], [*[3] * 10, 1, 2], [3, 1.96, *[2] * 10]], ids=["flat", "end", "little"]
)
def test_a_test_loss_that_does_not_turn_or_only_at_the_end_has_no_turning_epoch(test, draw):
    def one_panel():
        figure, axes = plt.subplots()
        studies.draw_epochs(axes, np.array([[3.0] * 12, test]))
        return figure

    assert not any("epoch " in text for text in draw(one_panel))


def normalization_rows(finals):
    return [variant._asdict() | {"test": runs} for variant, runs in zip(STUDIES["normalization"], finals, strict=True)]


def test_the_normalization_figure_counts_the_diverged_and_writes_medians(draw):
    finals = [[None] * 5, [None, None, 0.37, 0.37, 0.37], [1, 2, 3, 40, 50], *[[0.37] * 5] * 3]
    texts = draw(studies.normalization_figure, normalization_rows(finals))
    assert [text for text in texts if "diverge" in text] == ["5 of 5\ndiverge", "2 of 5\ndiverge"]
    assert (texts.count("0.37"), texts.count("3")) == (4, 1)


def test_the_normalization_figure_draws_also_when_all_runs_diverge(draw):
    texts = draw(studies.normalization_figure, normalization_rows([[None] * 5] * 6))
    assert texts.count("5 of 5\ndiverge") == 6
    assert not {"inf", "nan"} & set(texts)


def test_the_gradient_figure_draws_the_law_from_the_last_hidden_layer(draw):
    lines, norms = {}, dict(zip(studies.INITIALIZATIONS, studies.gradient_norms(MLP, 4), strict=True))

    def figure():
        made = studies.gradient_figure(np.array(list(norms.values())))
        lines.update({line.get_color(): line.get_ydata() for line in made.axes[0].lines if len(line.get_xdata()) == 12})
        return made

    texts = draw(figure)
    for name, factor in (("large", np.sqrt(15)), ("He", 1), ("small", 0.1 * np.sqrt(15))):
        law = lines[studies.INITIALIZATIONS[name][1]]
        assert law[-1] == pytest.approx(norms[name][0, :, 11].mean())
        np.testing.assert_allclose(law[:-1] / law[1:], factor, rtol=1e-9)
        assert any(text.endswith(f"×{factor:.2g} per layer") for text in texts)
