"""Central differences, the check of backpropagation (1.1, tests/test_gradients.py)."""

from collections.abc import Callable
from typing import Any

import numpy as np

STEPS = [1e-5 / 2**k for k in range(8)]
TOLERANCE = 1e-9  # of the errors of `network_errors`
MOST_ENTRIES = 1000  # of one array; of a larger one every second, third, … is checked


def central_differences(loss: Callable[[], float], array: np.ndarray) -> np.ndarray:
    """Return ∂loss/∂array by (loss(a + h) - loss(a - h)) / 2h, entry by entry.

    `array` is changed and restored. Where half the step gives another slope, the step
    crosses a kink of a ReLU, and a smaller one is taken.
    """

    def slope(index: tuple[int, ...], h: float) -> float:
        original = array[index]
        array[index] = original + h
        above = loss()
        array[index] = original - h
        below = loss()
        array[index] = original
        return (above - below) / (2 * h)

    slopes = np.empty(array.shape)
    for index in np.ndindex(array.shape):
        for h in STEPS:
            slopes[index] = slope(index, h)
            change = abs(slopes[index] - slope(index, h / 2))
            if change <= 1e-9 + 1e-6 * abs(slopes[index]):
                break
    return slopes


def network_errors(mlp: Any, x: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    """Compare the gradients of task 1's network on one batch with central differences.

    Returns a row per array: its shape, how many entries were checked, and the
    largest difference relative to the largest entry of all gradients (those of some
    arrays may be nearly zero). All are zero where no unit is active.
    """
    mlp.loss(x, y)
    mlp.backward()
    linear_layers = [layer for layer in mlp.layers if hasattr(layer, "weight")]
    rows = []
    largest = 0.0
    for layer in linear_layers:
        for name in ("weight", "bias"):
            array = getattr(layer, name)
            gradient = getattr(layer, f"grad_{name}").copy()
            stride = -(-array.size // MOST_ENTRIES)
            entries = array.reshape(-1)[::stride]  # a view: changes reach the network
            slopes = central_differences(lambda: mlp.loss(x, y), entries)
            error = np.abs(gradient.reshape(-1)[::stride] - slopes).max()
            largest = max(largest, np.abs(gradient).max())
            rows.append(
                {
                    "shape": list(array.shape),
                    "checked": entries.size,
                    "error": float(error),
                }
            )
    for row in rows:
        row["error"] /= largest or 1
    return rows
