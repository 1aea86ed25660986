"""The other networks of 1.4: the table of what is varied, its summary and its figure.

task1.py trains the variants. Everything here is read off their loss curves: the "end"
of a curve is the median of its last `END` epochs, its "least" the smallest test loss.
"""

import argparse
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from common import plotting
from common.data import half_circles, moons, random_moons
from common.plotting import PAGE_WIDTH, SPLIT_COLOURS, Axes, Figure, plt, styled
from common.script import save_results

WIDTH = 30  # units of each hidden layer
DEPTHS = (0, 2, 4, 12)
DEEP = 12  # hidden layers of the network whose causes and remedies are tried
SEEDS = 5
END = 3
RISE = 1.1  # a test loss rises again if it ends above this many times its least before
LEARNED = 0.2  # a network learns if its least test loss is below this
MAP_LIMIT = 1.1


class Variant(NamedTuple):
    """One network and its training with `seeds` seeds; the defaults are task 1's."""

    study: str
    hidden_layers: int
    points: int = 8000
    test_points: int = 10_000
    noise: float = 0.08
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 0.05
    seeds: int = SEEDS


class Run(NamedTuple):
    """A variant trained with one seed: losses (nats) by epoch, errors in per cent.

    `map` is `plotting.moon_map` of the network up to `MAP_LIMIT`, where it is drawn.
    """

    variant: Variant
    seed: int
    train_loss: list[float]
    test_loss: list[float]
    train_error: float
    test_error: float
    map: np.ndarray | None


DEFAULT = [Variant("default", depth) for depth in DEPTHS]
SCARCE = [Variant("scarce", depth, 200, 2000, 0.3, 120) for depth in DEPTHS]
CONTROLS = [  # of the deep network with scarce points
    Variant("controls", DEEP, 200, 2000, 0.08, 120),
    Variant("controls", DEEP, 800, 2000, 0.3, 120),
]
LIMIT = [  # of depth, and its control
    Variant("limit", 50, 1000, 500, 0.08, 30, learning_rate=rate)
    for rate in (0.05, 0.01)
]
VARIANTS = DEFAULT + SCARCE + CONTROLS + LIMIT


def moon_densities(points: np.ndarray, noise: float) -> np.ndarray:
    """Return the density of each moon [2, N] at points [N, 2] before their scaling.

    A moon's density is the mean, over its half circle, of a normal distribution of
    standard deviation `noise` > 0.
    """
    angles = (np.arange(400) + 0.5) * np.pi / 400
    densities = []
    for arc in half_circles(angles):
        squares = ((points[:, None] - arc) ** 2).sum(axis=2)  # [N, 400]
        densities.append(np.exp(-squares / (2 * noise**2)).mean(axis=1))
    return np.array(densities) / (2 * np.pi * noise**2)


def bayes_loss(noise: float) -> float:
    """Return the mean cross-entropy (nats) of the best classifier of the moons.

    It knows their densities: no other has a smaller loss on average. The expectation is
    a sum over a grid with steps of a quarter of the noise.
    """
    step = noise / 4
    across = np.arange(-1 - 6 * noise, 2 + 6 * noise, step)
    up = np.arange(-0.5 - 6 * noise, 1 + 6 * noise, step)
    grid = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    densities = moon_densities(grid, noise) + np.finfo(float).tiny  # [2, N]
    surprise = np.log(densities.sum(axis=0)) - np.log(densities)
    return float((densities * surprise).sum() * step**2 / 2)


def unscaled_points(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return the train points [N, 2] of a run before their scaling, and classes [N]."""
    train_rng, _ = np.random.default_rng(run.seed).spawn(2)  # as in `moons`
    return random_moons(run.variant.points, run.variant.noise, train_rng)


def best_train_loss(run: Run) -> float:
    """Return the loss (nats) of the best classifier on the train points of a run."""
    points, y = unscaled_points(run)
    densities = moon_densities(points, run.variant.noise)  # [2, N]
    own = densities[y, np.arange(len(y))]
    return float(-np.log(own / densities.sum(axis=0)).mean())


def end(losses: Sequence[float]) -> float | None:
    """Return the median of the last `END` losses; None for a run that diverged."""
    return float(np.median(losses[-END:])) if losses else None


def least(run: Run) -> tuple[float, int] | tuple[None, None]:
    """Return the least test loss of a run and its epoch, counted from 1."""
    if not run.test_loss:
        return None, None
    smallest = min(run.test_loss)
    return smallest, run.test_loss.index(smallest) + 1


def rises_again(run: Run) -> bool:
    """Return whether the test loss of a run ends clearly above its least before."""
    earlier = run.test_loss[:-END]
    return bool(earlier) and end(run.test_loss) > RISE * min(earlier)


def summarize(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the settings of a variant, lists over its runs, and two counts of runs.

    In the lists, None stands for a run that diverged. `rises_again` counts the runs
    whose test loss does, `learned` those whose least test loss is below `LEARNED`.
    """
    row = runs[0].variant._asdict()
    row["train_end"] = [end(run.train_loss) for run in runs]
    row["test_end"] = [end(run.test_loss) for run in runs]
    row["least"] = [least(run)[0] for run in runs]
    row["least_epoch"] = [least(run)[1] for run in runs]
    row["rises_again"] = sum(rises_again(run) for run in runs)
    row["learned"] = sum(min(run.test_loss, default=1) < LEARNED for run in runs)
    return row


def save(runs: Sequence[Run], options: argparse.Namespace) -> None:
    """Print and save the summary of all runs, and their figure."""
    floor = bayes_loss(SCARCE[0].noise)
    settings = {
        "width": WIDTH,
        "end": END,
        "rise": RISE,
        "learned": LEARNED,
        "bayes_loss": floor,
        "bayes_noise": SCARCE[0].noise,
        "bayes_train": [best_train_loss(run) for run in of_variant(runs, SCARCE[0])],
    }
    results: dict[str, Any] = {"settings": settings}
    print("hidden layers  points  noise  rate  train loss  test loss")
    for variant in VARIANTS:
        row = summarize(of_variant(runs, variant))
        results.setdefault(variant.study, []).append(row)
        print_row(row)
    plotting.save_figure(depth_figure(runs, floor), options.figures, "task1_depth")
    save_results(options, "task1_studies", results)


def of_variant(runs: Sequence[Run], variant: Variant) -> list[Run]:
    """Return the runs of one variant."""
    return [run for run in runs if run.variant == variant]


def print_row(row: dict[str, Any]) -> None:
    """Print a variant and where its losses end, the medians of its runs."""
    settings = f"{row['hidden_layers']:13}{row['points']:8}"
    settings += f"{row['noise']:7}{row['learning_rate']:6}"
    ends = []
    for split in ("train_end", "test_end"):
        values = [math.inf if loss is None else loss for loss in row[split]]
        ends.append(np.median(values))
    print(f"{settings}{ends[0]:12.4f}{ends[1]:11.4f}")


@styled
def depth_figure(runs: Sequence[Run], floor: float) -> Figure:
    """Draw losses over the epochs, their ends by depth, and maps of what was learned.

    `floor` is the Bayes loss with scarce points. The maps are those of the seed in
    which the gap between the two ends of the deepest network is the median.
    """
    figure, rows = plt.subplots(
        3,
        len(DEPTHS) + 1,
        figsize=(PAGE_WIDTH, 4.6),
        width_ratios=[1] * len(DEPTHS) + [1.15],
    )
    draw_study(rows[0], DEFAULT, runs)
    draw_study(rows[1], SCARCE, runs)
    for axes in rows[0]:
        axes.set_yscale("log")
    for axes, variant in zip(rows[0], DEFAULT, strict=False):
        layers = "layer" if variant.hidden_layers == 1 else "layers"
        axes.set_title(f"{variant.hidden_layers or 'no'} hidden {layers}")
    for axes in rows[1]:
        axes.set_ylim(0, 0.8)
        axes.axhline(floor, color="black", linestyle="--", linewidth=0.8)
    rows[0, -1].set_title("end")
    rows[1, 0].text(4, floor - 0.02, f"Bayes {floor:.2f}", fontsize=7, va="top")

    deepest = of_variant(runs, SCARCE[-1])
    drawn = sorted(deepest, key=gap)[len(deepest) // 2].seed
    for axes, variant in zip(rows[2], SCARCE, strict=False):
        for run in of_variant(runs, variant):
            if run.seed == drawn:
                draw_map(axes, run)
    rows[2, 0].set_ylabel("train points\nof one seed")
    note = """titles: errors after
the last epoch
○ upper, △ lower moon
tint: their probability
line: boundary
dashed: the best one"""
    rows[2, -1].text(0.05, 0.5, note, fontsize=7, va="center")
    rows[2, -1].set_axis_off()
    return figure


def gap(run: Run) -> float:
    """Return how far the test loss of a run ends above its train loss."""
    return end(run.test_loss) - end(run.train_loss) if run.test_loss else math.inf


def draw_study(
    row: Sequence[Axes], variants: Sequence[Variant], runs: Sequence[Run]
) -> None:
    """Draw the loss curves of each variant in one panel, and all ends in the last.

    Thick lines are medians over the seeds; thin lines and dots are single runs.
    """
    *panels, last = row
    variant = variants[0]
    panels[0].set_ylabel(
        f"{variant.points:,} points,\nnoise {variant.noise}\nloss (nats)"
    )
    epochs = np.arange(1, variant.epochs + 1)
    for split, colour in SPLIT_COLOURS.items():
        ends = []
        for axes, each in zip(panels, variants, strict=True):
            finished = [run for run in of_variant(runs, each) if run.test_loss]
            curves = [getattr(run, f"{split}_loss") for run in finished]
            for curve in curves:
                axes.plot(epochs, curve, color=colour, linewidth=0.4, alpha=0.35)
            if curves:
                axes.plot(epochs, np.median(curves, axis=0), color=colour)
            ends.append([end(curve) for curve in curves])
        depths = [each.hidden_layers for each in variants]
        medians = [np.median(values) if values else math.nan for values in ends]
        for depth, values in zip(depths, ends, strict=True):
            last.plot([depth] * len(values), values, "o", color=colour, alpha=0.4)
        last.plot(depths, medians, color=colour)
        above = split == "test"
        plotting.label_end(last, depths[-1], medians[-1], split, colour, above)
    for axes in panels:
        axes.set(xlabel="epoch", xticks=[1, variant.epochs])
        axes.sharey(last)
        axes.tick_params(labelleft=axes is panels[0])
    last.set(xlabel="hidden layers", xticks=depths)


def draw_map(axes: Axes, run: Run) -> None:
    """Draw train points on a network's map, with the best classifier's boundary."""
    variant = run.variant
    x, y, _, _ = moons(variant.points, 2, variant.noise, run.seed)
    plotting.draw_moons(axes, run.map, MAP_LIMIT, x, y)

    unscaled, _ = unscaled_points(run)
    low = unscaled.min(axis=0)
    high = unscaled.max(axis=0)
    ticks = np.linspace(-MAP_LIMIT, MAP_LIMIT, 80)
    grid = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    upper, lower = moon_densities((grid + 1) / 2 * (high - low) + low, variant.noise)
    difference = (lower - upper).reshape(80, 80)
    axes.contour(
        ticks,
        ticks,
        difference,
        levels=[0],
        colors="black",
        linewidths=0.8,
        linestyles="dashed",
    )
    title = f"train {run.train_error:.0f} %\ntest {run.test_error:.0f} %"
    axes.set(title=title, xticks=[], yticks=[])
