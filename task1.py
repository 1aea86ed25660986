"""Task 1 · A multilayer perceptron and its backpropagation by hand, in NumPy, on the two moons.

Answers 1.1 to 1.4 of the sheet, and task 5 by an experiment; writes figures/task1_*, task1.json and task1_studies.json.
To try another depth for 1.4:  python task1.py --no-studies --figures deeper --hidden-channels 30 30 30 30 30 30
"""

import argparse
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from common import gradients, studies
from common.checks import Failure, check_labels, check_shape, saved_by_forward
from common.data import Moons, bayes_limit, moons
from common.normalization import normalization_layers
from common.plotting import HALO, MOON_COLOURS, PAGE_WIDTH, draw_history, save_figure, styled
from common.runtime import add_training_flags, parse, positive_int, run, save_results, script_parser

HIDDEN_CHANNELS = (30, 30)  # change it here or by --hidden-channels (1.4)
EPOCHS = 10
BATCH_SIZE = 32
LEARNING_RATE = 0.05
History = dict[str, list[float]]


class Linear:
    """Affine layer f(x) = x Wᵀ + b (sheet, task 1).

    With δ = ∂L/∂f [N, out] from above, the chain rule gives ∂L/∂W = δᵀ x, ∂L/∂b = Σₙ δₙ and ∂L/∂x = δ W.
    Weights start from N(0, 2 / in) (He initialization, arXiv 1502.01852), biases from zero.
    """

    def __init__(self, in_channels: int, out_channels: int, rng: np.random.Generator | None = None) -> None:
        if min(in_channels, out_channels) < 1:
            raise ValueError(f"expected at least one channel in and out, got {in_channels} and {out_channels}")
        rng = np.random.default_rng(0) if rng is None else rng
        self.weight = rng.normal(0, math.sqrt(2 / in_channels), (out_channels, in_channels))
        self.bias = np.zeros(out_channels)
        self.grad_weight, self.grad_bias = np.zeros_like(self.weight), np.zeros_like(self.bias)
        self.last_input: np.ndarray | None = None

    def forward(self, x: np.ndarray, remember: bool = False) -> np.ndarray:
        """Map x [N, in] to f [N, out]; `remember` keeps x for the backward pass."""
        check_shape(x, "N", self.weight.shape[1])
        if remember:
            self.last_input = x
        return x @ self.weight.T + self.bias

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Turn ∂L/∂f [N, out] into ∂L/∂x [N, in]; set `grad_weight` and `grad_bias`."""
        x = saved_by_forward(self.last_input)
        check_shape(gradient, len(x), len(self.weight))
        self.grad_weight = gradient.T @ x  # [out, in]
        self.grad_bias = gradient.sum(axis=0)  # [out]
        return gradient @ self.weight  # [N, in]

    def update(self, learning_rate: float) -> None:
        """Take one step of gradient descent."""
        self.weight -= learning_rate * self.grad_weight
        self.bias -= learning_rate * self.grad_bias


class ReLU:
    """Rectifier g(f) = max(0, f), element by element (sheet, task 1).

    ∂L/∂f = ∂L/∂g where f > 0, else 0. At exactly f = 0, where g has no derivative, we take 0, as PyTorch does.
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
        check_shape(gradient, *positive.shape)
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
        """Map logits f [N, C] to probabilities p [N, C]; `remember` keeps them for the backward pass."""
        check_shape(x, "N", "C")
        exponentials = np.exp(shift_logits(x))
        p = exponentials / exponentials.sum(axis=1, keepdims=True)
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


def shift_logits(logits: np.ndarray) -> np.ndarray:
    """Add C = -max f to each row; the floor keeps even the difference of logits at ±1e308 finite."""
    with np.errstate(over="ignore"):
        return np.maximum(logits - logits.max(axis=1, keepdims=True), -1e300)


class CrossEntropyLoss:
    """Averaged cross-entropy L = -1/N Σₙ log p[n, yₙ] (sheet, task 1), so ∂L/∂p[n, j] = -1[j = yₙ] / (N p[n, j]).

    Probabilities that have underflowed to zero count as the smallest normal number, so that both stay finite.
    """

    def __init__(self) -> None:
        self.last_input: tuple[np.ndarray, np.ndarray] | None = None

    def forward(self, p: np.ndarray, y: np.ndarray) -> float:
        """Return the mean loss of probabilities p [N, C] for integer classes y [N]."""
        check_shape(p, "N", "C")
        check_labels(y, *p.shape)
        p = np.maximum(p, np.finfo(p.dtype).tiny)
        self.last_input = p, y
        return float(-np.log(p[np.arange(len(y)), y]).mean())

    def backward(self) -> np.ndarray:
        """Return ∂L/∂p [N, C], the 1/N of the mean included."""
        p, y = saved_by_forward(self.last_input)
        return -np.eye(p.shape[1])[y] / (len(y) * p)  # [N, C], y one-hot


class MLP:
    """Alternating linear layers and ReLUs, a softmax after the last linear layer (sheet, task 1).

    `hidden_channels=()` is a linear classifier. `normalization` "batch" or "layer" puts that layer between each hidden
    linear layer and its ReLU (sheet, task 5).

    Loss and gradient are computed from the logits z: log p[n, y] = z_y - log Σₖ exp zₖ, and the chain through
    cross-entropy and softmax reduces to ∂L/∂z = (p - y) / N with y one-hot. Neither overflows nor divides by a small p.
    """

    def __init__(
        self,
        in_channels: int = 2,
        hidden_channels: Sequence[int] = HIDDEN_CHANNELS,
        out_channels: int = 2,
        seed: int = 0,
        normalization: str | None = None,
    ) -> None:
        rng = np.random.default_rng(seed)
        channels = (in_channels, *hidden_channels)
        self.layers = []
        for inputs, outputs in pairwise(channels):
            self.layers += [Linear(inputs, outputs, rng), *normalization_layers(normalization, outputs), ReLU()]
        self.layers += [Linear(channels[-1], out_channels, rng), Softmax()]
        self.last_loss: tuple[np.ndarray, np.ndarray] | None = None

    def logits(self, x: np.ndarray, remember: bool = False) -> np.ndarray:
        """Map x [N, in] to the input of the softmax [N, out]."""
        if remember:
            self.last_loss = None  # the layers forget the batch of an earlier loss
        for layer in self.layers[:-1]:
            x = layer.forward(x, remember)
        return x

    def forward(self, x: np.ndarray, remember: bool = False) -> np.ndarray:
        """Map x [N, in] to probabilities [N, out]; `remember` keeps what the layers' backward passes need."""
        return self.layers[-1].forward(self.logits(x, remember), remember)

    def loss(self, x: np.ndarray, y: np.ndarray, remember: bool = True) -> float:
        """Return the averaged cross-entropy of x [N, in] and integer classes y [N]; `backward` may follow."""
        shifted = shift_logits(self.logits(x, remember))
        check_labels(y, *shifted.shape)
        exponentials = np.exp(shifted)
        totals = exponentials.sum(axis=1)
        if remember:
            self.last_loss = exponentials / totals[:, None], y
        return float((np.log(totals) - shifted[np.arange(len(y)), y]).mean())

    def backward(self) -> np.ndarray:
        """Set the gradients of the last `loss` in every layer; return ∂L/∂x [N, in]."""
        p, y = saved_by_forward(self.last_loss)
        gradient = (p - np.eye(p.shape[1])[y]) / len(y)  # ∂L/∂z [N, out]
        for layer in reversed(self.layers[:-1]):
            gradient = layer.backward(gradient)
        return gradient

    def update(self, learning_rate: float) -> None:
        """Take one step of gradient descent in every layer."""
        for layer in self.layers:
            layer.update(learning_rate)

    def training_step(self, x: np.ndarray, y: np.ndarray, learning_rate: float) -> float:
        """Learn from one batch; return its loss before the step."""
        loss = self.loss(x, y)
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
) -> History:
    """Train by stochastic gradient descent (1.2); return `train_loss` and `test_loss` of the full splits per epoch.

    The points are shuffled anew in every epoch; `report` is called after each. Raises `Failure` if training diverges.
    """
    rng = np.random.default_rng(seed)
    history: History = {"train_loss": [], "test_loss": []}
    for epoch in range(1, epochs + 1):
        order = rng.permutation(len(data.x_train))
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow shows in the loss, which is checked
            for step, start in enumerate(range(0, len(order), batch_size), 1):
                batch = order[start : start + batch_size]
                loss = mlp.training_step(data.x_train[batch], data.y_train[batch], learning_rate)
                check_finite(loss, epoch, step)
            history["train_loss"].append(mlp.loss(data.x_train, data.y_train, remember=False))
            history["test_loss"].append(mlp.loss(data.x_test, data.y_test, remember=False))
        check_finite(history["train_loss"][-1] + history["test_loss"][-1], epoch, step)
        report(epoch, history)
    return history


def check_finite(loss: float, epoch: int, step: int) -> None:
    """Raise `Failure` when training has diverged."""
    if not math.isfinite(loss):
        raise Failure(f"the loss is {loss} in epoch {epoch}, step {step}; take a smaller --learning-rate")


@styled
def training_figure(history: History, predict: Callable[..., np.ndarray], x: np.ndarray, y: np.ndarray) -> Figure:
    """Draw the losses over the epochs, and test points x [N, 2] over the decision regions of `predict` (1.3).

    `predict` maps points [M, 2] to probabilities [M, 2]; points on the wrong side of the boundary are ringed.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.1), width_ratios=[1, 1.25])
    draw_history(left, history, "loss", 4)
    left.set(ylabel="loss (nats)", yscale="log", ymargin=0.12)
    ticks = np.linspace(x.min(axis=0) - 0.08, x.max(axis=0) + 0.08, 300)  # [300, 2]
    grid = np.stack(np.meshgrid(*ticks.T), axis=-1)  # [300, 300, 2]
    probability = predict(grid.reshape(-1, 2))[:, 1].reshape(300, 300)
    right.contourf(*ticks.T, probability, levels=[0, 0.5, 1], colors=MOON_COLOURS, alpha=0.2)
    right.contour(*ticks.T, probability, levels=[0.5], colors="black", linewidths=1)
    right.scatter(*x.T, c=np.array(MOON_COLOURS)[y], s=3, linewidths=0, rasterized=True)
    wrong = x[predict(x).argmax(axis=1) != y]
    right.scatter(*wrong.T, s=45, facecolors="none", edgecolors="black", linewidths=0.8)
    style = {"va": "center", "transform": right.transAxes, "path_effects": HALO, "fontweight": "bold", "fontsize": 7}
    right.text(0.55, 0.93, "upper moon", color=MOON_COLOURS[0], ha="left", **style)
    right.text(0.45, 0.07, "lower moon", color=MOON_COLOURS[1], ha="right", **style)
    title = f"{len(wrong):,} of {len(x):,} test points wrong" + (" (ringed)" if len(wrong) else "")
    right.set(title=title, xlabel="$x_1$ (scaled)", ylabel="$x_2$ (scaled)")
    return figure


def run_studies(options: argparse.Namespace) -> None:
    """Train networks of other depths (1.4), initializations and normalizations (5); save results and figures."""
    losses, rows = {}, {}
    for name, variants in studies.STUDIES.items():
        losses[name], errors = studies.train_all(MLP, train, variants, options.seed, name.replace("_", " "))
        rows[name] = studies.summarize(variants, losses[name], errors)
        if name in ("sheet", "scarce"):
            studies.print_depths(rows[name])
    norms = studies.gradient_norms(MLP, options.seed)
    limits = {name: bayes_limit(rows[name][0]["noise"]) for name in ("sheet", "scarce")}
    save_figure(studies.depth_figure(losses, limits), options.figures, "task1_depth")
    save_figure(studies.gradient_figure(norms), options.figures, "task1_gradients")
    save_figure(studies.normalization_figure(rows["normalization"]), options.figures, "task1_normalization")
    settings = {"seeds": studies.SEEDS, "width": studies.WIDTH, "turned": studies.TURNED, "batch_size": BATCH_SIZE}
    means = dict(zip(studies.INITIALIZATIONS, norms.mean(axis=2).tolist(), strict=True))
    results = {"settings": settings, "bayes_loss_and_accuracy": limits, "gradient_norms_f_and_w": means, **rows}
    save_results(options, "task1_studies", results)


def parse_options() -> argparse.Namespace:
    """Parse the flags of task 1."""
    parser = script_parser(__doc__)
    add_training_flags(parser, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    channels = {"type": positive_int, "nargs": "+", "default": HIDDEN_CHANNELS, "metavar": "UNITS"}
    help_text = "units of each hidden layer, for example 30 30 30 30"
    parser.add_argument("--hidden-channels", "--hidden_channels", **channels, help=help_text)
    parser.add_argument("--no-studies", action="store_true", help="leave out the studies of depth and normalization")
    file = {"nargs": "?", "type": Path, "const": Path(__file__), "metavar": "FILE"}
    parser.add_argument("--check-gradients", **file, help="only check the gradients, of this solution or of FILE")
    return parse(parser)


def main(options: argparse.Namespace) -> None:
    """Answer 1.1 to 1.4, and task 5 by an experiment."""
    if options.check_gradients:  # 1.1
        return gradients.report(gradients.check_file(options.check_gradients))

    data = moons(seed=options.seed)
    mlp = MLP(hidden_channels=options.hidden_channels, seed=options.seed)

    def report(epoch: int, history: History) -> None:
        losses = "  ".join(f"{split} loss {history[f'{split}_loss'][-1]:.5f}" for split in ("train", "test"))
        print(f"epoch {epoch:2}/{options.epochs}  {losses}", flush=True)

    history = train(mlp, data, options.epochs, options.batch_size, options.learning_rate, options.seed, report)  # 1.2
    accuracy = float((mlp.forward(data.x_test).argmax(axis=1) == data.y_test).mean() * 100)
    print(f"test accuracy {accuracy:.2f} %")
    save_figure(training_figure(history, mlp.forward, data.x_test, data.y_test), options.figures, "task1_loss")  # 1.3
    settings = ("hidden_channels", "epochs", "batch_size", "learning_rate")
    results = {
        "gradient_check": gradients.network_errors(MLP(seed=options.seed), data.x_train[:8], data.y_train[:8]),  # 1.1
        "difference_step": gradients.STEPS[0],
        "settings": {name: getattr(options, name) for name in settings},
        "history": history,
        "test_points": len(data.y_test),
        "test_accuracy": accuracy,
    }
    save_results(options, "task1", results)
    if not options.no_studies:
        run_studies(options)  # 1.4, 5
    print(f"left in {options.figures}: task1_*.png, task1_*.svg, task1*.json")


if __name__ == "__main__":
    run(main, parse_options())
