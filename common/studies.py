"""The experiments of task 1 beyond its own run: depth, points and initialization (1.4),
and normalization (5).

A study trains variants of the network on the moons, each with several seeds; task1.py
trains them. Here are the table of the variants, the summary of their runs, and the
figures.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from common import plotting
from common.data import bayes_loss, moon_densities, moons, random_moons
from common.plotting import HALO, PAGE_WIDTH, SPLIT_COLOURS, Axes, Figure, plt, styled
from common.script import save_results

# Of a study, by variant and seed, as task 1's `train_variant` returns them
Runs = Sequence[Sequence[Mapping[str, Any]]]

SEEDS = 5
WIDTH = 30
DEPTHS = (0, 2, 4, 12)
DEEPEST = 12  # the network whose initialization and normalization are studied
MANY = 50_000  # test points where a few of them make up most of a small loss
VALIDATION_POINTS = 1000  # for the losses over the epochs and the choice of an epoch
# a network that has learned anything has a train loss below this, clearly under log 2 =
# 0.69
LEARNED = 0.6
# Of the initial weights: standard deviation (None is He's √(2 / in)), colour and name
# in the figure
INITIALIZATIONS = {
    "large": (1.0, "#d7301f", r"$\mathcal{N}(0, 1)$"),
    "He": (None, "#000000", "He"),
    "small": (0.1, "#01767f", r"$\mathcal{N}(0, 0.1^2)$"),
}
TITLE = "{points:,} points, noise {noise}, {epochs} epochs"  # of a depth study


class Variant(NamedTuple):
    """One network and its training, with `seeds` seeds; the defaults of data and
    training are task 1's own.
    """

    depth: int
    points: int = 8000
    noise: float = 0.08
    test_points: int = 10_000  # for the final losses
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 0.05
    weight_decay: float = 0
    weight_std: float | None = None
    normalization: str | None = None
    seeds: int = SEEDS


SCARCE = {"points": 200, "noise": 0.3, "test_points": MANY, "epochs": 120}
STUDIES: dict[str, list[Variant]] = {
    "sheet": [Variant(depth, test_points=MANY) for depth in DEPTHS],
    "scarce": [Variant(depth, **SCARCE) for depth in DEPTHS],
    # of the deepest with scarce data: less noise, more points, both, and a remedy
    "controls": [
        Variant(DEPTHS[-1], **{**SCARCE, **change}, seeds=3)
        for change in (
            {"noise": 0.08},
            {"points": 800},
            {"points": 800, "noise": 0.08},
            {"weight_decay": 0.01},
        )
    ],
    "very_deep": [Variant(depth, points=1000) for depth in (DEEPEST, 30, 50)],
    "large_weights": [
        Variant(depth, points=1000, weight_std=1.0) for depth in (2, 4, 6, 8, DEEPEST)
    ],
    "small_weights": [Variant(DEEPEST, points=1000, weight_std=0.1)],
    "no_mean": [
        Variant(depth, learning_rate=32 * 0.05, seeds=3) for depth in (2, DEEPEST)
    ],  # no 1/N: N times the rate
    # in full batches: the statistics of a last batch of few points are noise
    "normalization": [
        Variant(
            DEEPEST,
            points=800,
            weight_std=1.0,
            normalization=method,
            learning_rate=rate,
        )
        for method in (None, "batch", "layer")
        for rate in (0.05, 0.5)
    ],
}


def summarize(variants: Sequence[Variant], runs: Runs) -> list[dict[str, Any]]:
    """Return a row per variant: its settings, lists over its runs, and how many of
    these diverged or learned.

    The lists are of the final losses and errors, and of early stopping; None stands for
    a run that diverged.
    """
    rows = []
    for variant, seeds in zip(variants, runs, strict=True):
        columns = {
            name: [run[name] for run in seeds]
            for name in seeds[0]
            if name not in ("losses", "network")
        }
        finite = [loss for loss in columns["train"] if loss is not None]
        counts = {
            "diverged": len(seeds) - len(finite),
            "learned": sum(loss < LEARNED for loss in finite),
        }
        rows.append(variant._asdict() | columns | counts)
    return rows


def layer_norms(mlp: Any, seed: int) -> np.ndarray:
    """Return norms [2, layers] in a network's linear layers on 256 points: of ∂L/∂f at
    their outputs, and of ∂L/∂W.
    """
    x, y, _, _ = moons(256, 2, seed=seed)
    gradient = (mlp.forward(x, remember=True) - np.eye(2)[y]) / len(
        y
    )  # ∂L/∂f of the logits
    norms: list[list[float]] = []
    for layer in reversed(mlp.layers[:-1]):
        arriving, gradient = gradient, layer.backward(gradient)
        if hasattr(layer, "weight"):
            norms.insert(
                0, [np.linalg.norm(arriving), np.linalg.norm(layer.grad_weight)]
            )
    return np.transpose(norms)


def save(
    runs: Mapping[str, Runs], norms: np.ndarray, options: argparse.Namespace
) -> None:
    """Print and save the results and figures of all studies, from their runs and the
    norms of untrained networks.
    """
    rows = {name: summarize(study, runs[name]) for name, study in STUDIES.items()}
    floors = {name: bayes_loss(rows[name][0]["noise"]) for name in ("sheet", "scarce")}
    for name in floors:
        print_depths(rows[name])
    plotting.save_figure(
        depth_figure(runs, floors, options.seed), options.figures, "task1_depth"
    )
    plotting.save_figure(gradient_figure(norms), options.figures, "task1_gradients")
    plotting.save_figure(
        normalization_figure(rows["normalization"]),
        options.figures,
        "task1_normalization",
    )
    means = dict(zip(INITIALIZATIONS, norms.mean(axis=1).tolist(), strict=True))
    settings = {
        "seeds": SEEDS,
        "width": WIDTH,
        "learned": LEARNED,
        "validation_points": VALIDATION_POINTS,
    }
    results = {
        "settings": settings,
        "bayes_loss": floors,
        "gradient_norms_f_and_w": means,
    }
    save_results(options, "task1_studies", results | rows)


def print_depths(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the final losses over depth as a table, the median of the runs that did not
    diverge.
    """
    print(f"{TITLE.format(**rows[0])}: final loss, median of the seeds")
    print("hidden layers  train loss (nats)  test loss (nats)  diverged")
    for row in rows:
        finals = (
            [loss for loss in row[split] if loss is not None]
            for split in ("train", "test")
        )
        train, test = (np.median(losses or np.nan) for losses in finals)
        print(f"{row['depth']:13}{train:19.5f}{test:18.5f}{row['diverged']:10}")


@styled
def depth_figure(
    runs: Mapping[str, Runs], floors: Mapping[str, float], seed: int
) -> Figure:
    """Draw the losses over the epochs and the final ones over depth, and what the
    networks of one seed learned.

    `floors` has the Bayes loss of the two studies drawn; on average no classifier gets
    below it.
    """
    figure = plt.figure(figsize=(PAGE_WIDTH, 4.75))
    *parts, maps = figure.subfigures(3, 1, height_ratios=(1.7, 1.7, 1.35))
    for part, (name, floor) in zip(parts, floors.items(), strict=True):
        variants = STUDIES[name]
        part.suptitle(
            TITLE.format(**variants[0]._asdict()), x=0.01, ha="left", fontweight="bold"
        )
        *small, last = part.subplots(
            1, len(variants) + 1, sharey=True, width_ratios=[1] * len(variants) + [1.3]
        )
        for axes, variant, seeds in zip(small, variants, runs[name], strict=True):
            draw_epochs(
                axes,
                np.nan_to_num([run["losses"] for run in seeds], nan=np.inf),
                turn=name == "scarce",
            )
            axes.set_title(
                f"{variant.depth or 'no'} hidden layer{'s' * (variant.depth != 1)}"
            )
        final = np.array(
            [[[run["train"], run["test"]] for run in seeds] for seeds in runs[name]],
            float,
        )
        final = np.nan_to_num(
            final, nan=np.inf
        )  # [depths, seeds, 2]; a diverged run counts as infinite
        draw_final(last, [variant.depth for variant in variants], final)
        least, greatest = (
            final.min(initial=floor),
            final[np.isfinite(final)].max(initial=floor),
        )
        if name == "sheet":
            last.set(yscale="log", ylim=(least / 3, max(1, 2 * greatest)))
        else:
            last.set_ylim(0, 1.2 * greatest)
        for axes in (*small, last):
            axes.axhline(floor, color="black", linestyle="--", linewidth=0.8)
        small[0].set_ylabel("loss (nats)")
        label = f"Bayes {np.format_float_positional(floor, 2, fractional=False)}"
        small[0].annotate(
            label, (1, floor), xytext=(2, 1.5), textcoords="offset points", fontsize=7
        )
    gaps = [
        math.inf if run["test"] is None else run["test"] - run["train"]
        for run in runs["scarce"][-1]
    ]
    number = int(np.argsort(gaps)[len(gaps) // 2])  # the seed of the median is drawn
    panels = maps.subplots(
        1, len(variants) + 1, width_ratios=[1] * len(variants) + [1.3]
    )
    for axes, variant, seeds in zip(panels, variants, runs["scarce"], strict=False):
        draw_map(axes, variant, seeds[number], seed + number)
    panels[-1].set_axis_off()
    note = "train points; tint: probability of\nthe moons, black: ½, dashed:\n½ for the best classifier;"
    panels[-1].text(
        0,
        0.5,
        note + "\ntitles: train and test error",
        transform=panels[-1].transAxes,
        va="center",
        fontsize=7,
    )
    return figure


def draw_epochs(axes: Axes, losses: np.ndarray, turn: bool) -> None:
    """Draw losses [seeds, 2, epochs], median and range of the seeds, and with `turn`
    where the test loss is least.

    Many epochs are smoothed by a running median of a twentieth of them.
    """
    count = losses.shape[2]
    reach = count // 40
    padded = np.pad(losses, [(0, 0), (0, 0), (reach, reach)], mode="edge")
    losses = np.median(
        np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=2), axis=3
    )
    epochs = np.arange(1, count + 1)
    medians = np.median(losses, axis=0)  # [2, epochs]
    for values, line, colour in zip(
        losses.swapaxes(0, 1), medians, SPLIT_COLOURS.values(), strict=True
    ):
        axes.fill_between(
            epochs,
            values.min(axis=0),
            values.max(axis=0),
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
        axes.plot(epochs, line, color=colour, linewidth=0.9)
    least = int(medians[1].argmin()) + 1
    if turn and least < 0.9 * count and medians[1].min() < 0.95 * medians[1, -1]:
        axes.axvline(least, color="black", linewidth=0.5)
        place = {
            "xycoords": axes.get_xaxis_transform(),
            "textcoords": "offset points",
            "va": "top",
            "fontsize": 6.5,
        }
        place |= (
            {"xytext": (2, 0), "ha": "left"}
            if least < 0.55 * count
            else {"xytext": (-2, 0), "ha": "right"}
        )
        axes.annotate(f"least at\nepoch {least}", (least, 1), in_layout=False, **place)
    axes.set(xlabel="epoch", xticks=sorted({1, (count + 1) // 2, count}))


@np.errstate(over="ignore", invalid="ignore")  # in a network that has diverged
def draw_map(axes: Axes, variant: Variant, run: Mapping[str, Any], seed: int) -> None:
    """Draw train points on the probability that a network gives each moon, and the
    boundary of the best classifier.
    """
    x, y, _, _ = moons(variant.points, 2, variant.noise, seed)
    plotting.draw_moons(axes, run["network"].forward, x, y)
    raw, _ = random_moons(
        variant.points, variant.noise, np.random.default_rng(seed).spawn(2)[0]
    )  # before the scaling
    low, high = raw.min(axis=0), raw.max(axis=0)
    ticks = np.linspace(-1.1, 1.1, 200)
    upper, lower = moon_densities(
        *((ticks[:, None] + 1) / 2 * (high - low) + low).T, variant.noise
    )
    axes.contour(
        ticks,
        ticks,
        (lower - upper).T,
        levels=[0],
        colors="black",
        linewidths=0.8,
        linestyles="dashed",
    )
    wrong = 100 * (run["network"].forward(x).argmax(axis=1) != y).mean()
    test = "diverged" if run["error"] is None else f"{run['error']:.1f} %"
    axes.set(xticks=[], yticks=[], aspect="equal", title=f"{wrong:.1f} %, {test}")


def draw_final(axes: Axes, depths: Sequence[int], final: np.ndarray) -> None:
    """Draw the median of final losses [depths, seeds, 2] over depth, with a band from
    least to greatest.
    """
    medians = np.median(final, axis=1)  # [depths, 2]
    for values, line, (split, colour) in zip(
        final.T, medians.T, SPLIT_COLOURS.items(), strict=True
    ):
        axes.fill_between(
            depths,
            values.min(axis=0),
            values.max(axis=0),
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
        axes.plot(depths, line, "o-", color=colour)
        for end in np.flatnonzero(np.isfinite(line))[-1:]:  # none if all diverge
            plotting.label_end(
                axes,
                depths[end],
                line[end],
                split,
                colour,
                line[end] == medians[end].max(),
            )
    axes.set(title="final loss", xlabel="hidden layers", xticks=depths, xmargin=0.05)


@styled
def gradient_figure(norms: np.ndarray) -> Figure:
    """Draw norms [initializations, seeds, 2, layers] of ∂L/∂f and ∂L/∂W over the
    layers, per initialization.

    Dots are means with a whisker from the least to the greatest; dashed is the law
    √(dσ²/2) per layer, d = `WIDTH`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 1.95), sharey=True)
    layers = np.arange(DEEPEST + 1)
    for (key, (deviation, colour, name)), both in zip(
        INITIALIZATIONS.items(), norms, strict=True
    ):
        beside = layers + {"large": -0.15, "small": 0.15}.get(key, 0)
        for axes, values in zip(
            (left, right), both.swapaxes(0, 1), strict=True
        ):  # [seeds, layers]
            axes.vlines(
                beside,
                values.min(axis=0),
                values.max(axis=0),
                color=colour,
                linewidth=0.8,
            )
            axes.plot(beside, values.mean(axis=0), "o", color=colour)
        arriving, of_weights = both.mean(axis=0)
        factor = 1 if deviation is None else deviation * math.sqrt(WIDTH / 2)
        law = arriving[-2] * factor ** np.arange(DEEPEST - 1, -1, -1.0)
        left.plot(layers[:-1], law, "--", color=colour, linewidth=0.8)
        up = {
            "xytext": (5, 5),
            "textcoords": "offset points",
            "va": "bottom",
            "color": colour,
        }
        down = {**up, "xytext": (5, -5), "va": "top"}
        at = 0 if key == "He" else min(5, len(law) - 1)
        left.annotate(
            f"{name}: ×{factor:.2g} per layer",
            (at, law[at]),
            **(down if key == "small" else up),
        )
        middle = len(of_weights) // 2
        right.annotate(
            name, (middle, of_weights[middle]), **(down if key == "large" else up)
        )
    left.text(0.98, 0.97, "← backward", transform=left.transAxes, ha="right", va="top")
    left.set(
        title=r"$\|\partial\mathcal{L}/\partial f\|$: explodes, stays or vanishes",
        yscale="log",
        ylabel="norm",
    )
    right.set(
        title=r"$\|\partial\mathcal{L}/\partial W\|$: nearly the same in all layers"
    )
    plt.setp([left, right], xlabel="linear layer (0 = first)", xticks=layers[::3])
    return figure


@styled
def normalization_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the final test loss of every run, from the rows of the summary; those that
    diverged are crosses above.
    """
    figure, axes = plt.subplots(figsize=(5.2, 2.2))
    methods = [row["normalization"] or "without" for row in rows]
    starts = [
        place for place, method in enumerate(methods) if method not in methods[:place]
    ]
    x = 1.25 * np.arange(len(rows)) + 0.25 * np.searchsorted(
        starts, np.arange(len(rows)), side="right"
    )
    above = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    for place, row in zip(x, rows, strict=True):
        values = np.nan_to_num(
            np.array(row["test"], float), nan=np.inf
        )  # a diverged run counts as infinite
        spots = place + 0.3 * np.linspace(-1, 1, len(values) + 2)[1:-1]
        lost, median = np.isinf(values), np.median(values)
        axes.plot(spots[~lost], values[~lost], "o", color=SPLIT_COLOURS["test"])
        axes.plot(
            spots[lost],
            np.full(lost.sum(), 1.04),
            "x",
            color=SPLIT_COLOURS["test"],
            **above,
        )
        text = f"{row['learned']} of {len(values)}\nlearned" + (
            f"\n{lost.sum()} diverged" if lost.any() else ""
        )
        axes.text(
            place,
            1.08,
            text,
            fontsize=7,
            ha="center",
            va="bottom",
            linespacing=1,
            **above,
        )
        if np.isfinite(median):
            axes.plot([place - 0.25, place + 0.25], [median, median], color="black")
            axes.text(
                place + 0.29,
                median,
                f"{median:.2g}",
                fontsize=7,
                va="center",
                path_effects=HALO,
            )
    axes.axhline(math.log(2), color="black", linestyle="--", linewidth=0.8)
    axes.annotate(
        "log 2: a coin toss",
        (x.mean(), math.log(2)),
        ha="center",
        va="bottom",
        fontsize=7,
    )
    labels = {
        "ylabel": "final test loss (nats)",
        "xlabel": "learning rate, normalization",
    }
    axes.set(
        yscale="log",
        ylim=(None, max(2, axes.get_ylim()[1])),
        xlim=(x[0] - 0.6, x[-1] + 0.85),
        **labels,
    )
    axes.set_xticks(x, [row["learning_rate"] for row in rows])
    groups = np.split(x, starts[1:])
    axes.set_xticks(
        [group.mean() for group in groups],
        [f"\n{methods[start]}" for start in starts],
        minor=True,
    )
    axes.tick_params(axis="x", which="both", length=0)
    return figure
