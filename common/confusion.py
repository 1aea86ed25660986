"""Which classes a classifier takes for which."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return how many examples of each of the ten classes (row) were given each label (column), int64 [10, 10]."""
    return np.bincount(10 * labels + predicted, minlength=100).reshape(10, 10)


def confused_pairs(matrix: np.ndarray, count: int = 6) -> list[dict[str, Any]]:
    """Return the pairs of classes that a confusion matrix mixes most, most first.

    `images` of the one were taken for the other, in either direction; `share` is their per cent of both classes.
    """
    sizes = matrix.sum(axis=1)
    pairs = []
    for first, second in combinations(range(10), 2):
        images = int(matrix[first, second] + matrix[second, first])
        share = float(100 * images / max(sizes[first] + sizes[second], 1))
        pairs.append({"classes": [first, second], "images": images, "share": share})
    return sorted(pairs, key=lambda pair: -pair["share"])[:count]
