"""The two moons: a toy data set of two interleaved half circles in the plane (sheet, task 1)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Moons(NamedTuple):
    """Points float64 [N, 2] in the plane and their classes int64 [N], 0 for the upper moon and 1 for the lower."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def moons(n_train: int = 8000, n_test: int = 2000, noise: float = 0.08, seed: int = 0) -> Moons:
    """Draw both splits, independently and from seeds of their own.

    `noise` is the standard deviation of the Gaussian noise where a moon has radius one. Both splits are scaled by the
    minimum and maximum of the train split into [-1, 1], beyond which test points may lie a little. Raises ValueError
    for fewer than two points in a split or for noise that is negative or not finite.
    """
    if min(n_train, n_test) < 2 or not 0 <= noise < np.inf:
        raise ValueError(f"expected at least two points per split and noise ≥ 0, got {n_train}, {n_test}, {noise}")
    train_source, test_source = np.random.SeedSequence(seed).spawn(2)
    x_train, y_train = _draw(n_train, noise, np.random.default_rng(train_source))
    x_test, y_test = _draw(n_test, noise, np.random.default_rng(test_source))
    low, high = x_train.min(axis=0), x_train.max(axis=0)
    x_train, x_test = (2 * (x - low) / (high - low) - 1 for x in (x_train, x_test))
    return Moons(x_train, y_train, x_test, y_test)


def _draw(count: int, noise: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(count) % 2
    angle = rng.uniform(0, np.pi, count)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # [N, 2]
    x = np.where(y[:, None] == 0, upper, [1, 0.5] - upper)
    return x + rng.normal(0, noise, x.shape), y
