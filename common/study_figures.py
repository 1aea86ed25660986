"""The figures of task 1's studies: depth, overfitting, gradients at the start and normalization."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from common.plotting import Curve, Panel, curve_panels
from common.studies import DEPTHS, METHODS, RATES, REGIMES, SEEDS, History, Run, curves_of, normalization_run

TITLES = {
    name: "{points:,} points, noise {noise}, {epochs} epochs".format(**regime) for name, regime in REGIMES.items()
}


def band(label: str, values: np.ndarray, style: str = "-", mark: int | None = None) -> Curve:
    """Return the mean of values [runs, K] as a curve over 1 … K, with a band from the least to the greatest."""
    x = np.arange(1, values.shape[1] + 1)
    return Curve(label, x, values.mean(axis=0), values.min(axis=0), values.max(axis=0), style=style, mark=mark)


def depth_figure(summary: dict[str, list[dict[str, Any]]]) -> Figure:
    """Draw the final train and test loss over depth, in both regimes (1.4)."""
    panels = []
    for name, rows in summary.items():
        curves = []
        for split, style in (("train", "o-"), ("test", "s--")):
            mean, low, high = ([row[f"{split}_{key}"] or np.nan for row in rows] for key in ("mean", "low", "high"))
            curves.append(Curve(split, DEPTHS, mean, low, high, style=style))
        panels.append(
            Panel(TITLES[name], "hidden layers of 30 units", "final loss (nats)", curves, name == "sheet", DEPTHS)
        )
    return curve_panels(panels)


def overfitting_figure(histories: dict[Run, History], seed: int) -> Figure:
    """Draw train and test loss over epochs with scarce data, the least test loss marked (1.4)."""
    panels = []
    for split in ("train", "test"):
        curves = []
        for depth in DEPTHS:
            runs = [Run(depth, s, **REGIMES["scarce"]) for s in range(seed, seed + SEEDS)]
            losses = curves_of(histories, runs, f"{split}_loss")
            turn = int(losses.mean(axis=0).argmin()) if split == "test" else None
            curves.append(band(f"{depth} layer{'s' * (depth != 1)}", losses, mark=turn))
        panels.append(Panel(f"{split.capitalize()}: {TITLES['scarce']}", "epoch", "loss (nats)", curves, y_limit=0.8))
    return curve_panels(panels, shared_y=True)


def gradient_figure(norms: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Draw the norms of ∂L/∂f and ∂L/∂W in each layer at the start, per initialization."""
    panels = []
    for name, label in (("output", "norm of ∂L/∂f"), ("weight", "norm of ∂L/∂W")):
        curves = [band(scale, rows[name], style="o-") for scale, rows in norms.items()]
        panels.append(Panel(f"{label}, new network", "linear layer", label, curves, log_y=True))
    return curve_panels(panels)


def normalization_figure(histories: dict[Run, History], seed: int) -> Figure:
    """Draw the test loss of twelve layers from N(0, 1) weights, by method, at both learning rates (task 5)."""
    panels = []
    for rate in RATES:
        curves = []
        title = f"learning rate {rate}"
        for name, method in METHODS.items():
            runs = [normalization_run(method, rate, s) for s in range(seed, seed + SEEDS)]
            losses = curves_of(histories, runs, "test_loss")
            curves.append(band("without normalization" if method is None else f"{name} normalization", losses))
            diverged = int(np.isnan(losses[:, -1]).sum())
            if diverged:
                title += f"\n{name}: {diverged} of {SEEDS} runs diverge"
        panels.append(Panel(title, "epoch", "test loss (nats)", curves, log_y=True))
    return curve_panels(panels, shared_y=True)
