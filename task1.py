"""Task 1 · A multilayer perceptron and its backpropagation by hand, in NumPy, on the two moons.

Answers 1.1 to 1.4 of the sheet; writes figures/task1_*.png and figures/task1.json.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from common.moons import Moons, moons
from common.runtime import Failure, parse, positive_float, positive_int, run, save_results, script_parser


def parse_options() -> argparse.Namespace:
    """Parse the flags of task 1."""
    parser = script_parser(__doc__)
    parser.add_argument("--hidden-channels", type=positive_int, nargs="+", default=[30, 30], help="units of each layer")
    parser.add_argument("--epochs", type=positive_int, default=10, help="passes over the training points")
    parser.add_argument("--batch-size", type=positive_int, default=32, help="points per step")
    parser.add_argument("--learning-rate", type=positive_float, default=0.05, help="step size of gradient descent")
    return parse(parser)


options = parse_options() if __name__ == "__main__" else None  # --help does not wait for the slow imports below

from common.plotting import decision_regions, loss_curves, save_figure

# 1.1 Layers: forward, backward, update


class Linear:
    """Affine layer f(x) = x Wᵀ + b (sheet, task 1).

    With δ = ∂L/∂f [N, out] from above, the chain rule gives ∂L/∂W = δᵀ x, ∂L/∂b = Σₙ δₙ and ∂L/∂x = δ W.
    Weights start from N(0, 2 / in) (He initialization, arXiv 1502.01852), biases from zero.
    """

    def __init__(self, in_channels: int, out_channels: int, rng: np.random.Generator) -> None:
        self.weight = rng.normal(0, math.sqrt(2 / in_channels), (out_channels, in_channels))
        self.bias = np.zeros(out_channels)
        self.grad_weight = np.zeros_like(self.weight)
        self.grad_bias = np.zeros_like(self.bias)
        self.last_input: np.ndarray | None = None

    def forward(self, x: np.ndarray, remember: bool = False) -> np.ndarray:
        """Map x [N, in] to f [N, out]; `remember` keeps x for the backward pass."""
        if remember:
            self.last_input = x
        return x @ self.weight.T + self.bias

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
        return gradient * self.positive

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
        exponentials = np.exp(shift_logits(x))
        p = exponentials / exponentials.sum(axis=1, keepdims=True)
        if remember:
            self.last_output = p
        return p

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Turn ∂L/∂p [N, C] into ∂L/∂f [N, C]."""
        p = self.last_output
        return p * (gradient - (gradient * p).sum(axis=1, keepdims=True))

    def update(self, learning_rate: float) -> None:
        """Do nothing: there are no parameters."""


class CrossEntropyLoss:
    """Averaged cross-entropy L = -1/N Σₙ log p[n, yₙ] (sheet, task 1), so ∂L/∂p[n, j] = -1[j = yₙ] / (N p[n, j]).

    Probabilities that have underflowed to zero count as the smallest normal number, so that both stay finite.
    """

    def forward(self, p: np.ndarray, y: np.ndarray) -> float:
        """Return the mean loss of probabilities p [N, C] for integer classes y [N]."""
        self.p, self.y, self.rows = np.maximum(p, np.finfo(p.dtype).tiny), y, np.arange(len(y))
        return float(-np.log(self.p[self.rows, y]).mean())

    def backward(self) -> np.ndarray:
        """Return ∂L/∂p [N, C], the 1/N of the mean included."""
        gradient = np.zeros_like(self.p)
        gradient[self.rows, self.y] = -1 / (len(self.y) * self.p[self.rows, self.y])
        return gradient


def shift_logits(logits: np.ndarray) -> np.ndarray:
    """Subtract each row's maximum; the floor keeps even the difference of logits at ±1e308 finite."""
    with np.errstate(over="ignore"):
        return np.maximum(logits - logits.max(axis=1, keepdims=True), -1e300)


class MLP:
    """Linear layers and ReLUs in turn, a softmax after the last (sheet, task 1); no hidden layer: a linear classifier.

    The loss and its gradient are taken at the logits z, where the chain through softmax and cross-entropy closes to
    ∂L/∂z = (p - y) / N with y one-hot: nothing overflows and no small probability is divided by.
    """

    def __init__(
        self, in_channels: int = 2, hidden_channels: Sequence[int] = (30, 30), out_channels: int = 2, seed: int = 0
    ) -> None:
        rng = np.random.default_rng(seed)
        channels = (in_channels, *hidden_channels)
        self.layers: list[Any] = []
        for inputs, outputs in pairwise(channels):
            self.layers += [Linear(inputs, outputs, rng), ReLU()]
        self.layers += [Linear(channels[-1], out_channels, rng), Softmax()]

    def logits(self, x: np.ndarray, remember: bool = False) -> np.ndarray:
        """Map x [N, in] to what the softmax gets [N, out]."""
        for layer in self.layers[:-1]:
            x = layer.forward(x, remember)
        return x

    def forward(self, x: np.ndarray, remember: bool = False) -> np.ndarray:
        """Map x [N, in] to probabilities [N, out]; `remember` keeps what a backward pass needs."""
        return self.layers[-1].forward(self.logits(x, remember), remember)

    def loss(self, x: np.ndarray, y: np.ndarray, remember: bool = True) -> float:
        """Return the averaged cross-entropy log Σₖ exp zₖ - z_y for integer classes y [N]; `backward` may follow."""
        shifted = shift_logits(self.logits(x, remember))
        exponentials = np.exp(shifted)
        totals = exponentials.sum(axis=1)
        if remember:
            self.p, self.y = exponentials / totals[:, None], y
        return float((np.log(totals) - shifted[np.arange(len(y)), y]).mean())

    def backward(self) -> np.ndarray:
        """Set the gradients of the last `loss` in every layer, starting from (p - y) / N; return ∂L/∂x [N, in]."""
        gradient = self.p.copy()
        gradient[np.arange(len(self.y)), self.y] -= 1
        gradient /= len(self.y)
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
            with np.errstate(over="ignore", invalid="ignore"):
                loss = mlp.training_step(data.x_train[batch], data.y_train[batch], learning_rate)
            if not math.isfinite(loss):
                raise Failure(f"the loss is {loss} in epoch {epoch}, step {step}; take a smaller --learning-rate")
        history["train_loss"].append(mlp.loss(data.x_train, data.y_train, remember=False))
        history["test_loss"].append(mlp.loss(data.x_test, data.y_test, remember=False))
        report(epoch, history)
    return history


def main(options: argparse.Namespace) -> None:
    """Answer 1.2 to 1.4."""
    data = moons(seed=options.seed)
    mlp = MLP(hidden_channels=options.hidden_channels, seed=options.seed)

    def report(epoch: int, history: dict[str, list[float]]) -> None:
        losses = "  ".join(f"{split} loss {history[f'{split}_loss'][-1]:.5f}" for split in ("train", "test"))
        print(f"epoch {epoch:2}/{options.epochs}  {losses}", flush=True)

    history = train(mlp, data, options.epochs, options.batch_size, options.learning_rate, options.seed, report)  # 1.2
    accuracy = float((mlp.forward(data.x_test).argmax(axis=1) == data.y_test).mean() * 100)
    print(f"test accuracy {accuracy:.2f} %")

    settings = {name: getattr(options, name) for name in ("hidden_channels", "epochs", "batch_size", "learning_rate")}
    save_figure(loss_curves(history, log_y=True), options.figures / "task1_loss.png")  # 1.3
    save_figure(decision_regions(mlp.forward, data.x_test, data.y_test), options.figures / "task1_boundary.png")
    save_results(options, "task1", {"settings": settings, "history": history, "test_accuracy": accuracy})


if __name__ == "__main__":
    run(main, options)
