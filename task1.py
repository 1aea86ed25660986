"""Task 1 · A multilayer perceptron and its backpropagation by hand, in NumPy, on the two moons.

Answers 1.1 to 1.4 of the sheet, and task 5 by an experiment; writes figures/task1_*, task1.json and task1_studies.json.
To try another depth for 1.4:  python task1.py --no-studies --figures deeper --hidden-channels 30 30 30 30 30 30
"""

import argparse
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import pairwise

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from common import gradients, script, studies
from common.data import Moons, bayes_limit, moons
from common.normalization import normalization_layers
from common.plotting import HALO, MOON_COLOURS, PAGE_WIDTH, Figure, draw_history, plt, save_figure, styled
from common.script import Failure, check_labels, check_shape, saved_by_forward

HIDDEN_CHANNELS = (30, 30)  # change it here or by --hidden-channels (1.4); () is a linear classifier
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
        rng = np.random.default_rng() if rng is None else rng
        self.weight = rng.normal(0, math.sqrt(2 / in_channels), (out_channels, in_channels))
        self.bias = np.zeros(out_channels)
        self.grad_weight, self.grad_bias = np.zeros_like(self.weight), np.zeros_like(self.bias)
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
        check_shape(gradient, *positive.shape)  # NumPy would repeat a single row
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
    """Return log pⱼ = fⱼ + C - log Σₖ exp(fₖ + C), C = -max f, for logits f [N, C]; finite for logits up to ±1e300."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


class CrossEntropyLoss:
    """Averaged cross-entropy L = -1/N Σₙ log p[n, yₙ] (sheet, task 1), so ∂L/∂p[n, j] = -1[j = yₙ] / (N p[n, j]).

    Probabilities that have underflowed to zero count as the smallest normal number, so that both stay finite.
    """

    def __init__(self) -> None:
        self.last_input: tuple[np.ndarray, np.ndarray] | None = None

    def forward(self, p: np.ndarray, y: np.ndarray) -> float:
        """Return the mean loss of probabilities p [N, C] for integer classes y [N]."""
        check_labels(y, *p.shape)  # NumPy would take one-hot rows and -1 as indices as well
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

    Training goes past `Softmax` and `CrossEntropyLoss`: loss and gradient come from the logits z at once, by
    log p[n, y] = z_y - log Σₖ exp zₖ and ∂L/∂z = (p - y) / N with y one-hot, to which the chain through both layers
    reduces (tests compare them). Neither overflows nor divides by a small p.
    """

    def __init__(
        self,
        in_channels: int = 2,
        hidden_channels: Sequence[int] | int = HIDDEN_CHANNELS,
        out_channels: int = 2,
        seed: int = 0,
        normalization: str | None = None,
    ) -> None:
        rng = np.random.default_rng(seed)
        channels = (in_channels, *np.atleast_1d(hidden_channels).astype(int))
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

    def loss(self, x: np.ndarray, y: np.ndarray, remember: bool = False) -> float:
        """Return the averaged cross-entropy of x [N, in] and integer classes y [N].

        `remember` keeps what `backward` needs, and means training to the normalization layers.
        """
        check_shape(x, "N", self.layers[0].weight.shape[1])
        log_p = log_softmax(self.logits(x, remember))
        check_labels(y, *log_p.shape)
        if remember:
            self.last_loss = np.exp(log_p), y
        return float(-log_p[np.arange(len(y)), y].mean())

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
) -> History:
    """Train by stochastic gradient descent (1.2); return `train_loss` and `test_loss` of the full splits per epoch.

    The points are shuffled anew in every epoch; `report` is called after each. Raises `Failure` if training diverges.
    """
    x_train, y_train, x_test, y_test = data
    rng = np.random.default_rng(seed)
    history: History = {"train_loss": [], "test_loss": []}
    for epoch in range(1, epochs + 1):
        order = rng.permutation(len(x_train))
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow shows in the loss, which is checked
            for step, start in enumerate(range(0, len(order), batch_size), 1):
                batch = order[start : start + batch_size]
                loss = mlp.training_step(x_train[batch], y_train[batch], learning_rate)
                check_finite(loss, epoch, step)
            history["train_loss"].append(mlp.loss(x_train, y_train))
            history["test_loss"].append(mlp.loss(x_test, y_test))
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
    ticks = np.linspace(x.min(axis=0) - 0.08, x.max(axis=0) + 0.08, 500)  # [500, 2]
    grid = np.stack(np.meshgrid(*ticks.T), axis=-1)  # [500, 500, 2]
    regions = predict(grid.reshape(-1, 2)).argmax(axis=1).reshape(500, 500)
    right.contourf(*ticks.T, regions, levels=[-0.5, 0.5, 1.5], colors=MOON_COLOURS, alpha=0.2)
    right.contour(*ticks.T, regions, levels=[0.5], colors="black", linewidths=1)
    right.scatter(*x.T, c=np.array(MOON_COLOURS)[y], s=3, linewidths=0, rasterized=True)
    wrong = x[predict(x).argmax(axis=1) != y]
    right.scatter(*wrong.T, s=45, facecolors="none", edgecolors="black", linewidths=0.8)
    style = {"va": "center", "transform": right.transAxes, "path_effects": HALO, "fontweight": "bold", "fontsize": 7}
    right.text(0.55, 0.93, "upper moon", color=MOON_COLOURS[0], ha="left", **style)
    right.text(0.45, 0.07, "lower moon", color=MOON_COLOURS[1], ha="right", **style)
    title = f"{len(wrong):,} of {len(x):,} test points wrong" + (" (ringed)" if len(wrong) else "")
    right.set(title=title, xlabel="$x_1$ (scaled)", ylabel="$x_2$ (scaled)")
    return figure


# 1.4 and 5: other depths, initializations and normalizations


def train_variant(variant: studies.Variant, seed: int) -> np.ndarray:
    """Train one network of a study; return its train and test losses [2, epochs], NaN from where it diverges."""
    mlp = MLP(hidden_channels=(studies.WIDTH,) * variant.depth, seed=seed, normalization=variant.normalization)
    rescale_weights(mlp, variant.weight_std)
    data = moons(variant.points, variant.test_points, variant.noise, seed)
    losses: list[list[float]] = []
    with suppress(Failure):
        settings = variant.epochs, variant.batch_size, variant.learning_rate, seed
        train(mlp, data, *settings, lambda _, history: losses.append([values[-1] for values in history.values()]))
    return np.transpose(losses + [[np.nan, np.nan]] * (variant.epochs - len(losses)))


def rescale_weights(mlp: MLP, std: float | None) -> None:
    """Rescale the weights of a new network from He's standard deviation, √(2 / in), to the given one; None keeps it."""
    for layer in mlp.layers:
        if std is not None and isinstance(layer, Linear):
            layer.weight *= std / math.sqrt(2 / layer.weight.shape[1])


def train_study(name: str, seed: int) -> np.ndarray:
    """Train all variants of a study with several seeds, on all cores; return losses [variants, seeds, 2, epochs]."""
    variants, seeds = studies.STUDIES[name], range(seed, seed + studies.SEEDS)
    jobs = [(variant, number) for variant in variants for number in seeds][::-1]  # the longest first
    folder = os.environ.get("JOBLIB_TEMP_FOLDER") or tempfile.gettempdir()  # joblib needs its name in ASCII
    pool = Parallel(n_jobs=-1 if folder.isascii() else 1, return_as="generator")
    try:
        runs = pool(delayed(train_variant)(*job) for job in jobs)
        losses = list(tqdm(runs, f"task 1: {name.replace('_', ' ')}", len(jobs), leave=False, disable=None))
    except BrokenProcessPool as error:
        raise Failure("a worker process died, perhaps from lack of memory; run the script again") from error
    return np.reshape(losses[::-1], (len(variants), len(seeds), 2, -1))


def gradient_norms(seed: int) -> np.ndarray:
    """Return norms [initializations, 2, seeds, layers] in the linear layers of untrained networks, the deepest.

    The first of the two is the norm of ∂L/∂f, which arrives at the output of the layer, the second that of ∂L/∂W.
    """
    norms = []
    for std, _, _ in studies.INITIALIZATIONS.values():
        for number in range(seed, seed + studies.SEEDS):
            mlp = MLP(hidden_channels=(studies.WIDTH,) * studies.DEEPEST, seed=number)
            rescale_weights(mlp, std)
            x, y, _, _ = moons(256, 2, seed=number)  # two test points, the fewest there are, go unused
            gradient = (mlp.forward(x, remember=True) - np.eye(2)[y]) / len(y)  # ∂L/∂z
            pairs = []
            for layer in reversed(mlp.layers[:-1]):
                arriving, gradient = gradient, layer.backward(gradient)
                if isinstance(layer, Linear):
                    pairs.append([np.linalg.norm(arriving), np.linalg.norm(layer.grad_weight)])
            norms.append(pairs[::-1])
    return np.reshape(norms, (len(studies.INITIALIZATIONS), studies.SEEDS, -1, 2)).transpose(0, 3, 1, 2)


def run_studies(options: argparse.Namespace) -> None:
    """Train networks of other depths (1.4), initializations and normalizations (5); save results and figures."""
    losses = {name: train_study(name, options.seed) for name in studies.STUDIES}
    rows = {name: studies.summarize(studies.STUDIES[name], losses[name]) for name in losses}
    limits = {name: bayes_limit(rows[name][0]["noise"]) for name in ("sheet", "scarce")}
    for name in limits:
        studies.print_depths(rows[name])
    norms = gradient_norms(options.seed)
    save_figure(studies.depth_figure(losses, limits), options.figures, "task1_depth")
    save_figure(studies.gradient_figure(norms), options.figures, "task1_gradients")
    save_figure(studies.normalization_figure(rows["normalization"]), options.figures, "task1_normalization")
    means = dict(zip(studies.INITIALIZATIONS, norms.mean(axis=2).tolist(), strict=True))
    results = {"settings": {"seeds": studies.SEEDS, "width": studies.WIDTH}, "bayes_loss_and_accuracy": limits}
    script.save_results(options, "task1_studies", {**results, "gradient_norms_f_and_w": means, **rows})


def parse_options() -> argparse.Namespace:
    """Parse the flags of task 1."""
    parser = script.script_parser(__doc__)
    script.add_training_flags(parser, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    units = script.number_type(int, lambda number: 1 <= number <= 10**6, "a number of units; write layers as 30 30")
    channels = {"type": units, "nargs": "*", "default": HIDDEN_CHANNELS, "metavar": "UNITS"}
    help_text = "units of each hidden layer, for example 30 30 30 30; none for a linear classifier"
    parser.add_argument("--hidden-channels", "--hidden_channels", **channels, help=help_text)
    parser.add_argument("--no-studies", action="store_true", help="leave out the studies of depth and normalization")
    return script.parse(parser)


def main(options: argparse.Namespace) -> None:
    """Answer 1.1 to 1.4, and task 5 by an experiment."""
    data = moons(seed=options.seed)
    mlp = MLP(hidden_channels=options.hidden_channels, seed=options.seed)
    errors = gradients.network_errors(mlp, data.x_train[:8], data.y_train[:8])  # 1.1

    def report(epoch: int, history: History) -> None:
        losses = "  ".join(f"{split} loss {history[f'{split}_loss'][-1]:.5f}" for split in ("train", "test"))
        print(f"epoch {epoch:2}/{options.epochs}  {losses}", flush=True)

    history = train(mlp, data, options.epochs, options.batch_size, options.learning_rate, options.seed, report)  # 1.2
    accuracy = float((mlp.forward(data.x_test).argmax(axis=1) == data.y_test).mean() * 100)
    print(f"test accuracy {accuracy:.2f} %")
    save_figure(training_figure(history, mlp.forward, data.x_test, data.y_test), options.figures, "task1_loss")  # 1.3
    settings = {name: getattr(options, name) for name in ("epochs", "batch_size", "learning_rate")}
    hidden_channels = [len(layer.bias) for layer in mlp.layers if isinstance(layer, Linear)][:-1]
    results = {
        "gradient_check": errors,
        "difference_step": gradients.STEPS[0],
        "settings": {"hidden_channels": hidden_channels, **settings},
        "history": history,
        "test_points": len(data.y_test),
        "test_accuracy": accuracy,
    }
    script.save_results(options, "task1", results)
    if not options.no_studies:
        run_studies(options)  # 1.4, 5
    print(f"written to {options.figures}: task1_*.png, task1_*.svg, task1*.json")


if __name__ == "__main__":
    script.run(main, parse_options())
