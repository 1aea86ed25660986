"""The experiments of task 1 beyond its one training run: depth, initialization and normalization.

The caller brings its network and its training routine; the runs share the cores, and what they leave is summed up over
the seeds for the results file. `study_figures` draws it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from common.losses import softmax_cross_entropy_gradient
from common.moons import moons
from common.parallel import parallel_map
from common.runtime import Failure

SEEDS = 3
DEPTHS = (0, 1, 2, 4, 8, 12)
WIDTH = 30


class Run(NamedTuple):
    """One training run on the moons; `weight_std` None is He initialization."""

    depth: int
    seed: int
    points: int = 8000
    test_points: int = 2000
    noise: float = 0.08
    epochs: int = 10
    learning_rate: float = 0.05
    weight_std: float | None = None
    normalization: str | None = None


REGIMES: dict[str, dict[str, Any]] = {
    "sheet": {"points": 8000, "test_points": 2000, "noise": 0.08, "epochs": 10},
    "scarce": {"points": 200, "test_points": 1000, "noise": 0.3, "epochs": 200},
}
UNSTABLE_DEPTHS = (2, 4, 6, 8, 12)
DEEPEST = 12  # the network whose initialization and normalization are studied
GRADIENT_POINTS = 256
METHODS = {"none": None, "batch": "batch", "layer": "layer"}
RATES = (0.05, 0.5)
SCALES = {"N(0, 1)": 1.0, "He": None, "N(0, 0.1²)": 0.1}

History = dict[str, list[float]]


def train_all(network: Callable, train: Callable, seed: int) -> dict[Run, History]:
    """Train every run with task 1's `MLP` and `train`; a history is shorter than its run's epochs if it diverged."""
    seeds = range(seed, seed + SEEDS)
    runs = [Run(depth, s, **regime) for regime in REGIMES.values() for depth in DEPTHS for s in seeds]
    runs += [Run(depth, s, epochs=2, weight_std=1) for depth in UNSTABLE_DEPTHS for s in seeds]
    runs += [normalization_run(method, rate, s) for method in METHODS.values() for rate in RATES for s in seeds]
    longest_first = sorted(runs, key=lambda run: -(run.depth + 1) * run.epochs * run.points)
    histories = parallel_map(partial(train_run, network, train), longest_first, "studies")
    return dict(zip(longest_first, histories, strict=True))


def train_run(network: Callable, train: Callable, run: Run) -> History:
    """Train one network; return its history, up to where it diverged if it did."""
    mlp = network(hidden_channels=(WIDTH,) * run.depth, seed=run.seed, normalization=run.normalization)
    scale_weights(mlp, run.weight_std)
    data = moons(run.points, run.test_points, run.noise, run.seed)
    kept: History = {"train_loss": [], "test_loss": []}

    def keep(epoch: int, history: History) -> None:
        kept.update({name: list(losses) for name, losses in history.items()})

    with contextlib.suppress(Failure):
        train(mlp, data, run.epochs, learning_rate=run.learning_rate, seed=run.seed, report=keep)
    return kept


def scale_weights(mlp: Any, std: float | None) -> None:
    """Rescale the weights of a new network from He's standard deviation, √(2 / in), to the given one; None keeps it."""
    for layer in mlp.layers:
        if std is not None and hasattr(layer, "weight"):
            layer.weight *= std / math.sqrt(2 / layer.weight.shape[1])


def gradient_norms(network: Callable, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Return, per initialization, norms [seeds, 13] in new networks of twelve hidden layers.

    `weight` is the norm of ∂L/∂W of each linear layer, `output` that of ∂L/∂f, which arrives at its output.
    """
    norms = {}
    for label, std in SCALES.items():
        rows: dict[str, list[list[float]]] = {"weight": [], "output": []}
        for number in range(seed, seed + SEEDS):
            mlp = network(hidden_channels=(WIDTH,) * DEEPEST, seed=number)
            scale_weights(mlp, std)
            data = moons(GRADIENT_POINTS, 2, seed=number)
            mlp.loss(data.x_train, data.y_train)
            gradient = softmax_cross_entropy_gradient(*mlp.last_loss)
            weight, output = [], []
            for layer in reversed(mlp.layers[:-1]):
                is_linear = hasattr(layer, "weight")
                if is_linear:
                    output.append(np.linalg.norm(gradient))
                gradient = layer.backward(gradient)
                if is_linear:
                    weight.append(np.linalg.norm(layer.grad_weight))
            rows["weight"].append(weight[::-1])
            rows["output"].append(output[::-1])
        norms[label] = {name: np.array(values) for name, values in rows.items()}
    return norms


def summarize_gradients(norms: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, list[float]]]:
    """Return the mean norms over the seeds, per initialization and layer."""
    return {
        label: {name: values.mean(axis=0).tolist() for name, values in rows.items()} for label, rows in norms.items()
    }


def describe() -> dict[str, Any]:
    """Return the settings that the results hang on."""
    points = normalization_run(None, RATES[0], 0).points
    return {
        "seeds": SEEDS,
        "width": WIDTH,
        "regimes": REGIMES,
        "deepest": DEEPEST,
        "gradient_points": GRADIENT_POINTS,
        "normalization": {"points": points, "learning_rates": RATES},
    }


def normalization_run(method: str | None, learning_rate: float, seed: int) -> Run:
    """Return a run of the deepest network with weights from N(0, 1)."""
    return Run(DEEPEST, seed, points=1000, learning_rate=learning_rate, weight_std=1, normalization=method)


def curves_of(histories: dict[Run, History], runs: Sequence[Run], name: str) -> np.ndarray:
    """Return the runs' losses [runs, epochs], NaN from where a run diverged."""
    losses = np.full((len(runs), runs[0].epochs), np.nan)
    for row, run in zip(losses, runs, strict=True):
        values = histories[run][name]
        row[: len(values)] = values
    return losses


def summarize_depths(histories: dict[Run, History], seed: int) -> dict[str, list[dict[str, Any]]]:
    """Return, for both regimes and every depth, the final losses over the seeds and where the mean test loss was least.

    Final is the mean over the last tenth of the epochs, since single epochs of deep networks scatter.
    """
    summary: dict[str, list[dict[str, Any]]] = {}
    for name, regime in REGIMES.items():
        summary[name] = []
        for depth in DEPTHS:
            runs = [Run(depth, s, **regime) for s in range(seed, seed + SEEDS)]
            train, test = (curves_of(histories, runs, f"{split}_loss") for split in ("train", "test"))
            mean_test = test.mean(axis=0)
            last = slice(-max(1, runs[0].epochs // 10), None)
            summary[name].append(
                {
                    "depth": depth,
                    **{f"train_{key}": value for key, value in spread(train[:, last].mean(axis=1)).items()},
                    **{f"test_{key}": value for key, value in spread(test[:, last].mean(axis=1)).items()},
                    "least_test_loss": float(mean_test.min()),
                    "least_test_epoch": int(mean_test.argmin()) + 1,
                }
            )
    return summary


def spread(values: np.ndarray) -> dict[str, float | None]:
    """Return mean, least and greatest value; None for each when a run diverged."""
    numbers = {"mean": values.mean(), "low": values.min(), "high": values.max()}
    return {key: float(value) if np.isfinite(value) else None for key, value in numbers.items()}


def summarize_unstable(histories: dict[Run, History], seed: int) -> list[dict[str, int]]:
    """Return how many of the runs from N(0, 1) weights diverged, by depth."""
    return [
        {
            "depth": depth,
            "runs": SEEDS,
            "diverged": sum(
                len(histories[Run(depth, s, epochs=2, weight_std=1)]["test_loss"]) < 2
                for s in range(seed, seed + SEEDS)
            ),
        }
        for depth in UNSTABLE_DEPTHS
    ]


def summarize_normalization(histories: dict[Run, History], seed: int) -> list[dict[str, Any]]:
    """Return the final losses of the twelve-layer network by method and learning rate."""
    summary = []
    for name, method in METHODS.items():
        for rate in RATES:
            runs = [normalization_run(method, rate, s) for s in range(seed, seed + SEEDS)]
            final = curves_of(histories, runs, "test_loss")[:, -1]
            diverged = int(np.isnan(final).sum())
            summary.append({"method": name, "learning_rate": rate, "diverged": diverged, **spread(final)})
    return summary
