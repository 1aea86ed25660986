"""Figures repeat byte for byte, leave the user's own plots alone, and say what they are
meant to say.
"""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import ROOT, run_script
from matplotlib.colors import to_rgba_array
from scipy.spatial.distance import pdist

from common import plotting


def small_figure():
    bytes_ = np.arange(2 * 784).reshape(2, 28, 28).astype(np.uint8)
    rows = [bytes_, 0.25 - bytes_ / 255]
    return plotting.image_grid(rows, ["a", "b"], ["grey", "signed"], "letter")


def test_a_figure_is_saved_as_png_and_svg_of_repeating_bytes(tmp_path):
    plt.close("all")
    for folder in ("one", "two"):
        plotting.save_figure(small_figure(), tmp_path / folder, "grid")
    for name in ("grid.png", "grid.svg"):
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes()
        assert b"dc:date" not in content
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == {**mpl.rc_params(), "backend": mpl.rcParams["backend"]}


INLINE = """import matplotlib
from matplotlib.backends.backend_agg import *
matplotlib.interactive(True)
"""
CELL = """import sys
sys.modules["IPython"] = None
from common.plotting import plt, styled
styled(plt.figure)()
sys.exit(not plt.isinteractive())
"""


def test_the_backend_of_a_notebook_stays_interactive(tmp_path):
    cell = tmp_path / "cell.py"
    cell.write_text(CELL)
    cell.with_name("inline.py").write_text(INLINE)
    paths = {"PYTHONPATH": str(ROOT), "MPLBACKEND": "module://inline"}
    assert run_script(cell, **paths).returncode == 0


def test_bytes_are_ink_and_other_values_are_centred_on_zero_within_their_row():
    grid = small_figure().axes
    limits = [axes.images[0].get_clim() for axes in grid]
    assert limits == [(0, 255), (0, 255), (-0.75, 0.75), (-0.75, 0.75)]
    assert grid[0].images[0].cmap(0)[:3] == (1, 1, 1)
    assert [axes.get_title() for axes in grid] == ["a", "b", "", ""]
    assert [axes.get_ylabel() for axes in grid] == ["grey", "", "signed", ""]
    assert grid[0].texts[0].get_text() == "letter"


def test_the_last_values_stand_at_the_ends_the_greater_above():
    axes = plotting.Figure().subplots()
    history = {"train_loss": [0.9, 0.1], "test_loss": [0.8, 0.2]}
    plotting.draw_history(axes, history, "loss", digits=2)
    curves = [line.get_xydata().T.tolist() for line in axes.lines]
    assert curves == [[[1, 2], [0.9, 0.1]], [[1, 2], [0.8, 0.2]]]
    train, test = axes.texts
    assert (train.get_text(), train.xy) == ("train 0.10", (2, 0.1))
    assert (test.get_text(), test.xy) == ("test 0.20", (2, 0.2))
    assert (train.get_va(), test.get_va()) == ("top", "bottom")


def test_each_class_has_its_colour_an_ellipse_around_half_of_it_and_its_number():
    rng = np.random.default_rng(0)
    axes = plotting.Figure().subplots()
    labels = rng.permutation([1, 4] * 20_000)
    points = rng.normal(size=(len(labels), 2)) @ [[3.0, 1], [0, 0.5]]
    points += np.outer(labels, [5, -2])
    plotting.class_scatter(axes, points, labels)
    colours = to_rgba_array(plotting.CLASS_COLOURS)[labels]
    assert np.allclose(axes.collections[0].get_facecolors(), colours)
    for number, text, line in zip((1, 4), axes.texts, axes.lines, strict=True):
        inside = line.get_path().contains_points(points[labels == number])
        assert inside.mean() == pytest.approx(0.5, abs=0.015)
        assert text.get_position() in map(tuple, line.get_xydata())
        assert text.get_text() == str(number)
        assert line.get_color() == plotting.CLASS_COLOURS[number]


def test_the_numbers_of_classes_in_the_same_place_are_kept_apart():
    axes = plotting.Figure().subplots()
    points = np.random.default_rng(0).normal(size=(400, 2))
    plotting.class_scatter(axes, points, np.arange(400) % 4)
    places = [text.get_position() for text in axes.texts]
    assert pdist(places).min() > np.ptp(points) / 12


def test_text_is_black_or_white_whichever_has_the_greater_contrast():
    colours = ["#757575", "green", "blue", "#767676", "red"]
    texts = [plotting.text_colour(colour) for colour in colours]
    assert texts == ["white"] * 3 + ["black"] * 2
