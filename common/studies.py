"""The experiments of task 1 beyond its own run: depth and initialization (sheet, 1.4), and normalization (5).

A study trains variants of the network on the moons, each with several seeds; task1.py trains them. Here are the table
of the variants, the summary of their losses [variants, seeds, 2, epochs], train and test, and the figures.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from common.plotting import HALO, PAGE_WIDTH, SPLIT_COLOURS, Axes, Figure, label_end, plt, styled

SEEDS = 5
WIDTH = 30
DEPTHS = (0, 2, 4, 12)
DEEPEST = 12  # the network whose initialization and normalization are studied
# Of the initial weights: standard deviation (None is He's √(2 / in)), colour and name in the figure
INITIALIZATIONS = {
    "large": (1.0, "#d7301f", r"$\mathcal{N}(0, 1)$"),
    "He": (None, "#000000", "He"),
    "small": (0.1, "#41b6c4", r"$\mathcal{N}(0, 0.1^2)$"),
}
TITLE = "{points:,} points, noise {noise}, {epochs} epochs"  # of a depth study


class Variant(NamedTuple):
    """One network and its training; the defaults are the sheet's setting."""

    depth: int
    points: int = 8000
    test_points: int = 2000
    noise: float = 0.08
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 0.05
    weight_std: float | None = None
    normalization: str | None = None


STUDIES: dict[str, list[Variant]] = {  # the longest runs of a study last
    "sheet": [Variant(depth) for depth in DEPTHS],
    "scarce": [Variant(depth, points=200, test_points=1000, noise=0.3, epochs=200) for depth in DEPTHS],
    "more_points": [Variant(4, points=4000, test_points=1000, noise=0.3, epochs=12)],  # as scarce, with more points
    "large_weights": [Variant(depth, epochs=2, weight_std=1.0) for depth in (2, 4, 6, 8, DEEPEST)],
    "small_weights": [Variant(DEEPEST, points=1000, epochs=2, weight_std=0.1)],
    "normalization": [  # of whole batches: the statistics of a last batch of few points are noise
        Variant(DEEPEST, points=800, weight_std=1.0, normalization=method, learning_rate=rate)
        for method in (None, "batch", "layer")
        for rate in (0.05, 0.5)
    ],
}


def running_median(losses: np.ndarray) -> np.ndarray:
    """Return, at every epoch of losses [..., epochs], the median of the last tenth of the epochs, at least three.

    Training of deep networks jumps from epoch to epoch; its last value is what a run ends at.
    """
    ends = range(1, losses.shape[-1] + 1)
    window = max(3, len(ends) // 10)
    return np.stack([np.median(losses[..., max(0, end - window) : end], axis=-1) for end in ends], axis=-1)


def summarize(variants: Sequence[Variant], losses: np.ndarray) -> list[dict[str, Any]]:
    """Return a row per variant: its settings, lists over its runs, and how many of these diverged.

    The lists are of final losses, and of the least test loss and its epoch; None stands for a run that diverged.
    """
    rows = []
    for variant, runs in zip(variants, running_median(losses), strict=True):
        train, test = runs.transpose(1, 0, 2)  # [seeds, epochs] each
        diverged = np.isnan(test[:, -1])
        columns = {"train": train[:, -1], "test": test[:, -1]}
        columns |= {"least_test": test.min(axis=1), "least_epoch": test.argmin(axis=1) + 1}
        row = {name: np.where(diverged, None, values).tolist() for name, values in columns.items()}
        rows.append(variant._asdict() | row | {"diverged": int(diverged.sum())})
    return rows


def print_depths(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the final losses over depth as a table, the median of the runs that did not diverge."""
    print(f"{TITLE.format(**rows[0])}: final loss, median of the seeds")
    print("hidden layers  train loss (nats)  test loss (nats)  diverged")
    for row in rows:
        finals = ([loss for loss in row[split] if loss is not None] for split in ("train", "test"))
        train, test = (np.median(losses or np.nan) for losses in finals)
        print(f"{row['depth']:13}{train:19.5f}{test:18.5f}{row['diverged']:10}")


@styled
def depth_figure(losses: Mapping[str, np.ndarray], limits: Mapping[str, tuple[float, float]]) -> Figure:
    """Draw train and test loss [depths, seeds, 2, epochs] over the epochs, and the final loss over depth.

    `limits` has the Bayes loss and accuracy of each study drawn; on average no classifier gets below that loss.
    """
    figure = plt.figure(figsize=(PAGE_WIDTH, 3.4))
    for part, (name, (floor, _)) in zip(figure.subfigures(2, 1), limits.items(), strict=True):
        depths = [variant.depth for variant in STUDIES[name]]
        part.suptitle(TITLE.format(**STUDIES[name][0]._asdict()), x=0.01, ha="left", fontweight="bold")
        *small, last = part.subplots(1, len(depths) + 1, sharey=True, width_ratios=[1] * len(depths) + [1.3])
        smooth = running_median(np.nan_to_num(losses[name], nan=np.inf))  # a diverged run counts as infinite
        for axes, depth, runs in zip(small, depths, smooth, strict=True):
            draw_epochs(axes, np.median(runs, axis=0))
            axes.set_title(f"{depth or 'no'} hidden layer{'s' * (depth > 0)}")
        final = smooth[..., -1]  # [depths, seeds, 2]
        draw_final(last, depths, final)
        least, greatest = final.min(initial=floor), final[np.isfinite(final)].max(initial=floor)
        last.set(**({"yscale": "log", "ylim": (least / 3, 1)} if name == "sheet" else {"ylim": (0, 1.2 * greatest)}))
        for axes in (*small, last):
            axes.axhline(floor, color="black", linestyle="--", linewidth=0.8)
        small[0].set_ylabel("loss (nats)")
        label = f"Bayes {np.format_float_positional(floor, 2, fractional=False)}"
        small[0].annotate(label, (1, floor), xytext=(2, 1.5), textcoords="offset points", fontsize=7)
    return figure


def draw_epochs(axes: Axes, smooth: np.ndarray) -> None:
    """Draw losses [2, epochs] with the gap between them, and a hairline where the test loss turns before the end."""
    count = smooth.shape[1]
    epochs = np.arange(1, count + 1)
    axes.fill_between(epochs, *smooth, color=SPLIT_COLOURS["test"], alpha=0.15, linewidth=0)
    for line, colour in zip(smooth, SPLIT_COLOURS.values(), strict=True):
        axes.plot(epochs, line, color=colour)
    turn = int(smooth[1].argmin()) + 1
    if turn < 0.9 * count and smooth[1].min() < 0.95 * smooth[1, -1]:
        axes.axvline(turn, color="black", linewidth=0.5)
        text = axes.text(turn, 1, f" epoch {turn} ", transform=axes.get_xaxis_transform(), fontsize=7, va="top")
        text.set_ha("left" if turn < count / 2 else "right")
    axes.set(xlabel="epoch", xticks=sorted({1, (count + 1) // 2, count}))


def draw_final(axes: Axes, depths: Sequence[int], final: np.ndarray) -> None:
    """Draw the median of final losses [depths, seeds, 2] over depth, with a band from least to greatest."""
    medians = np.median(final, axis=1)  # [depths, 2]
    for values, line, (split, colour) in zip(final.T, medians.T, SPLIT_COLOURS.items(), strict=True):
        axes.fill_between(depths, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0)
        axes.plot(depths, line, "o-", color=colour)
        for end in np.flatnonzero(np.isfinite(line))[-1:]:  # none if all diverge
            label_end(axes, depths[end], line[end], split, colour, line[end] == medians[end].max())
    axes.set(title="final loss", xlabel="hidden layers", xticks=depths, xmargin=0.05)


@styled
def gradient_figure(norms: np.ndarray) -> Figure:
    """Draw norms [initializations, 2, seeds, layers] of ∂L/∂f and ∂L/∂W over the layers, per initialization.

    Dots are means with a whisker from the least to the greatest; dashed is the law √(nσ²/2) per layer.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 1.95), sharey=True)
    layers = np.arange(1, DEEPEST + 2)
    for (key, (deviation, colour, name)), both in zip(INITIALIZATIONS.items(), norms, strict=True):
        for axes, values in zip((left, right), both, strict=True):  # [seeds, 13]
            axes.vlines(layers, values.min(axis=0), values.max(axis=0), color=colour, linewidth=0.8)
            axes.plot(layers, values.mean(axis=0), "o", color=colour)
        arriving, of_weights = both.mean(axis=1)
        factor = 1 if deviation is None else deviation * math.sqrt(WIDTH / 2)
        law = arriving[-2] * factor ** np.arange(DEEPEST - 1, -1, -1.0)
        left.plot(layers[:-1], law, "--", color=colour, linewidth=0.8)
        up = {"xytext": (5, 5), "textcoords": "offset points", "va": "bottom", "color": colour}
        down = {**up, "xytext": (5, -5), "va": "top"}
        at = 0 if key == "He" else min(5, len(law) - 1)
        left.annotate(f"{name}: ×{factor:.2g} per layer", (at + 1, law[at]), **(down if key == "small" else up))
        middle = len(of_weights) // 2
        right.annotate(name, (middle, of_weights[middle]), **(down if key == "large" else up))
    left.text(0.98, 0.97, "← backward", transform=left.transAxes, ha="right", va="top")
    left.set(title=r"$\|\partial\mathcal{L}/\partial f\|$: explodes, stays or vanishes", yscale="log", ylabel="norm")
    right.set(title=r"$\|\partial\mathcal{L}/\partial W\|$: nearly the same in all layers")
    plt.setp([left, right], xlabel="linear layer (1 = first)", xticks=layers[::3])
    return figure


@styled
def normalization_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the final test loss of every run, from the rows of the summary, and the diverged ones in a band above."""
    figure, (band, axes) = plt.subplots(2, 1, sharex=True, height_ratios=[1, 3], figsize=(4.6, 2))
    methods = [row["normalization"] or "without" for row in rows]
    starts = [place for place, method in enumerate(methods) if method not in methods[:place]]
    x = 1.25 * np.arange(len(rows)) + 0.25 * np.searchsorted(starts, np.arange(len(rows)), side="right")
    for place, row in zip(x, rows, strict=True):
        values = np.nan_to_num(np.array(row["test"], float), nan=np.inf)  # a diverged run counts as infinite
        spots = place + 0.3 * np.linspace(-1, 1, len(values) + 2)[1:-1]
        lost, median = np.isinf(values), np.median(values)
        band.plot(spots[lost], np.zeros(lost.sum()), "x", color=SPLIT_COLOURS["test"])
        if lost.any():
            band.text(place, 0.7, f"{lost.sum()} of {len(lost)}\ndiverge", fontsize=7, ha="center", va="bottom")
        axes.plot(spots[~lost], values[~lost], "o", color=SPLIT_COLOURS["test"])
        if np.isfinite(median):
            axes.plot([place - 0.25, place + 0.25], [median, median], color="black")
            axes.text(place + 0.29, median, f"{median:.2g}", fontsize=7, va="center", path_effects=HALO)
    axes.set(
        yscale="log",
        ylabel="final test loss (nats)",
        xlabel="learning rate, normalization",
        xlim=(x[0] - 0.5, x[-1] + 0.85),
    )
    axes.set_xticks(x, [row["learning_rate"] for row in rows])
    groups = np.split(x, starts[1:])
    axes.set_xticks([group.mean() for group in groups], [f"\n{methods[start]}" for start in starts], minor=True)
    band.set(ylim=(-1, 4), yticks=[], facecolor="0.95")
    band.spines["bottom"].set_visible(False)
    for part, height in ((band, 0), (axes, 1)):
        part.tick_params(axis="x", which="both", length=0)
        part.plot(0, height, marker=[(-1, -0.5), (1, 0.5)], color="black", transform=part.transAxes, clip_on=False)
    return figure
