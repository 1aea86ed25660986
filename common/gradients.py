"""Central differences, the check of backpropagation (1.1, tests/test_gradients.py)."""

from collections.abc import Callable

import numpy as np

STEPS = [1e-5 / 2**k for k in range(8)]


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
