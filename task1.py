"""Task 1 · A multilayer perceptron and its backpropagation by hand, on the two moons.

Answers 1.1 to 1.4 of the sheet with NumPy alone; writes figures/task1_*, task1.json
and, for the other networks of 1.4, task1_studies.json.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from common import plotting, script, studies
from common.data import Moons, moons
from common.gradients import STEPS, slope_at
from common.plotting import HALO, PAGE_WIDTH, Figure, plt, styled
from common.script import Failure

HIDDEN_CHANNELS = (30, 30)  # of 1.4: change it here or with --hidden-channels
POINTS = 8000
NOISE = 0.08
EPOCHS = 10
BATCH_SIZE = 32
LEARNING_RATE = 0.05
CHECKED_COMPLETELY = 5000  # parameters of a network that are all checked
CHECKED_ENTRIES = 20  # of each array of a larger network
History = dict[str, list[float]]


class Linear:
    """Affine layer f(x) = x Wᵀ + b (sheet, task 1).

    With δ = ∂L/∂f [N, out] from above, the chain rule gives
    ∂L/∂W = δᵀ x, ∂L/∂b = Σₙ δₙ and ∂L/∂x = δ W.
    Weights start from N(0, 2 / in) (He et al., arXiv 1502.01852), biases at zero.
    `backward` belongs to the last `forward`, whose input it needs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        rng: np.random.Generator | None = None,
    ) -> None:
        rng = rng or np.random.default_rng()
        deviation = math.sqrt(2 / in_channels)  # He et al.
        self.weight = rng.normal(0, deviation, (out_channels, in_channels))
        self.bias = np.zeros(out_channels)
        self.grad_weight = np.zeros_like(self.weight)
        self.grad_bias = np.zeros_like(self.bias)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Map x [N, in] to f [N, out]."""
        self.last_input = x
        return x @ self.weight.T + self.bias  # [N, out]

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Turn ∂L/∂f [N, out] into ∂L/∂x [N, in]; set `grad_weight` and `grad_bias`."""
        self.grad_weight = gradient.T @ self.last_input  # [out, in]
        self.grad_bias = gradient.sum(axis=0)  # [out]
        return gradient @ self.weight  # [N, in]

    def update(self, learning_rate: float) -> None:
        """Take one step of gradient descent."""
        self.weight -= learning_rate * self.grad_weight
        self.bias -= learning_rate * self.grad_bias


class ReLU:
    """Rectifier g(f) = max(0, f), element by element (sheet, task 1).

    ∂L/∂f = ∂L/∂g where f > 0, else 0. At exactly f = 0, where g has no derivative, we
    take 0, as PyTorch does.
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Map f [N, C] to g [N, C]."""
        self.positive = x > 0
        return np.maximum(x, 0)

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Turn ∂L/∂g [N, C] into ∂L/∂f [N, C]."""
        return np.where(self.positive, gradient, 0)

    def update(self, learning_rate: float) -> None:
        """Do nothing: there are no parameters."""


class Softmax:
    """Probabilities pⱼ = exp(fⱼ + C) / Σₖ exp(fₖ + C) with C = -max f (sheet, task 1).

    ∂pⱼ/∂fᵢ = pⱼ (1[i = j] - pᵢ), hence ∂L/∂f = p ⊙ (∂L/∂p - Σⱼ pⱼ ∂L/∂pⱼ).
    """

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Map logits f [N, C] to probabilities p [N, C]."""
        self.last_output = np.exp(log_softmax(x))
        return self.last_output

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Turn ∂L/∂p [N, C] into ∂L/∂f [N, C]."""
        p = self.last_output
        return p * (gradient - (gradient * p).sum(axis=1, keepdims=True))

    def update(self, learning_rate: float) -> None:
        """Do nothing: there are no parameters."""


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log pⱼ = fⱼ + C - log Σₖ exp(fₖ + C) with C = -max f, for logits f [N, C].

    Finite for logits up to ±1e300: the argument of exp is never positive.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)  # f + C
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


class CrossEntropyLoss:
    """Averaged cross-entropy L = -1/N Σₙ log p[n, yₙ] (sheet, task 1).

    The sheet writes y as one-hot vectors. Here y holds the position of each 1, an
    integer class, as in PyTorch: of the sheet's sum over j only that term is not zero.
    ∂L/∂p[n, j] = -1[j = yₙ] / (N p[n, j]).
    """

    def forward(self, p: np.ndarray, y: np.ndarray) -> float:
        """Return the mean loss of probabilities p [N, C] for integer classes y [N]."""
        self.p = np.maximum(p, np.finfo(p.dtype).tiny)  # p may have underflowed to 0
        self.y = y
        p_of_class = self.p[np.arange(len(y)), y]  # [N]
        return float(-np.log(p_of_class).mean())

    def backward(self) -> np.ndarray:
        """Return ∂L/∂p [N, C], the 1/N of the mean included."""
        one_hot = np.eye(self.p.shape[1])[self.y]  # [N, C]
        return -one_hot / (len(self.y) * self.p)


class MLP:
    """Alternating linear layers and ReLUs, and a softmax at the end (sheet, task 1).

    `hidden_channels=()` is a linear classifier. ValueError for a layer without units.

    Training bypasses `Softmax` and `CrossEntropyLoss`: the chain rule through both
    gives ∂L/∂f = (p - y) / N, y one-hot, which never divides by a small probability.
    `loss` and `backward` compute just that from the logits f.
    """

    def __init__(
        self,
        in_channels: int = 2,
        hidden_channels: Sequence[int] = HIDDEN_CHANNELS,
        out_channels: int = 2,
        seed: int = 0,
    ) -> None:
        channels = [in_channels, *hidden_channels, out_channels]
        if min(channels) < 1:
            raise ValueError(f"expected layers of one unit or more, got {channels}")
        rng = np.random.default_rng(seed)
        self.layers: list[Linear | ReLU | Softmax] = []
        for inputs, outputs in pairwise(channels):
            self.layers.append(Linear(inputs, outputs, rng))
            self.layers.append(ReLU())
        self.layers[-1] = Softmax()  # in place of the last ReLU

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Map x [N, in] to the logits [N, out], the input of the softmax."""
        for layer in self.layers[:-1]:  # all but the softmax
            x = layer.forward(x)
        return x

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Map x [N, in] to probabilities [N, out]."""
        return self.layers[-1].forward(self.logits(x))

    def loss(self, x: np.ndarray, y: np.ndarray) -> float:
        """Return the averaged cross-entropy of x [N, in], integer classes y [N]."""
        # as CrossEntropyLoss after Softmax, but from the logits: p may underflow to 0
        log_p = log_softmax(self.logits(x))  # [N, out]
        self.last_p = np.exp(log_p)
        self.last_y = y
        log_p_of_class = log_p[np.arange(len(y)), y]  # [N]
        return float(-log_p_of_class.mean())

    def backward(self) -> np.ndarray:
        """Set the gradients of the last `loss` in every layer; return ∂L/∂x [N, in]."""
        one_hot = np.eye(self.last_p.shape[1])[self.last_y]  # [N, out]
        gradient = (self.last_p - one_hot) / len(one_hot)  # ∂L/∂f = (p - y) / N
        for layer in reversed(self.layers[:-1]):
            gradient = layer.backward(gradient)
        return gradient

    def update(self, learning_rate: float) -> None:
        """Take one step of gradient descent in every layer."""
        for layer in self.layers:
            layer.update(learning_rate)

    def training_step(
        self, x: np.ndarray, y: np.ndarray, learning_rate: float
    ) -> float:
        """Learn from one batch; return its loss before the step."""
        loss = self.loss(x, y)
        self.backward()
        self.update(learning_rate)
        return loss


def gradient_errors(mlp: MLP, x: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    """Compare the gradients of a batch with central differences (1.1).

    Returns a row per array: its shape, how many entries were checked, and the
    largest difference relative to the largest entry of all gradients (those of some
    arrays may be nearly zero). All are zero where no unit is active.
    """
    mlp.loss(x, y)
    mlp.backward()
    linear_layers = [layer for layer in mlp.layers if hasattr(layer, "weight")]
    size = sum(layer.weight.size + layer.bias.size for layer in linear_layers)
    most = size if size <= CHECKED_COMPLETELY else CHECKED_ENTRIES
    rng = np.random.default_rng(0)
    rows = []
    largest = 0.0
    for layer in linear_layers:
        for name in ("weight", "bias"):
            array = getattr(layer, name)
            gradient = getattr(layer, f"grad_{name}")
            largest = max(largest, np.abs(gradient).max())
            errors = []
            for number in rng.permutation(array.size)[:most]:
                index = np.unravel_index(number, array.shape)
                slope = slope_at(lambda: mlp.loss(x, y), array, index)
                errors.append(abs(gradient[index] - slope))
            rows.append(
                {
                    "shape": list(array.shape),
                    "checked": len(errors),
                    "error": float(np.max(errors)),
                }
            )
    for row in rows:
        row["error"] /= largest or 1
    return rows


def train(
    mlp: MLP,
    data: Moons,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    report: Callable[[int, float, float], None] | None = None,
) -> History:
    """Train by stochastic gradient descent (1.2); return the losses of every epoch.

    The points are shuffled anew in every epoch. `train_loss` and `test_loss` are those
    of the complete splits after it; `report` gets the epoch and both. Raises `Failure`
    when training diverges.
    """
    x_train, y_train, x_test, y_test = data
    rng = np.random.default_rng(seed)
    history: History = {"train_loss": [], "test_loss": []}
    for epoch in range(1, epochs + 1):
        order = rng.permutation(len(x_train))
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            mlp.training_step(x_train[batch], y_train[batch], learning_rate)
        train_loss = mlp.loss(x_train, y_train)
        test_loss = mlp.loss(x_test, y_test)
        if not math.isfinite(train_loss + test_loss):
            advice = "take a smaller --learning-rate"
            raise Failure(f"the loss is not finite after epoch {epoch}; {advice}")
        history["train_loss"].append(train_loss)
        history["test_loss"].append(test_loss)
        if report:
            report(epoch, train_loss, test_loss)
    return history


def accuracy(mlp: MLP, x: np.ndarray, y: np.ndarray) -> float:
    """Return the share in per cent of points x [N, in] that are put in class y [N]."""
    correct = mlp.forward(x).argmax(axis=1) == y  # [N]
    return float(100 * correct.sum() / len(y))


@styled
def training_figure(
    history: History, mlp: MLP, x: np.ndarray, y: np.ndarray, title: str
) -> Figure:
    """Draw the losses over the epochs, and the test points x [N, 2] of classes y (1.3).

    The points lie on a map of the network's probabilities, the wrong ones ringed.
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(PAGE_WIDTH, 2.1), width_ratios=(1, 1.25)
    )
    plotting.draw_history(left, history, "loss", digits=4)
    left.set(title=title, ylabel="loss (nats)", yscale="log", ymargin=0.12)

    limit = max(1, np.abs(x).max()) + 0.08
    plotting.draw_moons(right, plotting.moon_map(mlp.forward, limit), limit, x, y)
    wrong = mlp.forward(x).argmax(axis=1) != y
    right.scatter(x[wrong, 0], x[wrong, 1], s=45, facecolors="none", edgecolors="black")
    ringed = " (ringed)" if wrong.any() else ""
    right.set(
        title=f"{wrong.sum():,} of {len(x):,} test points wrong{ringed}",
        xlabel="$x_1$ (scaled)",
        ylabel="$x_2$ (scaled)",
        xticks=[-1, 0, 1],
        yticks=[-1, 0, 1],
    )
    for x_text, y_text, side, name in (
        (0.55, 0.93, "left", "upper moon"),
        (0.45, 0.07, "right", "lower moon"),
    ):
        text = right.text(x_text, y_text, name, ha=side, transform=right.transAxes)
        text.set(va="center", fontweight="bold", fontsize=7, path_effects=HALO)
    return figure


def train_variant(variant: studies.Variant, seed: int) -> studies.Run:
    """Train one network of 1.4; return its losses over the epochs and what it learned.

    A run that diverges has no losses.
    """
    data = moons(variant.points, variant.test_points, variant.noise, seed)
    mlp = MLP(hidden_channels=[studies.WIDTH] * variant.hidden_layers, seed=seed)
    history: History = {"train_loss": [], "test_loss": []}
    rate = variant.learning_rate
    drawn = None
    with np.errstate(over="ignore", invalid="ignore"):  # if it diverges
        with suppress(Failure):
            history = train(mlp, data, variant.epochs, variant.batch_size, rate, seed)
        if variant.study == "scarce":
            drawn = plotting.moon_map(mlp.forward, studies.MAP_LIMIT)
        return studies.Run(
            variant=variant,
            seed=seed,
            train_loss=history["train_loss"],
            test_loss=history["test_loss"],
            train_error=100 - accuracy(mlp, data.x_train, data.y_train),
            test_error=100 - accuracy(mlp, data.x_test, data.y_test),
            map=drawn,
        )


def train_variants(seed: int) -> list[studies.Run]:
    """Train all variants of 1.4, each with its seeds, on all cores; return all runs."""
    jobs = []
    for variant in studies.VARIANTS:
        for number in range(seed, seed + variant.seeds):
            jobs.append(delayed(train_variant)(variant, number))
    with script.ignoring_interrupts():  # the workers leave Ctrl-C to this process
        runs = Parallel(script.worker_count(), return_as="generator")(jobs)
    return list(tqdm(runs, "task 1: 1.4", len(jobs), leave=False, disable=None))


def difference_without_shift(logits: np.ndarray) -> float:
    """Return how much log p changes at most with the sheet's C = 0, for logits [N, C].

    1e300 if exp overflows.
    """
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        unshifted = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        differences = np.abs(unshifted - log_softmax(logits))
    return float(np.nan_to_num(differences, nan=1e300, posinf=1e300).max())


def parse_options() -> argparse.Namespace:
    """Parse the flags of task 1."""
    parser = script.script_parser(__doc__)
    script.add_training_flags(parser, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    parser.add_argument(
        "--hidden-channels",
        "--hidden_channels",
        type=script.positive_int,
        nargs="*",
        default=HIDDEN_CHANNELS,
        metavar="UNITS",
        help="units of each hidden layer; without any, a linear classifier "
        "(default: 30 30)",
    )
    parser.add_argument(
        "--points",
        type=script.positive_int,
        default=str(POINTS),
        help=f"train points {script.DEFAULT}",
    )
    parser.add_argument(
        "--noise",
        type=script.positive_float,
        default=str(NOISE),
        help=f"noise of the points, for moons of radius one {script.DEFAULT}",
    )
    parser.add_argument(
        "--no-studies", action="store_true", help="skip the other networks of 1.4"
    )
    return script.parse(parser)


def main(options: argparse.Namespace) -> None:
    """Answer 1.1 to 1.4 in turn."""
    data = moons(options.points, noise=options.noise, seed=options.seed)
    mlp = MLP(hidden_channels=options.hidden_channels, seed=options.seed)
    errors = gradient_errors(mlp, data.x_train[:8], data.y_train[:8])  # 1.1
    error = max(row["error"] for row in errors)
    print(f"gradients: relative difference from central differences {error:.1e}")

    def report(epoch: int, train_loss: float, test_loss: float) -> None:
        losses = f"train loss {train_loss:.5f}  test loss {test_loss:.5f}"
        print(f"epoch {epoch:2}/{options.epochs}  {losses}", flush=True)

    history = train(  # 1.2
        mlp,
        data,
        options.epochs,
        options.batch_size,
        options.learning_rate,
        options.seed,
        report,
    )
    test_accuracy = accuracy(mlp, data.x_test, data.y_test)

    layers = len(options.hidden_channels)  # 1.3
    title = f"{layers} hidden layers, {options.points:,} points, noise {options.noise}"
    figure = training_figure(history, mlp, data.x_test, data.y_test, title)
    plotting.save_figure(figure, options.figures, "task1_loss")

    logits = mlp.logits(data.x_test)
    results = {
        "gradient_check": errors,
        "difference_step": STEPS[0],
        "settings": {
            "hidden_channels": list(options.hidden_channels),
            "points": options.points,
            "noise": options.noise,
            "epochs": options.epochs,
            "batch_size": options.batch_size,
            "learning_rate": options.learning_rate,
        },
        "history": history,
        "without_shift": {
            "largest_logit": float(np.abs(logits).max()),
            "difference": difference_without_shift(logits),
        },
        "test_points": len(data.y_test),
        "test_accuracy": test_accuracy,
    }
    script.save_results(options, "task1", results)

    if not options.no_studies:  # 1.4
        print("training the other networks of 1.4 …", flush=True)
        studies.save(train_variants(options.seed), options)
    print(f"written to {options.figures}: task1_*.png, task1_*.svg, task1*.json")
    print(script.finding(test_accuracy, data.y_test))


if __name__ == "__main__":
    script.run(main, parse_options())
