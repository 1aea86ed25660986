"""Central differences, against which backpropagation is checked (1.1,
tests/test_gradients.py).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

STEPS = [
    1e-5 / 2**k for k in range(9)
]  # of central differences, each half of the one before
# of one array of a network; of a larger one every second, third, … entry is checked
MOST_ENTRIES = 1000


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, relative to the largest magnitude in either;
    infinity for other shapes or NaN.
    """
    if found.shape != expected.shape or not (
        np.isfinite(found).all() and np.isfinite(expected).all()
    ):
        return np.inf
    scale = max(np.abs(found).max(initial=0), np.abs(expected).max(initial=0))
    return float(np.abs(found - expected).max(initial=0) / scale) if scale > 0 else 0.0


def central_differences(loss: Callable[[], float], array: np.ndarray) -> np.ndarray:
    """Return ∂loss/∂array by (loss(a + h) - loss(a - h)) / 2h, entry by entry; `array`
    is changed and restored.

    A step that crosses a kink of a ReLU shows when half the step gives another slope;
    then a smaller step is taken.
    """

    def loss_at(index: tuple[int, ...], value: float) -> float:
        array[index] = value
        return loss()

    slopes = np.empty(array.shape)
    for index, original in np.ndenumerate(array):
        differences = (
            (loss_at(index, original + h) - loss_at(index, original - h)) / (2 * h)
            for h in STEPS
        )
        for slope, half in pairwise(differences):
            if abs(slope - half) <= 1e-9 + 1e-6 * abs(slope):
                break
        array[index], slopes[index] = original, slope
    return slopes


def parameter_names(layer: Any) -> list[str]:
    """Return the names of the layer's arrays that have a gradient `grad_NAME` beside
    them.
    """
    return [name for name in vars(layer) if f"grad_{name}" in vars(layer)]


def network_errors(mlp: Any, x: np.ndarray, y: np.ndarray) -> list[dict[str, Any]]:
    """Compare each parameter's gradient in task 1's network, on one batch, with central
    differences.

    Returns a row per array: its name and shape, how many entries were checked, and the
    largest difference, relative to the largest entry of all gradients (those of some
    arrays may be nearly zero).
    """
    mlp.loss(x, y, remember=True)
    mlp.backward()
    found = [
        (layer, name, getattr(layer, f"grad_{name}"))
        for layer in mlp.layers
        for name in parameter_names(layer)
    ]
    largest = max(np.abs(gradient).max() for *_, gradient in found)
    errors = []
    for layer, name, gradient in found:
        array = getattr(layer, name)
        stride = -(-array.size // MOST_ENTRIES)
        entries = array.reshape(-1)[
            ::stride
        ]  # a view: what is changed there is changed in the network
        difference = np.abs(
            gradient.reshape(-1)[::stride]
            - central_differences(lambda: mlp.loss(x, y), entries)
        ).max()
        row = {"parameter": name, "shape": list(array.shape), "checked": entries.size}
        errors.append(row | {"error": float(difference / largest)})
    return errors
