"""Figures repeat byte for byte, leave the user's own plots alone, and say what they are
meant to say.
"""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import run_script
from matplotlib.colors import to_rgba_array
from scipy.spatial.distance import pdist

from common import plotting


def small_figure():
    images = np.arange(2 * 784).reshape(2, 28, 28).astype(np.uint8)
    return plotting.image_grid(
        [images, images / 255 - 0.25], ["a", "b"], ["grey", "signed"], "letter"
    )


def test_a_figure_is_saved_as_png_and_svg_of_repeating_bytes(tmp_path):
    plt.close("all")
    contents = []
    for _ in range(2):
        plotting.save_figure(small_figure(), tmp_path / "new", "grid")
        contents.append(
            {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
        )
    assert contents[0] == contents[1]
    assert contents[0].keys() == {"grid.png", "grid.svg"}
    assert b"dc:date" not in contents[0]["grid.svg"]
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == {**mpl.rc_params(), "backend": mpl.rcParams["backend"]}


def test_a_script_that_a_notebook_starts_does_without_its_backend():
    assert (
        run_script(
            "task1.py", "--help", MPLBACKEND="module://matplotlib_inline.backend_inline"
        ).returncode
        == 0
    )


def test_bytes_are_ink_and_other_values_are_centred_on_zero_within_their_row():
    grid = small_figure().axes
    assert [axes.images[0].get_clim() for axes in grid] == 2 * [(0, 255)] + 2 * [
        (-0.75, 0.75)
    ]
    assert grid[0].images[0].cmap(0)[:3] == (1, 1, 1)
    assert [axes.get_title() + axes.get_ylabel() for axes in grid] == [
        "a" + "grey",
        "b",
        "signed",
        "",
    ]
    assert grid[0].texts[0].get_text() == "letter"


@pytest.mark.parametrize("train_last", [0.1, 0.3])
def test_the_last_values_stand_at_the_ends_the_greater_above(train_last):
    axes = plotting.Figure().subplots()
    history = {"train_loss": [0.9, train_last], "test_loss": [0.8, 0.2]}
    plotting.draw_history(axes, history, "loss", digits=2)
    labels = [
        (text.get_text(), text.xy, text.get_va() == "bottom") for text in axes.texts
    ]
    assert labels == [
        (f"train {train_last}0", (2, train_last), train_last > 0.2),
        ("test 0.20", (2, 0.2), train_last < 0.2),
    ]
    assert [line.get_xydata().T.tolist() for line in axes.lines] == [
        [[1, 2], values] for values in history.values()
    ]


def test_each_class_has_its_colour_an_ellipse_around_half_of_it_and_its_number():
    rng, axes = np.random.default_rng(0), plotting.Figure().subplots()
    labels = rng.permutation([1, 4] * 20_000)
    points = (
        rng.normal(size=(len(labels), 2)) @ [[3.0, 1], [0, 0.5]]
        + [5, -2] * labels[:, None]
    )
    plotting.class_scatter(axes, points, labels)
    assert np.allclose(
        axes.collections[0].get_facecolors(),
        to_rgba_array(plotting.CLASS_COLOURS)[labels],
    )
    for number, text, line in zip((1, 4), axes.texts, axes.lines, strict=True):
        assert line.get_path().contains_points(
            points[labels == number]
        ).mean() == pytest.approx(0.5, abs=0.015)
        assert (
            np.linalg.norm(line.get_xydata() - text.get_position(), axis=1).min() == 0
        )
        assert (text.get_text(), line.get_color()) == (
            str(number),
            plotting.CLASS_COLOURS[number],
        )


def test_the_numbers_of_classes_in_the_same_place_are_kept_apart():
    axes, points = (
        plotting.Figure().subplots(),
        np.random.default_rng(0).normal(size=(100, 2)),
    )
    plotting.class_scatter(axes, np.tile(points, (4, 1)), np.repeat(range(4), 100))
    assert (
        pdist([text.get_position() for text in axes.texts]).min() > np.ptp(points) / 12
    )


def test_digits_that_are_easily_confused_have_colours_that_are_not():
    pairs = [
        (4, 9),
        (7, 9),
        (3, 5),
        (3, 8),
        (5, 8),
        (2, 7),
        (4, 7),
        (2, 3),
        (0, 6),
        (5, 6),
        (2, 8),
        (8, 9),
    ]
    colours = to_rgba_array(plotting.CLASS_COLOURS)[pairs]  # [pairs, 2, 4]
    assert np.linalg.norm(colours[:, 0] - colours[:, 1], axis=1).min() > 1 / 3


def test_text_is_black_or_white_whichever_has_the_greater_contrast():
    colours = {
        "#757575": "white",
        "#767676": "black",
        "red": "black",
        "green": "white",
        "blue": "white",
    }
    assert {colour: plotting.text_colour(colour) for colour in colours} == colours
