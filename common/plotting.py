"""One style for every figure, and what the figures of two scripts share.

Figures are drawn at the size at which they are placed, so that text keeps its size;
`save_figure` alone writes. The scripts import matplotlib's names from here, since
common/__init__.py has to come before matplotlib.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.script import replacing

PAGE_WIDTH = 6.6  # inches between the margins of the answers
# Assigned so that digits that are easily confused have colours that are not
CLASS_COLOURS = [
    mpl.colors.to_hex(mpl.color_sequences["petroff10"][k])
    for k in (3, 5, 0, 1, 9, 4, 6, 7, 2, 8)
]
# Each colour has one meaning in all figures; all but these are black, grey or dashed
SPLIT_COLOURS = {"train": "#1a1a1a", "test": "#0072b2"}
MOON_COLOURS = ("#a6d96a", "#8e0152")  # no digit's; they differ in lightness, too
GUIDE = {"color": "0.6", "linewidth": 0.6, "zorder": 0}
# Keeps text and lines legible over points
HALO = [patheffects.withStroke(linewidth=2, foreground="white")]
if "inline" in (mpl.get_backend(auto_select=False) or ""):  # in a notebook
    plt.switch_backend(mpl.get_backend())  # makes it interactive, which `styled` undoes
# A decorator: the user's own plots stay as they are
styled = mpl.rc_context(fname=Path(__file__).with_suffix(".mplstyle"))


@styled
def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write NAME.png, for people, and NAME.svg, for the answers; neither is ever
    incomplete.
    """
    margin = figure.bbox_inches.padded(0.1)  # for dark pages
    formats = {
        "png": {"dpi": 200, "bbox_inches": margin},
        "svg": {"dpi": 300, "metadata": {"Date": None}},
    }
    for suffix, settings in formats.items():
        with replacing(folder / f"{name}.{suffix}") as temporary:
            figure.savefig(temporary, format=suffix, **settings)
        # The layout is done: repeating it takes as long as drawing
        figure.set_layout_engine("none")
    if "inline" in plt.get_backend():  # in a notebook
        plt.show()
    if plt.get_backend().lower() == "agg" or "inline" in plt.get_backend():
        plt.close(figure)


@styled
def image_grid(
    rows: Sequence[np.ndarray],
    titles: Sequence[str],
    names: Sequence[str] = (),
    heading: str = "",
    size: tuple[float, float] = (5, 1),
) -> Figure:
    """Draw rows of images [K, H, W], titles above the first, at the left the rows'
    names and a heading of the titles.

    Unsigned bytes are drawn as ink, dark on white; of other values the greatest is
    black, its negative white and zero grey, on a scale that is shared within their row.
    """
    figure, all_axes = plt.subplots(
        len(rows), max(1, len(titles)), figsize=size, squeeze=False
    )
    for axes_row, images in zip(all_axes, rows, strict=True):
        is_ink = images.dtype == np.uint8
        high = 255 if is_ink else np.abs(images).max(initial=0)
        low = 0 if is_ink else -high
        for axes, image in zip(axes_row, images, strict=False):
            axes.imshow(image, "gray_r", vmin=low, vmax=high)
    for axes in all_axes.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, title in zip(all_axes[0], titles, strict=False):
        axes.set_title(title, pad=2)
    for axes, name in zip(all_axes[:, 0], names, strict=False):
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
    place = {
        "xycoords": "axes fraction",
        "xytext": (-4, 2),
        "textcoords": "offset points",
    }
    all_axes[0, 0].annotate(heading, (0, 1), ha="right", va="baseline", **place)
    return figure


def draw_history(
    axes: Axes, history: Mapping[str, Sequence[float]], quantity: str, digits: int
) -> None:
    """Draw `train_QUANTITY` as a line and `test_QUANTITY` as circles over the epochs,
    the last values beside them.
    """
    curves = {split: history[f"{split}_{quantity}"] for split in SPLIT_COLOURS}
    above = max(curves, key=lambda split: curves[split][-1])
    for split, values in curves.items():
        colour = SPLIT_COLOURS[split]
        line = "o" if split == "test" else "-" if len(values) > 1 else "."
        axes.plot(
            range(1, len(values) + 1),
            values,
            line,
            color=colour,
            markerfacecolor="white",
        )
        label_end(
            axes,
            len(values),
            values[-1],
            f"{split} {values[-1]:.{digits}f}",
            colour,
            split == above,
        )
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.set_xlabel("epoch")


def label_end(
    axes: Axes, x: float, y: float, text: str, colour: str, above: bool
) -> None:
    """Name a line at the right of its end, a little above or below it."""
    place = {
        "xytext": (4, 1 if above else -1),
        "textcoords": "offset points",
        "va": "bottom" if above else "top",
    }
    axes.annotate(text, (x, y), color=colour, annotation_clip=False, **place)


def moon_map(predict: Callable[[np.ndarray], np.ndarray], limit: float) -> np.ndarray:
    """Return the probability of the lower moon on a grid [150, 150] up to ±`limit`.

    Rows go up. `predict` maps points [M, 2] to probabilities [M, 2].
    """
    ticks = np.linspace(-limit, limit, 150)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1)  # [150, 150, 2]
    return predict(grid.reshape(-1, 2))[:, 1].reshape(150, 150)


def draw_moons(
    axes: Axes, probabilities: np.ndarray, limit: float, x: np.ndarray, y: np.ndarray
) -> None:
    """Draw points x [N, 2] of classes y [N] on a `moon_map`, with its boundary.

    The moons differ in colour, lightness and marker.
    """
    tint = mpl.colors.LinearSegmentedColormap.from_list(
        "moons", [MOON_COLOURS[0], "white", MOON_COLOURS[1]]
    )
    axes.imshow(
        probabilities,
        tint,
        vmin=-0.5,
        vmax=1.5,
        extent=(-limit, limit, -limit, limit),
        origin="lower",
        aspect="auto",
        interpolation="bilinear",
    )
    ticks = np.linspace(-limit, limit, len(probabilities))
    if probabilities.min() < 0.5 < probabilities.max():
        axes.contour(
            ticks, ticks, probabilities, levels=[0.5], colors="black", linewidths=1
        )
    edge = 0.3 if len(x) < 1000 else 0
    for moon, marker in enumerate("o^"):
        axes.scatter(
            x[y == moon, 0],
            x[y == moon, 1],
            s=5,
            marker=marker,
            color=MOON_COLOURS[moon],
            edgecolors="black",
            linewidths=edge,
            rasterized=True,
        )


def class_scatter(axes: Axes, points: np.ndarray, labels: np.ndarray) -> None:
    """Scatter points [N, 2] in the colours of their classes [N], at the same scale in
    both directions.

    Points are drawn in the order given; make it random, or the last class hides the
    others. Each class has an ellipse that holds half of a normal distribution of its
    mean and covariance, with the class's number on its rim.
    """
    colours = np.array(CLASS_COLOURS)[labels]
    x, y = points.T
    axes.scatter(x, y, c=colours, s=2, linewidths=0, rasterized=True)
    numbers = np.unique(labels)
    rims = [half_ellipse(points[labels == number]) for number in numbers]
    places = number_places(rims, points)
    for number, rim, place in zip(numbers, rims, places, strict=True):
        colour = CLASS_COLOURS[number]
        x, y = rim.T
        axes.plot(x, y, color=colour, path_effects=HALO)
        x, y = place
        axes.text(
            x,
            y,
            str(number),
            fontsize=7,
            fontweight="bold",
            ha="center",
            va="center",
            zorder=3,
            color=text_colour(colour),
            bbox={
                "boxstyle": "circle,pad=0.12",
                "facecolor": colour,
                "edgecolor": "white",
                "linewidth": 0.6,
            },
        )
    axes.set_aspect("equal", adjustable="datalim")


def half_ellipse(points: np.ndarray) -> np.ndarray:
    """Return the rim [73, 2] of the ellipse that holds half of a normal distribution of
    the mean and the covariance of points [N, 2].
    """
    turn = np.linspace(0, 2 * np.pi, 73)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)  # [73, 2]
    variances, axes = np.linalg.eigh(np.cov(points.T))
    radii = np.sqrt(2 * np.log(2) * variances.clip(min=0))
    return points.mean(axis=0) + (circle * radii) @ axes.T


def number_places(rims: Sequence[np.ndarray], points: np.ndarray) -> np.ndarray:
    """Return a place on each rim [73, 2] that is far from the middle of the points
    [N, 2] and clear of the places on the other rims [C, 2].
    """
    middle = points.mean(axis=0)
    room = np.ptp(points, axis=0).max() / 6.5  # a number's width in a panel of an inch
    places = np.array([rim[0] for rim in rims])
    for _ in range(5):  # each move may make room for another
        for number, rim in enumerate(rims):
            others = np.delete(places, number, axis=0)
            distances = np.linalg.norm(rim[:, None] - others, axis=2)  # [73, C - 1]
            clear = distances.min(axis=1, initial=room)
            outside = np.linalg.norm(rim - middle, axis=1)
            places[number] = rim[np.argmax(outside + 4 * clear)]
    return places


def text_colour(background: str | Sequence[float]) -> str:
    """Return black or white, whichever has the greater contrast with a background, as
    WCAG defines contrast.
    """
    colour = np.array(mpl.colors.to_rgb(background))
    linear = np.where(
        colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4
    )
    luminance = linear @ [0.2126, 0.7152, 0.0722] + 0.05
    return "black" if luminance / 0.05 > 1.05 / luminance else "white"
