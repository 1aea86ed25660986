"""How the first weights decide whether a deep network can be trained (sheet, 1.4)."""

import math
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from common.data import moons
from common.plotting import PAGE_WIDTH, styled
from common.studies import DEEPEST, SEEDS, WIDTH, Network, Train, Variant, list_runs, scale_weights, train_all

UNSTABLE_DEPTHS = (2, 4, 6, 8, 12)
GRADIENT_POINTS = 256
# Of the weights: standard deviation (None is He's √(2 / in)), colour and name in the figure
INITIALIZATIONS = {
    "large": (1.0, "#d7301f", r"$\mathcal{N}(0, 1)$"),
    "He": (None, "#000000", "He"),
    "small": (0.1, "#41b6c4", r"$\mathcal{N}(0, 0.1^2)$"),
}


def initialization_study(network: Network, train: Train, seed: int) -> np.ndarray:
    """Train two epochs from N(0, 1) weights at several depths, and last the deepest network from N(0, 0.1²) weights.

    Returns losses [variants, seeds, 2, epochs].
    """
    variants = [Variant(depth, epochs=2, weight_std=INITIALIZATIONS["large"][0]) for depth in UNSTABLE_DEPTHS]
    variants.append(Variant(DEEPEST, points=1000, epochs=2, weight_std=INITIALIZATIONS["small"][0]))
    return train_all(network, train, variants, seed, "large and small first weights")[0]


def summarize(losses: np.ndarray) -> dict[str, Any]:
    """Return how many runs from large weights diverged, by depth, and the final train loss of those from small ones."""
    diverged = np.isnan(losses[:, :, 1, -1]).sum(axis=1)
    rows = [{"depth": depth, "diverged": int(n)} for depth, n in zip(UNSTABLE_DEPTHS, diverged, strict=False)]
    return {"large": rows, "small": list_runs(losses[-1, :, 0, -1])}


class _Probe:
    """A layer that changes nothing and keeps the norm of the gradient that passes."""

    def forward(self, x: np.ndarray, remember: bool = False) -> np.ndarray:
        return x

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        self.norm = np.linalg.norm(gradient)
        return gradient


def gradient_norms(network: Network, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Return, per initialization, norms [seeds, 13] in new networks of twelve hidden layers.

    `weight` is the norm of ∂L/∂W of each linear layer, `output` that of ∂L/∂f, which arrives at its output.
    """
    norms = {}
    for name, (std, _, _) in INITIALIZATIONS.items():
        weight, output = [], []
        for number in range(seed, seed + SEEDS):
            mlp = network(hidden_channels=(WIDTH,) * DEEPEST, seed=number)
            scale_weights(mlp, std)
            linear = [layer for layer in mlp.layers if hasattr(layer, "weight")]
            probes = [_Probe() for _ in linear]
            for layer, probe in zip(linear, probes, strict=True):
                mlp.layers.insert(mlp.layers.index(layer) + 1, probe)
            data = moons(GRADIENT_POINTS, 2, seed=number)
            mlp.loss(data.x_train, data.y_train)
            mlp.backward()
            weight.append([np.linalg.norm(layer.grad_weight) for layer in linear])
            output.append([probe.norm for probe in probes])
        norms[name] = {"weight": np.array(weight), "output": np.array(output)}
    return norms


def summarize_norms(norms: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, list[float]]]:
    """Return the mean norms over the seeds, per initialization and layer."""
    return {name: {kind: values.mean(axis=0).tolist() for kind, values in row.items()} for name, row in norms.items()}


@styled
def gradient_figure(norms: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Draw the norms [seeds, 13] of ∂L/∂f and ∂L/∂W in every layer of a new network, per initialization.

    Dots are means with a whisker from the least to the greatest; dashed is the law √(nσ²/2) per layer.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 1.95), sharey=True)
    layers = np.arange(1, DEEPEST + 2)
    for key, (deviation, colour, name) in INITIALIZATIONS.items():
        for axes, kind in ((left, "output"), (right, "weight")):
            values = norms[key][kind]
            axes.vlines(layers, values.min(axis=0), values.max(axis=0), color=colour, linewidth=0.8)
            axes.plot(layers, values.mean(axis=0), "o", color=colour)
        factor = 1 if deviation is None else deviation * math.sqrt(WIDTH / 2)
        law = norms[key]["output"][:, -2].mean() * factor ** np.arange(DEEPEST - 1, -1, -1.0)
        left.plot(layers[:-1], law, "--", color=colour, linewidth=0.8)
        up = {"xytext": (5, 5), "textcoords": "offset points", "va": "bottom", "color": colour}
        down = {**up, "xytext": (5, -5), "va": "top"}
        at = 0 if key == "He" else 5
        left.annotate(f"{name}: ×{factor:.2g} per layer", (at + 1, law[at]), **(down if key == "small" else up))
        right.annotate(name, (6, norms[key]["weight"][:, 5:8].mean()), **(down if key == "large" else up))
    left.text(0.98, 0.97, "← backward", transform=left.transAxes, ha="right", va="top")
    left.set(title=r"$\|\partial\mathcal{L}/\partial f\|$: explodes, stays or vanishes", yscale="log", ylabel="norm")
    right.set(title=r"$\|\partial\mathcal{L}/\partial W\|$: nearly the same in all layers")
    plt.setp([left, right], xlabel="linear layer (1 = first)", xticks=layers[::3])
    return figure
