"""Softmax and cross-entropy with their derivatives, which the sheet's task 1 takes over from the exercise before."""

from __future__ import annotations

import numpy as np

from common.checks import check_labels, check_shape, remembered


class Softmax:
    """Probabilities pⱼ = exp(fⱼ + C) / Σₖ exp(fₖ + C) with C = -max f (sheet, task 1).

    ∂pⱼ/∂fᵢ = pⱼ (1[i = j] - pᵢ), hence ∂L/∂f = p ⊙ (∂L/∂p - Σⱼ pⱼ ∂L/∂pⱼ).
    """

    def __init__(self) -> None:
        self.last_output: np.ndarray | None = None

    def forward(self, x: np.ndarray, remember: bool = False) -> np.ndarray:
        """Map logits f [N, C] to probabilities p [N, C]; `remember` keeps them for the backward pass."""
        check_shape(x, None, None)
        exponentials = np.exp(shift_logits(x))
        p = exponentials / exponentials.sum(axis=1, keepdims=True)
        if remember:
            self.last_output = p
        return p

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Turn ∂L/∂p [N, C] into ∂L/∂f [N, C]."""
        p = remembered(self.last_output)
        check_shape(gradient, *p.shape)
        return p * (gradient - (gradient * p).sum(axis=1, keepdims=True))

    def update(self, learning_rate: float) -> None:
        """Do nothing: there are no parameters."""


class CrossEntropyLoss:
    """Averaged cross-entropy L = -1/N Σₙ log p[n, yₙ] (sheet, task 1), so ∂L/∂p[n, j] = -1[j = yₙ] / (N p[n, j]).

    Probabilities that have underflowed to zero count as the smallest normal number, so that both stay finite.
    """

    def __init__(self) -> None:
        self.last_input: tuple[np.ndarray, np.ndarray] | None = None

    def forward(self, p: np.ndarray, y: np.ndarray) -> float:
        """Return the mean loss of probabilities p [N, C] for integer classes y [N]."""
        check_shape(p, None, None)
        check_labels(y, *p.shape)
        p = np.maximum(p, np.finfo(p.dtype).tiny)
        self.last_input = p, y
        return float(-np.log(p[np.arange(len(y)), y]).mean())

    def backward(self) -> np.ndarray:
        """Return ∂L/∂p [N, C], the 1/N of the mean included."""
        p, y = remembered(self.last_input)
        rows = np.arange(len(y))
        gradient = np.zeros_like(p)
        gradient[rows, y] = -1 / (len(y) * p[rows, y])
        return gradient


def shift_logits(logits: np.ndarray) -> np.ndarray:
    """Subtract each row's maximum; the floor keeps even the difference of logits at ±1e308 finite."""
    with np.errstate(over="ignore"):
        return np.maximum(logits - logits.max(axis=1, keepdims=True), -1e300)


def softmax_cross_entropy(logits: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the averaged loss log Σₖ exp zₖ - z_y of logits z [N, C] and classes y [N], and the probabilities [N, C].

    The loss is exact where the probability of the right class has underflowed.
    """
    check_labels(y, *logits.shape)
    shifted = shift_logits(logits)
    exponentials = np.exp(shifted)
    totals = exponentials.sum(axis=1)
    loss = (np.log(totals) - shifted[np.arange(len(y)), y]).mean()
    return float(loss), exponentials / totals[:, None]


def softmax_cross_entropy_gradient(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return ∂L/∂z = (p - y) / N [N, C], y one-hot: what the chain through cross-entropy and softmax closes to."""
    gradient = p.copy()
    gradient[np.arange(len(y)), y] -= 1
    gradient /= len(y)
    return gradient
