"""The experiments of task 1 beyond its own training run: depth, initialization and normalization (sheet, 1.4 and 5).

Each study trains variants of the network on the moons with several seeds and returns the losses as one array; its
summary for the results and its figure stand beside it. The caller brings its network and its training routine.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import product
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from joblib import Parallel, delayed
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from common.checks import Failure
from common.data import bayes_limit, moons
from common.plotting import HALO, PAGE_WIDTH, SPLIT_COLOURS, label_end, styled

SEEDS = 5
WIDTH = 30
DEPTHS = (0, 2, 4, 12)
REMEDY = {"depth": 4, "points": 4000, "test_points": 1000, "noise": 0.3, "epochs": 12}  # scarce no more
NORMALIZATION_POINTS = 800  # whole batches: the statistics of a last batch of few points are noise
DEEPEST = 12  # the network whose initialization and normalization are studied
METHODS = (None, "batch", "layer")
RATES = (0.05, 0.5)
TURNED = 1.25  # a test loss has turned around when it ends above this multiple of its minimum
SETTINGS: dict[str, dict[str, Any]] = {
    "sheet": {"points": 8000, "test_points": 2000, "noise": 0.08, "epochs": 10},
    "scarce": {"points": 200, "test_points": 1000, "noise": 0.3, "epochs": 200},
}
TITLE = "{points:,} points, noise {noise}, {epochs} epochs"  # of a setting
Network = Callable[..., Any]  # task 1's MLP
Train = Callable[..., dict[str, list[float]]]  # task 1's train
Arrays = tuple[np.ndarray, np.ndarray]  # losses and errors


class Variant(NamedTuple):
    """What is varied in the studies; the rest is as in the sheet's own run."""

    depth: int
    points: int = 8000
    test_points: int = 2000
    noise: float = 0.08
    epochs: int = 10
    learning_rate: float = 0.05
    weight_std: float | None = None
    normalization: str | None = None


def train_variant(network: Network, train: Train, variant: Variant, seed: int) -> Arrays:
    """Train one network; return its losses [2, epochs], train and test, and its errors on the test split [2].

    The errors are the number of wrong test points and their share of the test loss, at the end. All values from an
    epoch in which the training diverged are NaN.
    """
    mlp = network(hidden_channels=(WIDTH,) * variant.depth, seed=seed, normalization=variant.normalization)
    scale_weights(mlp, variant.weight_std)
    data = moons(variant.points, variant.test_points, variant.noise, seed)
    losses, errors = np.full((2, variant.epochs), np.nan), np.full(2, np.nan)

    def keep(epoch: int, history: dict[str, list[float]]) -> None:
        losses[:, epoch - 1] = history["train_loss"][-1], history["test_loss"][-1]

    with suppress(Failure), np.errstate(over="ignore", invalid="ignore"):
        train(mlp, data, variant.epochs, learning_rate=variant.learning_rate, seed=seed, report=keep)
        wrong = mlp.forward(data.x_test).argmax(axis=1) != data.y_test
        errors[:] = wrong.sum(), 0
        if wrong.any():
            wrong_loss = mlp.loss(data.x_test[wrong], data.y_test[wrong], remember=False)
            errors[1] = wrong.mean() * wrong_loss / losses[1, -1]
    return losses, errors


def scale_weights(mlp: Any, std: float | None) -> None:
    """Rescale the weights of a new network from He's standard deviation, √(2 / in), to the given one; None keeps it."""
    for layer in mlp.layers if std is not None else ():
        if hasattr(layer, "weight"):
            layer.weight *= std / math.sqrt(2 / layer.weight.shape[1])


def train_all(network: Network, train: Train, variants: Sequence[Variant], seed: int, label: str) -> Arrays:
    """Train variants with `SEEDS` seeds each; return losses [variants, seeds, 2, epochs], errors [variants, seeds, 2].

    The runs share the cores; give the longest variants last, they are started first.
    """
    jobs = [(variant, number) for variant in variants for number in range(seed, seed + SEEDS)][::-1]
    # For joblib's process that cleans up: after a worker's death it may warn of what it finds already gone.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:joblib.externals.loky.backend.resource_tracker")
    pool = Parallel(n_jobs=-1, return_as="generator", initializer=end_with, initargs=(os.getpid(),))
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the workers inherit it: Ctrl-C is for this process alone
    try:
        results = pool(delayed(train_variant)(network, train, *job) for job in jobs)
        signal.signal(signal.SIGINT, handler)
        runs = list(tqdm(results, f"task 1: {label}", total=len(jobs), leave=False, disable=None))
    except BrokenProcessPool as error:
        raise Failure("a worker process died, perhaps from lack of memory; run the script again") from error
    finally:
        signal.signal(signal.SIGINT, handler)
    losses, errors = zip(*runs[::-1], strict=True)
    return np.reshape(losses, (len(variants), SEEDS, 2, -1)), np.reshape(errors, (len(variants), SEEDS, 2))


def end_with(parent: int) -> None:
    """End this worker process soon after its parent, which may be killed while the worker waits for a job."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def running_median(losses: np.ndarray) -> np.ndarray:
    """Return, at every epoch of losses [..., epochs], the median of the last tenth of the epochs, at least three.

    Training of deep networks jumps from epoch to epoch; its last value is what a run ends at.
    """
    ends = range(1, losses.shape[-1] + 1)
    window = max(3, len(ends) // 10)
    return np.stack([np.median(losses[..., max(0, end - window) : end], axis=-1) for end in ends], axis=-1)


def list_runs(values: np.ndarray) -> list[float | None]:
    """Return the values of the runs [seeds] for the results, None for a run that diverged."""
    return [float(value) if np.isfinite(value) else None for value in values]


def depth_study(network: Network, train: Train, setting: str, seed: int) -> Arrays:
    """Train all depths in one setting (1.4); return the arrays of `train_all`, variants being `DEPTHS`."""
    variants = [Variant(depth, **SETTINGS[setting]) for depth in DEPTHS]
    return train_all(network, train, variants, seed, f"{len(DEPTHS)} depths, {SETTINGS[setting]['points']:,} points")


def summarize_depths(losses: np.ndarray, errors: np.ndarray) -> list[dict[str, Any]]:
    """Return, for every depth, each run's final losses and errors, and the epoch and value of its least test loss."""
    rows = []
    for depth, runs, wrong in zip(DEPTHS, losses, errors, strict=True):
        train, test = running_median(runs).transpose(1, 0, 2)  # [seeds, epochs] each
        least = test.min(axis=1)
        epochs = np.where(np.isfinite(least), test.argmin(axis=1) + 1, np.nan)
        columns = {"train": train[:, -1], "test": test[:, -1], "least_test": least, "least_epoch": epochs}
        columns |= {"wrong_points": wrong[:, 0], "wrong_share": wrong[:, 1]}
        row = {"depth": depth} | {name: list_runs(values) for name, values in columns.items()}
        turned, diverged = int((test[:, -1] > TURNED * least).sum()), int(np.isnan(least).sum())
        rows.append(row | {"turned": turned, "diverged": diverged})
    return rows


def remedy_study(network: Network, train: Train, seed: int) -> dict[str, Any]:
    """Train one depth on many points of the scarce setting's noise; return the settings and each run's final losses."""
    losses, _ = train_all(network, train, [Variant(**REMEDY)], seed, "more points")
    train_loss, test_loss = running_median(losses[0]).transpose(1, 0, 2)[:, :, -1]
    return REMEDY | {"train": list_runs(train_loss), "test": list_runs(test_loss)}


def print_depths(setting: str, rows: list[dict[str, Any]]) -> None:
    """Print the final losses over depth as a table, the median of the runs that did not diverge."""
    print(f"{TITLE.format(**SETTINGS[setting])}: final loss, median of the seeds")
    print("hidden layers  train loss (nats)  test loss (nats)  diverged")
    for row in rows:
        finals = ([loss for loss in row[split] if loss is not None] for split in ("train", "test"))
        train, test = (np.median(losses or np.nan) for losses in finals)
        print(f"{row['depth']:13}{train:19.5f}{test:18.5f}{row['diverged']:10}")


@styled
def depth_figure(losses: Mapping[str, np.ndarray], bayes: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw train and test loss [depths, seeds, 2, epochs] over the epochs, and the final loss over depth.

    `losses` and the Bayes limits, `loss` being the floor below which no classifier gets, have the keys of `SETTINGS`.
    """
    figure = plt.figure(figsize=(PAGE_WIDTH, 3.4))
    for part, (name, values) in zip(figure.subfigures(2, 1), losses.items(), strict=True):
        floor = bayes[name]["loss"]
        part.suptitle(TITLE.format(**SETTINGS[name]), x=0.01, ha="left", fontweight="bold")
        *small, last = part.subplots(1, 5, sharey=True, width_ratios=[1, 1, 1, 1, 1.3])
        smooth = running_median(np.nan_to_num(values, nan=np.inf))  # a diverged run counts as infinite
        for axes, depth, runs in zip(small, DEPTHS, smooth, strict=True):
            draw_epochs(axes, np.median(runs, axis=0))
            axes.set_title(f"{depth or 'no'} hidden layer{'s' * (depth > 0)}")
        final = smooth[..., -1]  # [depths, seeds, 2]
        draw_final(last, final)
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


def draw_final(axes: Axes, final: np.ndarray) -> None:
    """Draw the median of final losses [depths, seeds, 2] over depth, with a band from least to greatest."""
    medians = np.median(final, axis=1)  # [depths, 2]
    for values, line, (split, colour) in zip(final.T, medians.T, SPLIT_COLOURS.items(), strict=True):
        axes.fill_between(DEPTHS, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0)
        axes.plot(DEPTHS, line, "o-", color=colour)
        for end in np.flatnonzero(np.isfinite(line))[-1:]:  # none if all diverge
            label_end(axes, DEPTHS[end], line[end], split, colour, line[end] == medians[end].max())
    axes.set(title="final loss", xlabel="hidden layers", xticks=DEPTHS, xlim=(-0.6, 12.6))


def normalization_study(network: Network, train: Train, seed: int) -> np.ndarray:
    """Train the deepest network from N(0, 1) weights with every method at both learning rates (5).

    Returns losses [variants, seeds, 2, epochs], rates innermost. Without normalization this network hardly trains.
    """
    deepest = Variant(DEEPEST, points=NORMALIZATION_POINTS, weight_std=1)
    variants = [deepest._replace(normalization=method, learning_rate=rate) for method in METHODS for rate in RATES]
    return train_all(network, train, variants, seed, "normalization")[0]


def summarize_normalization(losses: np.ndarray) -> list[dict[str, Any]]:
    """Return each run's final test loss by method and learning rate, and how many runs diverged."""
    rows = []
    for (method, rate), final in zip(product(METHODS, RATES), running_median(losses)[:, :, 1, -1], strict=True):
        row = {"method": method or "none", "learning_rate": rate}
        rows.append(row | {"test": list_runs(final), "diverged": int(np.isnan(final).sum())})
    return rows


@styled
def normalization_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the final test loss of every run, from the rows of the summary, and the diverged ones in a band above."""
    figure, (band, axes) = plt.subplots(2, 1, sharex=True, height_ratios=[1, 3], figsize=(4.6, 2))
    x = np.array([0, 1.25, 2.75, 4, 5.5, 6.75])
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
    axes.set(yscale="log", ylabel="final test loss (nats)", xlabel="learning rate, normalization", xlim=(-0.5, 7.6))
    axes.set_xticks(x, [str(rate) for rate in RATES] * len(METHODS))
    axes.set_xticks((x[::2] + x[1::2]) / 2, [f"\n{method or 'without'}" for method in METHODS], minor=True)
    band.set(ylim=(-1, 4), yticks=[], facecolor="0.95")
    band.spines["bottom"].set_visible(False)
    for part, height in ((band, 0), (axes, 1)):
        part.tick_params(axis="x", which="both", length=0)
        part.plot(0, height, marker=[(-1, -0.5), (1, 0.5)], color="black", transform=part.transAxes, clip_on=False)
    return figure


def describe_settings() -> dict[str, Any]:
    """Return the settings behind the results, and the Bayes limit of each setting's moons."""
    limits = {name: bayes_limit(setting["noise"]) for name, setting in SETTINGS.items()}
    bayes = {name: {"loss": loss, "accuracy": accuracy} for name, (loss, accuracy) in limits.items()}
    normalization = {"points": NORMALIZATION_POINTS, "learning_rates": RATES}
    settings = {"seeds": SEEDS, "width": WIDTH, "settings": SETTINGS, "bayes": bayes, "turned": TURNED}
    return settings | {"deepest": DEEPEST, "normalization": normalization}
