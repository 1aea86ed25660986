"""Batch and layer normalization by hand (sheet, task 5), with the three methods of task
1's layers.

Both shift and scale a set S of activations to mean zero and variance one, x̂ = (x - μ)
/ σ with σ² = Var x + ε, and then let the network undo it by y = γ x̂ + β: S holds one
channel's values over the batch in batch normalization (Ioffe & Szegedy 2015), one
example's values over the channels in layer normalization (Ba, Kiros & Hinton 2016).

Backward, with δ = ∂L/∂y: ∂L/∂γ = Σₙ δ x̂ and ∂L/∂β = Σₙ δ. Let δ̂ = γ δ = ∂L/∂x̂. Every
x of S acts on all of S through μ and σ, by ∂x̂ᵢ/∂xⱼ = (1[i = j] - 1/|S| - x̂ᵢ x̂ⱼ/|S|)
/ σ. Hence ∂L/∂x = (δ̂ - mean δ̂ - x̂ mean(δ̂ x̂)) / σ with means over S: the parts of
the gradient that would shift or scale all of S have no effect and are removed.
"""

import numpy as np

from common.script import check_shape, saved_by_forward

EPSILON = 1e-5
MOMENTUM = 0.1  # the weight of the newest batch in the running statistics


class _Normalization:
    """What both have in common; a subclass names the axis that S runs along and gives
    its mean and variance.
    """

    def __init__(self, channels: int) -> None:
        self.scale, self.shift = np.ones(channels), np.zeros(channels)  # γ and β
        self.grad_scale, self.grad_shift = np.zeros(channels), np.zeros(channels)
        self.normalized: np.ndarray | None = None

    def forward(self, x: np.ndarray, remember: bool = False) -> np.ndarray:
        """Map x [N, C] to [N, C]; `remember` means training, and keeps what the
        backward pass needs.
        """
        check_shape(x, "N", len(self.scale))
        mean, variance = self._statistics(x, training=remember)
        deviation = np.sqrt(variance + EPSILON)
        normalized = (x - mean) / deviation
        if remember:
            self.normalized, self.deviation = normalized, deviation
        return self.scale * normalized + self.shift

    def backward(self, gradient: np.ndarray) -> np.ndarray:
        """Turn ∂L/∂y [N, C] into ∂L/∂x [N, C]; set `grad_scale` and `grad_shift`."""
        normalized = saved_by_forward(self.normalized)
        check_shape(gradient, *normalized.shape)
        self.grad_scale = (gradient * normalized).sum(axis=0)  # [C]
        self.grad_shift = gradient.sum(axis=0)  # [C]
        gradient = gradient * self.scale
        common = gradient.mean(axis=self.axis, keepdims=True)
        along = (gradient * normalized).mean(axis=self.axis, keepdims=True)
        return (gradient - common - normalized * along) / self.deviation

    def update(self, learning_rate: float) -> None:
        """Take one step of gradient descent."""
        self.scale -= learning_rate * self.grad_scale
        self.shift -= learning_rate * self.grad_shift


class BatchNorm(_Normalization):
    """Normalize each channel over the batch in training, by its running statistics in
    evaluation (arXiv 1502.03167).
    """

    axis = 0

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.running_mean, self.running_variance = np.zeros(channels), np.ones(channels)

    def _statistics(
        self, x: np.ndarray, training: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        if not training:
            return self.running_mean, self.running_variance
        if len(x) < 2:  # the variance of a single value is zero
            raise ValueError(
                f"expected a batch of at least two in training, got shape {list(x.shape)}"
            )
        mean, variance = x.mean(axis=0), x.var(axis=0)  # [C]
        self.running_mean += MOMENTUM * (mean - self.running_mean)
        self.running_variance += MOMENTUM * (
            variance * len(x) / (len(x) - 1) - self.running_variance
        )  # unbiased
        return mean, variance


class LayerNorm(_Normalization):
    """Normalize each example over its channels, in training and evaluation alike (arXiv
    1607.06450).
    """

    axis = 1

    def _statistics(
        self, x: np.ndarray, training: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        return x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)  # [N, 1]


def normalization_layers(
    method: str | None, channels: int
) -> list[BatchNorm | LayerNorm]:
    """Return the layer of that method in a list, or an empty list for None."""
    return {None: [], "batch": [BatchNorm(channels)], "layer": [LayerNorm(channels)]}[
        method
    ]
