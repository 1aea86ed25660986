"""The experiments of task 1 beyond its own run: depth and initialization (sheet, 1.4), and normalization (5).

A study trains variants of the network on the moons, each with several seeds: `train_all` returns the losses as one
array, `summarize` a row per variant for the results. `network` and `train` are task 1's `MLP` and `train`.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from joblib import Parallel, delayed
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from common.checks import Failure
from common.data import moons
from common.plotting import HALO, PAGE_WIDTH, SPLIT_COLOURS, label_end, styled

SEEDS = 5
WIDTH = 30
DEPTHS = (0, 2, 4, 12)
DEEPEST = 12  # the network whose initialization and normalization are studied
TURNED = 1.25  # a test loss has turned around when it ends above this multiple of its minimum
# Of the initial weights: standard deviation (None is He's √(2 / in)), colour and name in the figure
INITIALIZATIONS = {
    "large": (1.0, "#d7301f", r"$\mathcal{N}(0, 1)$"),
    "He": (None, "#000000", "He"),
    "small": (0.1, "#41b6c4", r"$\mathcal{N}(0, 0.1^2)$"),
}
TITLE = "{points:,} points, noise {noise}, {epochs} epochs"  # of a depth study
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


def train_variant(network: Callable, train: Callable, variant: Variant, seed: int) -> Arrays:
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


def train_all(network: Callable, train: Callable, variants: Sequence[Variant], seed: int, label: str) -> Arrays:
    """Train variants with `SEEDS` seeds each; return losses [variants, seeds, 2, epochs], errors [variants, seeds, 2].

    The runs share the cores; the last variants are started first. Raises `Failure` when a worker process dies.
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


def summarize(variants: Sequence[Variant], losses: np.ndarray, errors: np.ndarray) -> list[dict[str, Any]]:
    """Return a row per variant: its settings, lists over its runs, and how many runs diverged or turned around.

    The lists are of final losses, the least test loss and its epoch, and errors; None stands for a run that diverged.
    """
    rows = []
    for variant, runs, wrong in zip(variants, running_median(losses), errors, strict=True):
        train, test = runs.transpose(1, 0, 2)  # [seeds, epochs] each
        least, lost = test.min(axis=1), np.isnan(test[:, -1])
        columns = {"train": train[:, -1], "test": test[:, -1], "least_test": least, "least_epoch": test.argmin(1) + 1}
        columns |= {"wrong_points": wrong[:, 0], "wrong_share": wrong[:, 1]}
        row = {name: np.where(lost, None, values).tolist() for name, values in columns.items()}
        counts = {"turned": int((test[:, -1] > TURNED * least).sum()), "diverged": int(lost.sum())}
        rows.append(variant._asdict() | row | counts)
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
        *small, last = part.subplots(1, 5, sharey=True, width_ratios=[1, 1, 1, 1, 1.3])
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
    axes.set(title="final loss", xlabel="hidden layers", xticks=depths, xlim=(-0.6, 12.6))


def gradient_norms(network: Callable, seed: int) -> np.ndarray:
    """Return norms [initializations, 2, seeds, layers] in the linear layers of untrained networks, the deepest.

    The first of the two is the norm of ∂L/∂f, which arrives at the output of the layer, the second that of ∂L/∂W.
    """

    def record(arrived: list[float], backward: Callable, gradient: np.ndarray) -> np.ndarray:
        arrived.insert(0, np.linalg.norm(gradient))
        return backward(gradient)

    norms = np.empty((len(INITIALIZATIONS), 2, SEEDS, DEEPEST + 1))
    for kind, (std, _, _) in enumerate(INITIALIZATIONS.values()):
        for number in range(SEEDS):
            mlp = network(hidden_channels=(WIDTH,) * DEEPEST, seed=seed + number)
            scale_weights(mlp, std)
            linear, arrived = [layer for layer in mlp.layers if hasattr(layer, "weight")], []
            for layer in linear:
                layer.backward = partial(record, arrived, layer.backward)
            data = moons(256, 2, seed=seed + number)  # two test points, the fewest there are, go unused
            mlp.loss(data.x_train, data.y_train)
            mlp.backward()
            norms[kind, :, number] = arrived, [np.linalg.norm(layer.grad_weight) for layer in linear]
    return norms


@styled
def gradient_figure(norms: np.ndarray) -> Figure:
    """Draw the norms of `gradient_norms` over the layers, per initialization.

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
        at = 0 if key == "He" else 5
        left.annotate(f"{name}: ×{factor:.2g} per layer", (at + 1, law[at]), **(down if key == "small" else up))
        right.annotate(name, (6, of_weights[5:8].mean()), **(down if key == "large" else up))
    left.text(0.98, 0.97, "← backward", transform=left.transAxes, ha="right", va="top")
    left.set(title=r"$\|\partial\mathcal{L}/\partial f\|$: explodes, stays or vanishes", yscale="log", ylabel="norm")
    right.set(title=r"$\|\partial\mathcal{L}/\partial W\|$: nearly the same in all layers")
    plt.setp([left, right], xlabel="linear layer (1 = first)", xticks=layers[::3])
    return figure


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
    axes.set_xticks(x, [row["learning_rate"] for row in rows])
    axes.set_xticks((x[::2] + x[1::2]) / 2, [f"\n{row['normalization'] or 'without'}" for row in rows[::2]], minor=True)
    band.set(ylim=(-1, 4), yticks=[], facecolor="0.95")
    band.spines["bottom"].set_visible(False)
    for part, height in ((band, 0), (axes, 1)):
        part.tick_params(axis="x", which="both", length=0)
        part.plot(0, height, marker=[(-1, -0.5), (1, 0.5)], color="black", transform=part.transAxes, clip_on=False)
    return figure
