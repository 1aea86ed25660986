"""Task 1 · A multilayer perceptron and its backpropagation by hand, in NumPy, on the two moons.

Answers 1.1 to 1.4 of the sheet; writes figures/task1_*.png and figures/task1.json.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from common.checks import check_shape, remembered
from common.gradient_check import network_errors
from common.losses import CrossEntropyLoss, Softmax, softmax_cross_entropy, softmax_cross_entropy_gradient
from common.moons import Moons, moons
from common.normalization import normalization_layers
from common.runtime import Failure, parse, positive_float, positive_int, run, save_results, script_parser

__all__ = ["MLP", "CrossEntropyLoss", "Linear", "ReLU", "Softmax", "moons", "train"]


def parse_options() -> argparse.Namespace:
    """Parse the flags of task 1."""
    parser = script_parser(__doc__)
    parser.add_argument("--hidden-channels", type=positive_int, nargs="+", default=[30, 30], help="units of each layer")
    parser.add_argument("--epochs", type=positive_int, default=10, help="passes over the training points")
    parser.add_argument("--batch-size", type=positive_int, default=32, help="points per step")
    parser.add_argument("--learning-rate", type=positive_float, default=0.05, help="step size of gradient descent")
    parser.add_argument(
        "--check-gradients",
        nargs="?",
        type=Path,
        const=Path(__file__),
        metavar="FILE",
        help="only check the gradients, of this solution or of the one in FILE",
    )
    return parse(parser)


options = parse_options() if __name__ == "__main__" else None  # --help does not wait for the slow imports below

from common import studies, study_figures
from common.plotting import decision_regions, loss_curves, save_figure

# 1.1 Layers: forward, backward, update


class Linear:
    """Affine layer f(x) = x Wᵀ + b (sheet, task 1).

    With δ = ∂L/∂f [N, out] from above, the chain rule gives ∂L/∂W = δᵀ x, ∂L/∂b = Σₙ δₙ and ∂L/∂x = δ W.
    Weights start from N(0, 2 / in) (He initialization, arXiv 1502.01852), biases from zero.
    """

    def __init__(self, in_channels: int, out_channels: int, rng: np.random.Generator) -> None:
        if min(in_channels, out_channels) < 1:
            raise ValueError(f"expected at least one channel in and out, got {in_channels} and {out_channels}")
        self.weight = rng.normal(0, math.sqrt(2 / in_channels), (out_channels, in_channels))
        self.bias = np.zeros(out_channels)
        self.grad_weight = np.zeros_like(self.weight)
        self.grad_bias = np.zeros_like(self.bias)
        self.last_input: np.ndarray | None = None

    def forward(self, x: np.ndarray, remember: bool = False) -> np.ndarray:
        """Map x [N, in] to f [N, out]; `remember` keeps x for the backward pass."""
        check_shape(x, None, self.weight.shape[1])
        if remember:
            self.last_input = x
        return x @ self.weight.T + self.bias

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Turn ∂L/∂f [N, out] into ∂L/∂x [N, in]; set `grad_weight` and `grad_bias`."""
        x = remembered(self.last_input)
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
        positive = remembered(self.positive)
        check_shape(gradient, *positive.shape)
        return gradient * positive

    def update(self, learning_rate: float) -> None:
        """Do nothing: there are no parameters."""


class MLP:
    """Linear layers and ReLUs in turn, a softmax after the last (sheet, task 1); no hidden layer: a linear classifier.

    `normalization` "batch" or "layer" puts that layer between each hidden linear layer and its ReLU (sheet, task 5).

    The loss and its gradient are taken at the logits z, where the chain through softmax and cross-entropy closes to
    ∂L/∂z = (p - y) / N with y one-hot: nothing overflows and no small probability is divided by.
    """

    def __init__(
        self,
        in_channels: int = 2,
        hidden_channels: Sequence[int] = (30, 30),
        out_channels: int = 2,
        seed: int = 0,
        normalization: str | None = None,
    ) -> None:
        rng = np.random.default_rng(seed)
        channels = (in_channels, *hidden_channels)
        self.layers: list[Any] = []
        for inputs, outputs in pairwise(channels):
            self.layers += [Linear(inputs, outputs, rng), *normalization_layers(normalization, outputs), ReLU()]
        self.layers += [Linear(channels[-1], out_channels, rng), Softmax()]
        self.last_loss: tuple[np.ndarray, np.ndarray] | None = None

    def logits(self, x: np.ndarray, remember: bool = False) -> np.ndarray:
        """Map x [N, in] to what the softmax gets [N, out]."""
        for layer in self.layers[:-1]:
            x = layer.forward(x, remember)
        return x

    def forward(self, x: np.ndarray, remember: bool = False) -> np.ndarray:
        """Map x [N, in] to probabilities [N, out]; `remember` keeps what a backward pass needs."""
        return self.layers[-1].forward(self.logits(x, remember), remember)

    def loss(self, x: np.ndarray, y: np.ndarray, remember: bool = True) -> float:
        """Return the averaged cross-entropy of x [N, in] and integer classes y [N]; `backward` may follow."""
        loss, p = softmax_cross_entropy(self.logits(x, remember), y)
        if remember:
            self.last_loss = p, y
        return loss

    def backward(self) -> np.ndarray:
        """Set the gradients of the last `loss` in every layer, starting from (p - y) / N; return ∂L/∂x [N, in]."""
        gradient = softmax_cross_entropy_gradient(*remembered(self.last_loss))
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


# 1.2 The training routine


@np.errstate(over="ignore", invalid="ignore")  # what overflows shows in the loss, which is checked
def train(
    mlp: MLP,
    data: Moons,
    epochs: int = 10,
    batch_size: int = 32,
    learning_rate: float = 0.05,
    seed: int = 0,
    report: Callable[[int, dict[str, list[float]]], None] = lambda epoch, history: None,
) -> dict[str, list[float]]:
    """Train by stochastic gradient descent; return `train_loss` and `test_loss` of whole splits after every epoch.

    The points are shuffled anew for every epoch; `report` is called after each. Raises `Failure` when the loss is no
    longer finite.
    """
    rng = np.random.default_rng(seed)
    history: dict[str, list[float]] = {"train_loss": [], "test_loss": []}
    for epoch in range(1, epochs + 1):
        order = rng.permutation(len(data.x_train))
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


def main(options: argparse.Namespace) -> None:
    """Answer 1.2 to 1.4, and task 5 by an experiment."""
    if options.check_gradients:  # 1.1
        from common import solution_check  # needs PyTorch, which the rest of task 1 does not

        return solution_check.report(solution_check.check_file(options.check_gradients))

    data = moons(seed=options.seed)
    mlp = MLP(hidden_channels=options.hidden_channels, seed=options.seed)

    def report(epoch: int, history: dict[str, list[float]]) -> None:
        losses = "  ".join(f"{split} loss {history[f'{split}_loss'][-1]:.5f}" for split in ("train", "test"))
        print(f"epoch {epoch:2}/{options.epochs}  {losses}", flush=True)

    history = train(mlp, data, options.epochs, options.batch_size, options.learning_rate, options.seed, report)  # 1.2
    accuracy = float((mlp.forward(data.x_test).argmax(axis=1) == data.y_test).mean() * 100)
    print(f"test accuracy {accuracy:.2f} %")

    settings = {name: getattr(options, name) for name in ("hidden_channels", "epochs", "batch_size", "learning_rate")}
    histories = studies.train_all(MLP, train, options.seed)  # 1.4 and 5
    depths = studies.summarize_depths(histories, options.seed)
    norms = studies.gradient_norms(MLP, options.seed)
    figures = {
        "loss": loss_curves(history, log_y=True),  # 1.3
        "boundary": decision_regions(mlp.forward, data.x_test, data.y_test),
        "depth": study_figures.depth_figure(depths),
        "overfitting": study_figures.overfitting_figure(histories, options.seed),
        "gradients": study_figures.gradient_figure(norms),
        "normalization": study_figures.normalization_figure(histories, options.seed),
    }
    for name, figure in figures.items():
        save_figure(figure, options.figures / f"task1_{name}.png")
    results = {
        "gradient_check": network_errors(MLP(seed=options.seed), data.x_train[:32], data.y_train[:32]),  # 1.1
        "settings": settings,
        "history": history,
        "test_accuracy": accuracy,
        "studies": studies.describe(),
        "depth": depths,
        "unstable": studies.summarize_unstable(histories, options.seed),
        "gradient_norms": studies.summarize_gradients(norms),
        "normalization": studies.summarize_normalization(histories, options.seed),
    }
    save_results(options, "task1", results)


if __name__ == "__main__":
    run(main, options)
