"""One style for every figure: image grids, curves, scatters of classes, and how they are saved.

The functions take values and return a figure; `save_figure` alone writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from common.runtime import replacing

PALETTE: list[str] = mpl.color_sequences["petroff10"]  # safe for the colour-blind; class c has colour c everywhere

mpl.rcParams.update(
    {
        "figure.constrained_layout.use": True,
        "figure.dpi": 100,
        "savefig.dpi": 160,
        "font.size": 11,
        "axes.titlesize": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "image.interpolation": "nearest",
        "axes.prop_cycle": mpl.cycler(color=PALETTE),
    }
)


class Curve(NamedTuple):
    """One line of a panel: `x` and `y` [K], and with `low` and `high` [K] a band around it."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    colour: str | None = None
    style: str = "-"
    mark: int | None = None  # the index of a point to mark with a dot


class Panel(NamedTuple):
    """One pair of axes of curves."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    log_y: bool = False
    ticks: Sequence[float] | None = None
    y_limit: float | None = None  # where to cut curves that shoot up


def curve_panels(panels: Sequence[Panel], shared_y: bool = False) -> Figure:
    """Draw panels of curves side by side; one legend stands below when all panels have the same, else one each."""
    figure, all_axes = plt.subplots(1, len(panels), figsize=(1 + 4 * len(panels), 3.9), squeeze=False, sharey=shared_y)
    for axes, panel in zip(all_axes[0], panels, strict=True):
        for curve in panel.curves:
            (line,) = axes.plot(curve.x, curve.y, curve.style, color=curve.colour, label=curve.label)
            if curve.low is not None:
                axes.fill_between(curve.x, curve.low, curve.high, color=line.get_color(), alpha=0.2, linewidth=0)
            if curve.mark is not None:
                axes.plot(curve.x[curve.mark], curve.y[curve.mark], "o", color=line.get_color())
        axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
        axes.set_yscale("log" if panel.log_y else "linear")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if panel.ticks is not None:
            axes.set_xticks(panel.ticks)
        if panel.y_limit is not None:
            axes.set_ylim(0, panel.y_limit)
    if len(all_axes[0]) == 1 and len(panels[0].curves) == 1:
        return figure
    if len({tuple(curve.label for curve in panel.curves) for panel in panels}) == 1:
        columns = min(6, len(panels[0].curves))
        figure.legend(*all_axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
    else:
        for axes in all_axes[0]:
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def loss_curves(history: Mapping[str, Sequence[float]], log_y: bool = False) -> Figure:
    """Draw training and test loss per epoch, and beside them the accuracy where `history` holds it."""
    epochs = np.arange(1, len(history["train_loss"]) + 1)
    panels = []
    for quantity, label in (("loss", "averaged cross-entropy (nats)"), ("accuracy", "accuracy (%)")):
        if f"train_{quantity}" in history:
            train, test = history[f"train_{quantity}"], history[f"test_{quantity}"]
            curves = [Curve("train", epochs, train, style="o-"), Curve("test", epochs, test, style="s--")]
            panels.append(Panel(quantity.capitalize(), "epoch", label, curves, log_y and quantity == "loss"))
    return curve_panels(panels)


def image_grid(
    images: np.ndarray, titles: Sequence[str], columns: int = 5, symmetric: bool = False, label: str = ""
) -> Figure:
    """Draw images [K, H, W] in rows, each with its title.

    `symmetric` takes a diverging colour map whose scale is shared and centred on zero, with a colour bar that is
    called `label`; else the images are grey, dark on white.
    """
    rows = -(-len(images) // columns)
    figure, all_axes = plt.subplots(rows, columns, figsize=(1.2 * columns, 1.45 * rows), squeeze=False)
    limit = np.abs(images).max()
    style = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if symmetric else {"cmap": "gray_r"}
    for axes in all_axes.flat:
        axes.set_axis_off()
    for axes, image, title in zip(all_axes.flat, images, titles, strict=False):
        drawn = axes.imshow(image, **style)
        axes.set_title(title)
    if symmetric:
        figure.colorbar(drawn, ax=all_axes, shrink=0.9, label=label)
    return figure


def class_scatter(axes: Axes, points: np.ndarray, labels: np.ndarray, shares: Sequence[float]) -> None:
    """Scatter points [N, 2] in the colours of their classes [N], the mean of each class marked with its number.

    The points are drawn last to first, so that their order, not their class, decides which lies on top; `shares` are
    the two components' shares of the variance for the labels of the axes.
    """
    colours = np.array(PALETTE)[labels]
    axes.scatter(*points[::-1].T, c=colours[::-1], s=5, alpha=0.6, linewidths=0, rasterized=True)
    for digit in np.unique(labels):
        box = {"boxstyle": "circle,pad=0.2", "facecolor": "white", "edgecolor": PALETTE[digit], "linewidth": 1.8}
        centre = points[labels == digit].mean(axis=0)
        axes.text(*centre, str(digit), bbox=box, ha="center", va="center", fontsize=9, fontweight="bold")
    for set_label, number, share in zip((axes.set_xlabel, axes.set_ylabel), (1, 2), shares, strict=True):
        set_label(f"component {number} ({share:.1%} of variance)")


def class_legend(figure: Figure, names: Sequence[str], columns: int) -> None:
    """Put one legend of the classes' colours below all axes, outside the data."""
    handles = [Line2D([], [], marker="o", linestyle="", color=PALETTE[k], label=name) for k, name in enumerate(names)]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handletextpad=0.1, columnspacing=1)


def confusion_figure(matrix: np.ndarray) -> Figure:
    """Draw the confusion matrix; the colours show the errors only, which the diagonal would outshine."""
    errors = np.where(np.eye(10, dtype=bool), np.nan, matrix)
    figure, axes = plt.subplots(figsize=(6.6, 5.6))
    image = axes.imshow(errors, cmap="Oranges")
    for (row, column), count in np.ndenumerate(matrix):
        shade = "white" if row != column and count > 0.6 * np.nanmax(errors) else "black"
        axes.text(column, row, count, ha="center", va="center", fontsize=9, color=shade)
    axes.set(xticks=range(10), yticks=range(10), xlabel="predicted class", ylabel="true class")
    axes.grid(False)
    figure.colorbar(image, label="wrongly classified test images")
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG; `path` holds the old file or the whole new one at any moment."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def decision_regions(predict: Callable[[np.ndarray], np.ndarray], x: np.ndarray, y: np.ndarray) -> Figure:
    """Draw points x [N, 2] of two classes over the regions where `predict`, [M, 2] → [M, 2], makes each likelier."""
    figure, axes = plt.subplots(figsize=(4.8, 5.2))
    limit = np.abs(x).max() * 1.05
    ticks = np.linspace(-limit, limit, 300)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    probability = predict(grid)[:, 1].reshape(300, 300)
    axes.contourf(ticks, ticks, probability, levels=[0, 0.5, 1], colors=PALETTE[:2], alpha=0.2)
    axes.contour(ticks, ticks, probability, levels=[0.5], colors="black", linewidths=1)
    axes.scatter(*x.T, c=np.array(PALETTE)[y], s=8, linewidths=0)
    axes.set(xlabel="$x_1$ (scaled)", ylabel="$x_2$ (scaled)", aspect="equal")
    class_legend(figure, ["upper moon", "lower moon"], columns=2)
    return figure
