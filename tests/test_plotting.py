"""Figures repeat byte for byte, leave the user's own plots alone, and say what they are meant to say."""

import runpy
from itertools import combinations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import ROOT
from matplotlib.colors import to_rgb
from matplotlib.path import Path

from common import plotting

CONFUSABLE = ((4, 9), (7, 9), (3, 5), (3, 8), (5, 8), (2, 7), (4, 7), (2, 3), (0, 6), (5, 6), (2, 8), (8, 9))
DISTINCT = 20  # in CIEDE2000; about two is the least that can be seen
# Machado, Oliveira & Fernandes 2009, severity 1.0: linear RGB as it looks to each vision
VISIONS = {
    "normal": np.eye(3),
    "deuteranope": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "protanope": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
}


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize(
    "file", ["common/plotting.py", "common/studies.py", "task1.py", "task2.py", "task3.py", "task4.py"]
)
def test_importing_a_module_leaves_the_style_of_plots_alone(file):
    with mpl.rc_context():
        mpl.rcdefaults()
        before = dict(mpl.rcParams)
        runpy.run_path(str(ROOT / file), run_name="imported")
        assert dict(mpl.rcParams) == before


def small_figure():
    images = np.arange(2 * 784).reshape(2, 28, 28).astype(np.uint8)
    return plotting.image_grid([images, images / 255 - 0.25], ["a", "b"], ["grey", "signed"])


def test_drawing_and_saving_leave_the_style_of_plots_alone(tmp_path):
    before = dict(mpl.rcParams)
    plotting.save_figure(small_figure(), tmp_path, "grid")
    assert dict(mpl.rcParams) == before


def test_a_figure_is_saved_as_png_and_svg_of_repeating_bytes(tmp_path):
    contents = []
    for _ in range(2):
        plotting.save_figure(small_figure(), tmp_path, "grid")
        contents.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {"grid.png", "grid.svg"}
    assert contents[0]["grid.png"].startswith(b"\x89PNG")
    assert b"<svg" in contents[0]["grid.svg"]
    assert b"dc:date" not in contents[0]["grid.svg"]


def test_saving_to_a_missing_folder_makes_it(tmp_path):
    plotting.save_figure(small_figure(), tmp_path / "new", "grid")
    assert (tmp_path / "new" / "grid.png").exists()


def test_bytes_are_ink_and_other_values_are_centred_on_zero_within_their_row():
    figure = small_figure()
    limits = [axes.images[0].get_clim() for axes in figure.axes]
    assert limits == [(0, 255), (0, 255), (-0.75, 0.75), (-0.75, 0.75)]
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["grey", "", "signed", ""]
    assert figure.axes[0].title.get_fontsize() == 8


@pytest.mark.parametrize("train_last", [0.1, 0.3])
def test_the_last_values_stand_at_the_ends_the_greater_above(train_last):
    axes = plt.figure().subplots()
    history = {"train_loss": [0.9, train_last], "test_loss": [0.8, 0.2]}
    plotting.draw_history(axes, history, "loss", digits=2)
    assert [text.get_text() for text in axes.texts] == [f"train {train_last:.2f}", "test 0.20"]
    assert [text.xy for text in axes.texts] == [(2, train_last), (2, 0.2)]
    assert [text.get_va() == "bottom" for text in axes.texts] == [train_last > 0.2, train_last < 0.2]
    assert [line.get_ydata().tolist() for line in axes.lines] == list(history.values())
    assert axes.lines[0].get_xdata().tolist() == [1, 2]


def test_an_ellipse_holds_half_of_a_normal_distribution():
    points = np.random.default_rng(0).normal(size=(20_000, 2)) @ [[3.0, 1], [0, 0.5]] + [5, -2]
    axes = plt.figure().subplots()
    plotting.class_scatter(axes, points, np.zeros(len(points), int))
    assert Path(axes.lines[0].get_xydata()).contains_points(points).mean() == pytest.approx(0.5, abs=0.01)


def test_each_class_has_its_colour_and_its_number_on_the_rim():
    rng = np.random.default_rng(0)
    labels = np.array([1] * 30 + [4] * 30 + [7])
    points = rng.normal(size=(61, 2)) + 10 * labels[:, None]
    axes = plt.figure().subplots()
    plotting.class_scatter(axes, points, labels)
    colours = axes.collections[0].get_facecolors()
    for place in (0, 30, 60):
        assert np.allclose(colours[place, :3], to_rgb(plotting.CLASS_COLOURS[labels[place]]))
    assert [text.get_text() for text in axes.texts] == ["1", "4"]  # a single point has no ellipse
    for text, line in zip(axes.texts, axes.lines, strict=True):
        assert np.linalg.norm(line.get_xydata() - text.get_position(), axis=1).min() == 0
        assert line.get_color() == plotting.CLASS_COLOURS[int(text.get_text())]


def test_labels_of_classes_on_one_another_are_kept_apart():
    turn = np.linspace(0, 2 * np.pi, 73)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    axes = plt.figure().subplots()
    points = np.concatenate([circle + 0.01 * number for number in range(4)])
    plotting.class_scatter(axes, points, np.repeat(np.arange(4), len(circle)))
    places = [np.array(text.get_position()) for text in axes.texts]
    radius = np.ptp(axes.lines[0].get_xdata()) / 2
    assert len(places) == 4
    assert min(np.linalg.norm(first - second) for first, second in combinations(places, 2)) > 0.25 * radius


def test_text_is_legible_on_its_background():
    assert [plotting.text_colour(colour) for colour in ("black", "white", "blue", "yellow")] == [
        "white",
        "black",
        "white",
        "black",
    ]


def test_cells_hold_their_texts_in_rows_and_columns():
    axes = plt.figure().subplots()
    texts = np.arange(20).reshape(2, 10).astype(str)
    plotting.draw_cells(axes, np.zeros((2, 10, 4)), texts, fontsize=7)
    assert {text.get_position(): text.get_text() for text in axes.texts}[(3, 1)] == "13"
    assert {text.get_color() for text in axes.texts} == {"white"}


def lab(colour, vision="normal"):
    """CIE L*a*b* under D65 of an sRGB colour as a vision sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = (VISIONS[vision] @ linear).clip(0, 1)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.array(to_xyz) @ linear / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def ciede2000(first, second):
    """The difference of two L*a*b* colours after Sharma, Wu & Dalal 2005."""
    (l1, a1, b1), (l2, a2, b2) = first, second
    c_mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    g = 0.5 * (1 - np.sqrt(c_mean**7 / (c_mean**7 + 25**7)))
    a1, a2 = (1 + g) * a1, (1 + g) * a2
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    turn = 0 if c1 * c2 == 0 else (h2 - h1 + 180) % 360 - 180
    l_step, c_step, h_step = l2 - l1, c2 - c1, 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2))
    l_mean, c_mean = (l1 + l2) / 2, (c1 + c2) / 2
    h_mean = h1 + h2 if c1 * c2 == 0 else (h1 + h2) / 2 + (180 if abs(h1 - h2) > 180 else 0)
    t = sum(
        weight * np.cos(np.radians(times * h_mean + offset))
        for weight, times, offset in ((1, 0, 0), (-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.2, 4, -63))
    )
    s_l = 1 + 0.015 * (l_mean - 50) ** 2 / np.sqrt(20 + (l_mean - 50) ** 2)
    s_c, s_h = 1 + 0.045 * c_mean, 1 + 0.015 * c_mean * t
    rotation = -2 * np.sqrt(c_mean**7 / (c_mean**7 + 25**7))
    rotation *= np.sin(np.radians(60 * np.exp(-(((h_mean - 275) / 25) ** 2))))
    c, h = c_step / s_c, h_step / s_h
    return np.sqrt((l_step / s_l) ** 2 + c**2 + h**2 + rotation * c * h)


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, -1, 2), (50, 0, 0), 2.3669),
        ((50, 2.5, 0), (50, 3.2592, 0.3350), 1.0),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ],
)
def test_the_difference_of_colours_is_that_of_the_published_pairs(first, second, difference):
    assert ciede2000(first, second) == pytest.approx(difference, abs=1e-4)
    assert ciede2000(second, first) == pytest.approx(difference, abs=1e-4)


@pytest.mark.parametrize("vision", VISIONS)
def test_digits_that_are_easily_confused_have_colours_that_are_not(vision):
    differences = {
        pair: ciede2000(*(lab(plotting.CLASS_COLOURS[digit], vision) for digit in pair)) for pair in CONFUSABLE
    }
    assert {pair: value for pair, value in differences.items() if value < DISTINCT} == {}


def test_a_row_without_images_is_drawn():
    (axes,) = plotting.image_grid([np.zeros((0, 28, 28), np.uint8)], []).axes
    assert not axes.images
