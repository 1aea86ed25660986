"""Task 1 · A multilayer perceptron and its backpropagation by hand, in NumPy, on the
two moons.

Answers 1.1 to 1.4 of the sheet, with a study for task 5; writes figures/task1_*,
task1.json and task1_studies.json.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from copy import deepcopy
from itertools import islice, pairwise
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from common import gradients, script, studies
from common.data import Moons, moons
from common.normalization import normalization_layers
from common.plotting import (
    HALO,
    PAGE_WIDTH,
    Figure,
    draw_history,
    draw_moons,
    plt,
    save_figure,
    styled,
)
from common.script import Failure, check_labels, check_shape, saved_by_forward

HIDDEN_CHANNELS = (
    30,
    30,
)  # change it here or with --hidden-channels (1.4); () is a linear classifier
EPOCHS = 10
BATCH_SIZE = 32
LEARNING_RATE = 0.05
History = dict[str, list[float]]


class Linear:
    """Affine layer f(x) = x Wᵀ + b (sheet, task 1).

    With δ = ∂L/∂f [N, out] from above, the chain rule gives ∂L/∂W = δᵀ x, ∂L/∂b = Σₙ δₙ
    and ∂L/∂x = δ W. Biases start at zero, weights from N(0, std²), with std² = 2 / in
    by default (He et al., arXiv 1502.01852).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        rng: np.random.Generator | None = None,
        std: float | None = None,
    ) -> None:
        rng = np.random.default_rng() if rng is None else rng
        std = math.sqrt(2 / in_channels) if std is None else std
        self.weight = rng.normal(0, std, (out_channels, in_channels))
        self.bias = np.zeros(out_channels)
        self.grad_weight, self.grad_bias = (
            np.zeros_like(self.weight),
            np.zeros_like(self.bias),
        )
        self.last_input: np.ndarray | None = None

    def forward(self, x: np.ndarray, remember: bool = False) -> np.ndarray:
        """Map x [N, in] to f [N, out]; `remember` keeps x for the backward pass."""
        if remember:
            self.last_input = x
        return x @ self.weight.T + self.bias  # [N, out]

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Turn ∂L/∂f [N, out] into ∂L/∂x [N, in]; set `grad_weight` and `grad_bias`."""
        x = saved_by_forward(self.last_input)
        self.grad_weight = gradient.T @ x  # [out, in]
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

    def __init__(self) -> None:
        self.positive: np.ndarray | None = None

    def forward(self, x: np.ndarray, remember: bool = False) -> np.ndarray:
        """Map f [N, C] to g [N, C]; `remember` keeps where f > 0 for the backward pass."""
        if remember:
            self.positive = x > 0
        return np.maximum(x, 0)

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Turn ∂L/∂g [N, C] into ∂L/∂f [N, C]."""
        positive = saved_by_forward(self.positive)
        check_shape(gradient, *positive.shape)  # NumPy would broadcast a single row
        return np.where(positive, gradient, 0)

    def update(self, learning_rate: float) -> None:
        """Do nothing: there are no parameters."""


class Softmax:
    """Probabilities pⱼ = exp(fⱼ + C) / Σₖ exp(fₖ + C) with C = -max f (sheet, task 1).

    ∂pⱼ/∂fᵢ = pⱼ (1[i = j] - pᵢ), hence ∂L/∂f = p ⊙ (∂L/∂p - Σⱼ pⱼ ∂L/∂pⱼ).
    """

    def __init__(self) -> None:
        self.last_output: np.ndarray | None = None

    def forward(self, x: np.ndarray, remember: bool = False) -> np.ndarray:
        """Map logits f [N, C] to probabilities p [N, C]; `remember` keeps them for the
        backward pass.
        """
        p = np.exp(log_softmax(x))
        if remember:
            self.last_output = p
        return p

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Turn ∂L/∂p [N, C] into ∂L/∂f [N, C]."""
        p = saved_by_forward(self.last_output)
        check_shape(gradient, *p.shape)
        return p * (gradient - (gradient * p).sum(axis=1, keepdims=True))

    def update(self, learning_rate: float) -> None:
        """Do nothing: there are no parameters."""


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log pⱼ = fⱼ + C - log Σₖ exp(fₖ + C), C = -max f, for logits f [N, C];
    finite for logits up to ±1e300.
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


class CrossEntropyLoss:
    """Averaged cross-entropy L = -1/N Σₙ log p[n, yₙ] (sheet, task 1), so ∂L/∂p[n, j] =
    -1[j = yₙ] / (N p[n, j]).
    """

    def __init__(self) -> None:
        self.last_input: tuple[np.ndarray, np.ndarray] | None = None

    def forward(self, p: np.ndarray, y: np.ndarray) -> float:
        """Return the mean loss of probabilities p [N, C] for integer classes y [N];
        raise ValueError for others.
        """
        check_labels(
            y, *p.shape
        )  # NumPy would take one-hot rows and -1 as indices as well
        p = np.maximum(
            p, np.finfo(p.dtype).tiny
        )  # where p has underflowed to 0, loss and gradient stay finite
        self.last_input = p, y
        return float(-np.log(p[np.arange(len(y)), y]).mean())

    def backward(self) -> np.ndarray:
        """Return ∂L/∂p [N, C], the 1/N of the mean included."""
        p, y = saved_by_forward(self.last_input)
        return -np.eye(p.shape[1])[y] / (len(y) * p)  # [N, C], y one-hot


class MLP:
    """Alternating linear layers and ReLUs, a softmax after the last linear layer
    (sheet, task 1).

    `hidden_channels=()` is a linear classifier; `normalization` "batch" or "layer" goes
    before each ReLU (task 5).

    Training bypasses `Softmax` and `CrossEntropyLoss`: loss and gradient come directly
    from the logits f, by log p[n, y] = f_y - log Σₖ exp fₖ and ∂L/∂f = (p - y) / N with
    y one-hot, to which the chain through both reduces.
    """

    def __init__(
        self,
        in_channels: int = 2,
        hidden_channels: Sequence[int] | int = HIDDEN_CHANNELS,
        out_channels: int = 2,
        seed: int = 0,
        normalization: str | None = None,
        weight_std: float | None = None,
    ) -> None:
        rng = np.random.default_rng(seed)
        channels = (in_channels, *np.atleast_1d(hidden_channels).astype(int))
        self.layers = []
        for inputs, outputs in pairwise(channels):
            linear = Linear(inputs, outputs, rng, weight_std)
            self.layers += [
                linear,
                *normalization_layers(normalization, outputs),
                ReLU(),
            ]
        self.layers += [Linear(channels[-1], out_channels, rng, weight_std), Softmax()]
        self.last_loss: tuple[np.ndarray, np.ndarray] | None = None

    def logits(self, x: np.ndarray, remember: bool = False) -> np.ndarray:
        """Map x [N, in] to the logits [N, out], the input of the softmax."""
        if remember:
            self.last_loss = None  # the layers overwrite what an earlier loss has saved
        for layer in self.layers[:-1]:
            x = layer.forward(x, remember)
        return x

    def forward(self, x: np.ndarray, remember: bool = False) -> np.ndarray:
        """Map x [N, in] to probabilities [N, out]; `remember` keeps what the layers'
        backward passes need.
        """
        return self.layers[-1].forward(self.logits(x, remember), remember)

    def loss(self, x: np.ndarray, y: np.ndarray, remember: bool = False) -> float:
        """Return the averaged cross-entropy of x [N, in], classes y [N]; `remember`
        (training) allows `backward`.
        """
        check_shape(x, "N", self.layers[0].weight.shape[1])
        log_p = log_softmax(self.logits(x, remember))
        check_labels(y, *log_p.shape)
        if remember:
            self.last_loss = np.exp(log_p), y
        return float(-log_p[np.arange(len(y)), y].mean())

    def backward(self) -> np.ndarray:
        """Set the gradients of the last `loss(x, y, remember=True)` in every layer;
        return ∂L/∂x [N, in].
        """
        p, y = saved_by_forward(self.last_loss)
        gradient = (p - np.eye(p.shape[1])[y]) / len(y)  # ∂L/∂f [N, out]
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
        loss = self.loss(x, y, remember=True)
        self.backward()
        self.update(learning_rate)
        return loss


def train(
    mlp: MLP,
    data: Moons,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    report: Callable[[int, History], None] = lambda epoch, history: None,
    weight_decay: float = 0,
) -> History:
    """Train by stochastic gradient descent (1.2); return `train_loss` and `test_loss`
    of the full splits per epoch.

    The points are shuffled anew in every epoch; `report` is called after each.
    `weight_decay` λ subtracts ηλW from the weights W in every step, with η the learning
    rate. Raises `Failure` if training diverges.
    """
    x_train, y_train, x_test, y_test = data
    rng = np.random.default_rng(seed)
    history: History = {"train_loss": [], "test_loss": []}
    for epoch in range(1, epochs + 1):
        order = rng.permutation(len(x_train))
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # an overflow shows in the loss, which is checked
            for step, start in enumerate(range(0, len(order), batch_size), 1):
                batch = order[start : start + batch_size]
                loss = mlp.training_step(x_train[batch], y_train[batch], learning_rate)
                check_finite(loss, epoch, step)
                for layer in mlp.layers if weight_decay else ():
                    if isinstance(layer, Linear):
                        layer.weight *= 1 - learning_rate * weight_decay
            history["train_loss"].append(mlp.loss(x_train, y_train))
            history["test_loss"].append(mlp.loss(x_test, y_test))
        check_finite(history["train_loss"][-1] + history["test_loss"][-1], epoch, step)
        report(epoch, history)
    return history


def check_finite(loss: float, epoch: int, step: int) -> None:
    """Raise `Failure` when training has diverged: the loss is infinite or NaN."""
    if not math.isfinite(loss):
        raise Failure(
            f"the loss is {loss} in epoch {epoch}, step {step}; take a smaller --learning-rate"
        )


@styled
def training_figure(
    history: History, predict: Callable[..., np.ndarray], x: np.ndarray, y: np.ndarray
) -> Figure:
    """Draw the losses over the epochs, and test points x [N, 2] on a map of `predict`,
    the wrong ones ringed (1.3).
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(PAGE_WIDTH, 2.1), width_ratios=[1, 1.25]
    )
    draw_history(left, history, "loss", 4)
    left.set(ylabel="loss (nats)", yscale="log", ymargin=0.12)
    draw_moons(right, predict, x, y)
    wrong = x[predict(x).argmax(axis=1) != y]
    right.scatter(*wrong.T, s=45, facecolors="none", edgecolors="black", linewidths=0.8)
    style = {
        "va": "center",
        "transform": right.transAxes,
        "path_effects": HALO,
        "fontweight": "bold",
        "fontsize": 7,
    }
    right.text(0.55, 0.93, "upper moon", ha="left", **style)
    right.text(0.45, 0.07, "lower moon", ha="right", **style)
    title = f"{len(wrong):,} of {len(x):,} test points wrong" + (
        " (ringed)" if len(wrong) else ""
    )
    right.set(
        title=title,
        xlabel="$x_1$ (scaled)",
        ylabel="$x_2$ (scaled)",
        xticks=[-1, 0, 1],
        yticks=[-1, 0, 1],
    )
    return figure


def train_variant(variant: studies.Variant, seed: int) -> dict[str, Any]:
    """Train one network of a study (1.4, 5); return train and validation `losses` [2,
    epochs], `network` and measures.

    `network` is that of the last three epochs with the median validation loss; `train`
    loss, `test` loss and `error` in per cent are its own, the last two on the test
    points. `stopped_epoch` has the least validation loss, with `stopped_test` and
    `stopped_error`. The measures of a run that diverged are None.
    """
    mlp = MLP(
        2,
        (studies.WIDTH,) * variant.depth,
        2,
        seed,
        variant.normalization,
        variant.weight_std,
    )
    cut = studies.VALIDATION_POINTS
    data = moons(variant.points, cut + variant.test_points, variant.noise, seed)
    losses, last, stopped = np.full((2, variant.epochs), np.nan), [], (math.inf, 0, mlp)

    def keep(epoch: int, history: History) -> None:
        nonlocal stopped
        losses[:, epoch - 1] = train_loss, loss = [
            values[-1] for values in history.values()
        ]
        if loss < stopped[0]:
            stopped = loss, epoch, deepcopy(mlp)
        if epoch > variant.epochs - 3:
            last.append((loss, train_loss, deepcopy(mlp)))

    run: dict[str, Any] = dict.fromkeys(
        ("train", "test", "error", "stopped_epoch", "stopped_test", "stopped_error")
    )
    with suppress(Failure), np.errstate(over="ignore", invalid="ignore"):
        settings = (
            variant.epochs,
            variant.batch_size,
            variant.learning_rate,
            seed,
            keep,
            variant.weight_decay,
        )
        train(
            mlp,
            (data.x_train, data.y_train, data.x_test[:cut], data.y_test[:cut]),
            *settings,
        )
        _, train_loss, mlp = sorted(last, key=lambda each: each[0])[len(last) // 2]
        final, best = (
            evaluate(network, data.x_test[cut:], data.y_test[cut:])
            for network in (mlp, stopped[2])
        )
        check_finite(
            final[0] + best[0], variant.epochs, 0
        )  # of the losses on the test points
        run = dict(zip(run, (train_loss, *final, stopped[1], *best), strict=True))
    return {**run, "losses": losses, "network": mlp}


def evaluate(mlp: MLP, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return the averaged loss and the error in per cent on x [N, in], classes y [N],
    in parts that fit the cache.
    """
    log_p = log_softmax(
        np.concatenate(
            [mlp.logits(part) for part in np.array_split(x, -(-len(x) // 1000))]
        )
    )
    return float(-log_p[np.arange(len(y)), y].mean()), float(
        100 * (log_p.argmax(axis=1) != y).mean()
    )


def train_studies(seed: int) -> dict[str, list[list[dict[str, Any]]]]:
    """Train all variants of all studies, each with its seeds, on all cores; return the
    runs by study and variant.
    """
    variants = [variant for study in studies.STUDIES.values() for variant in study]
    jobs = [
        (variant, seed + number)
        for variant in variants
        for number in range(variant.seeds)
    ]
    pool = Parallel(n_jobs=script.worker_count(), return_as="generator")
    try:
        with script.ignoring_interrupts():
            runs = pool(delayed(train_variant)(*job) for job in jobs)
        runs = iter(
            list(tqdm(runs, "task 1: studies", len(jobs), leave=False, disable=None))
        )
    except BrokenProcessPool as error:
        raise Failure(
            "a worker process died, perhaps from lack of memory; run the script again"
        ) from error
    return {
        name: [list(islice(runs, each.seeds)) for each in study]
        for name, study in studies.STUDIES.items()
    }


def gradient_norms(seed: int) -> np.ndarray:
    """Return `studies.layer_norms` [initializations, seeds, 2, layers] of the deepest
    networks, untrained.
    """
    hidden_channels, numbers = (
        (studies.WIDTH,) * studies.DEEPEST,
        range(seed, seed + studies.SEEDS),
    )
    deviations = [std for std, _, _ in studies.INITIALIZATIONS.values()]
    networks = [
        [MLP(2, hidden_channels, 2, number, weight_std=std) for number in numbers]
        for std in deviations
    ]
    return np.array(
        [
            [studies.layer_norms(*pair) for pair in zip(row, numbers, strict=True)]
            for row in networks
        ]
    )


def parse_options() -> argparse.Namespace:
    """Parse the flags of task 1."""
    parser = script.script_parser(__doc__)
    script.add_training_flags(parser, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    units = script.number_type(
        int,
        lambda number: 1 <= number <= 10**6,
        "a number of units; write layers as 30 30",
    )
    channels = {
        "type": units,
        "nargs": "*",
        "default": HIDDEN_CHANNELS,
        "metavar": "UNITS",
    }
    default = " ".join(map(str, np.atleast_1d(HIDDEN_CHANNELS)))
    help_text = (
        f"units of each hidden layer; none for a linear classifier (default: {default})"
    )
    parser.add_argument(
        "--hidden-channels", "--hidden_channels", **channels, help=help_text
    )
    parser.add_argument(
        "--no-studies",
        action="store_true",
        help="skip the studies of depth and normalization",
    )
    return script.parse(parser)


def main(options: argparse.Namespace) -> None:
    """Answer 1.1 to 1.4 in turn, with a study for task 5."""
    data = moons(seed=options.seed)
    mlp = MLP(hidden_channels=options.hidden_channels, seed=options.seed)
    errors = gradients.network_errors(mlp, data.x_train[:8], data.y_train[:8])  # 1.1

    def report(epoch: int, history: History) -> None:
        losses = "  ".join(
            f"{split} loss {history[f'{split}_loss'][-1]:.5f}"
            for split in ("train", "test")
        )
        print(f"epoch {epoch:2}/{options.epochs}  {losses}", flush=True)

    history = train(
        mlp,
        data,
        options.epochs,
        options.batch_size,
        options.learning_rate,
        options.seed,
        report,
    )  # 1.2
    accuracy = float(
        (mlp.forward(data.x_test).argmax(axis=1) == data.y_test).mean() * 100
    )
    print(f"test accuracy {accuracy:.2f} %")
    save_figure(
        training_figure(history, mlp.forward, data.x_test, data.y_test),
        options.figures,
        "task1_loss",
    )  # 1.3
    logits = mlp.logits(data.x_test)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        unshifted = logits - np.log(
            np.exp(logits).sum(axis=1, keepdims=True)
        )  # the sheet's C = 0
    difference = (
        np.nan_to_num(np.abs(unshifted - log_softmax(logits)), nan=1e300, posinf=1e300)
        .max()
        .item()
    )
    settings = {
        name: getattr(options, name)
        for name in ("epochs", "batch_size", "learning_rate")
    }
    settings["hidden_channels"] = [
        len(layer.bias) for layer in mlp.layers if isinstance(layer, Linear)
    ][:-1]
    results = {
        "gradient_check": errors,
        "difference_step": gradients.STEPS[0],
        "settings": settings,
        "history": history,
        "without_shift": {
            "largest_logit": float(np.abs(logits).max()),
            "difference": difference,
        },
        "test_points": len(data.y_test),
        "test_accuracy": accuracy,
    }
    script.save_results(options, "task1", results)
    if not options.no_studies:  # 1.4, 5
        print("training the networks of 1.4 and 5 …", flush=True)
        studies.save(train_studies(options.seed), gradient_norms(options.seed), options)
    print(f"written to {options.figures}: task1_*.png, task1_*.svg, task1*.json")


if __name__ == "__main__":
    script.run(main, parse_options())
