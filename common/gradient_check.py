"""Central differences, in float64: what a derivative should be, measured from the function itself.

Errors are relative to the largest entry of a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

STEPS = (1e-5, 1e-6, 1e-7)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, relative to the largest magnitude in either; infinity for other shapes or NaN."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return np.inf
    scale = max(np.abs(found).max(initial=0), np.abs(expected).max(initial=0))
    return float(np.abs(found - expected).max(initial=0) / scale) if scale > 0 else 0.0


def central_differences(loss: Callable[[], float], array: np.ndarray, entries: np.ndarray | None = None) -> np.ndarray:
    """Return ∂loss/∂array by (loss(a + h) - loss(a - h)) / 2h, entry by entry; `array` is changed and restored.

    `entries` limits the work to these flat indices, and the result [len(entries)] to them. A step that crosses a kink
    of a ReLU shows when half the step gives another slope; then a smaller step is taken.
    """
    flat = array.reshape(-1)
    indices = np.arange(flat.size) if entries is None else entries
    slopes = np.array([_slope(loss, flat, index) for index in indices])
    return slopes.reshape(array.shape) if entries is None else slopes


def _slope(loss: Callable[[], float], flat: np.ndarray, index: int) -> float:
    original = flat[index]

    def difference(step: float) -> float:
        flat[index] = original + step
        above = loss()
        flat[index] = original - step
        below = loss()
        flat[index] = original
        return (above - below) / (2 * step)

    for step in STEPS:
        slope, half = difference(step), difference(step / 2)
        if abs(slope - half) <= 1e-9 + 1e-6 * abs(slope):
            break
    return slope


def network_errors(mlp: Any, x: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    """Return the largest relative error in every parameter array of task 1's network, on one batch."""
    mlp.loss(x, y)
    mlp.backward()
    names = [(layer, name) for layer in mlp.layers for name in vars(layer) if f"grad_{name}" in vars(layer)]
    errors = []
    for layer, name in names:
        array = getattr(layer, name)
        error = relative_error(getattr(layer, f"grad_{name}"), central_differences(lambda: mlp.loss(x, y), array))
        errors.append({"parameter": name, "shape": list(array.shape), "error": error})
    return errors
