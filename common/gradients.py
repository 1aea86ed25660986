"""Central differences, the check of backpropagation (1.1, tests/test_gradients.py)."""

from collections.abc import Callable
from typing import Any

import numpy as np

STEPS = [1e-5 / 2**k for k in range(8)]
TOLERANCE = 1e-9  # of the errors of `network_errors`
COMPLETE = 5000  # parameters of a network that are all checked
SAMPLE = 20  # entries of each array that are checked in a larger one


def central_differences(loss: Callable[[], float], array: np.ndarray) -> np.ndarray:
    """Return ∂loss/∂array, entry by entry, as `slope_at` does."""
    slopes = np.empty(array.shape)
    for index in np.ndindex(array.shape):
        slopes[index] = slope_at(loss, array, index)
    return slopes


def slope_at(
    loss: Callable[[], float], array: np.ndarray, index: tuple[int, ...]
) -> float:
    """Return ∂loss/∂a for an entry a of the array by (loss(a + h) - loss(a - h)) / 2h.

    `array` is changed and restored. Where half the step gives another slope, the step
    crosses a kink of a ReLU, and a smaller one is taken.
    """

    def difference(h: float) -> float:
        original = array[index]
        array[index] = original + h
        above = loss()
        array[index] = original - h
        below = loss()
        array[index] = original
        return (above - below) / (2 * h)

    for h in STEPS:
        slope = difference(h)
        if abs(slope - difference(h / 2)) <= 1e-9 + 1e-6 * abs(slope):
            break
    return slope


def network_errors(mlp: Any, x: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    """Compare the gradients of task 1's network on one batch with central differences.

    Returns a row per array: its shape, how many entries were checked, and the
    largest difference relative to the largest entry of all gradients (those of some
    arrays may be nearly zero). All are zero where no unit is active.
    """
    mlp.loss(x, y)
    mlp.backward()
    linear_layers = [layer for layer in mlp.layers if hasattr(layer, "weight")]
    size = sum(layer.weight.size + layer.bias.size for layer in linear_layers)
    most = size if size <= COMPLETE else SAMPLE
    rng = np.random.default_rng(0)
    rows = []
    largest = 0.0
    for layer in linear_layers:
        for name in ("weight", "bias"):
            array = getattr(layer, name)
            gradient = getattr(layer, f"grad_{name}").copy()
            largest = max(largest, np.abs(gradient).max())
            errors = []
            for number in rng.permutation(array.size)[:most]:
                index = np.unravel_index(number, array.shape)
                slope = slope_at(lambda: mlp.loss(x, y), array, index)
                errors.append(abs(gradient[index] - slope))
            rows.append(
                {
                    "shape": list(array.shape),
                    "checked": len(errors),
                    "error": float(np.max(errors)),
                }
            )
    for row in rows:
        row["error"] /= largest or 1
    return rows
