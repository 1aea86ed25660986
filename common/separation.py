"""How well classes separate: nearest neighbours, a linear classifier, variance, and
what a confusion matrix shows.

Confusion matrices are [true class, predicted class].
"""

from itertools import combinations
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import KNeighborsClassifier

from common.data import Vectors

NEIGHBOURS = 10


def confused_pairs(matrix: np.ndarray) -> list[dict[str, Any]]:
    """Return the six most confused pairs of classes of a confusion matrix, most
    confused first.

    `images` counts both directions; `share` is their per cent of the images of both
    classes.
    """
    sizes = matrix.sum(axis=1)
    pairs = []
    for first, second in combinations(range(10), 2):
        images = int(matrix[first, second] + matrix[second, first])
        share = float(100 * images / max(sizes[first] + sizes[second], 1))
        pairs.append({"classes": [first, second], "images": images, "share": share})
    return sorted(pairs, key=lambda pair: -pair["share"])[:6]


def accuracy_per_class(matrix: np.ndarray) -> list[float | None]:
    """Return each class's accuracy (recall) in per cent from a confusion matrix; None
    for a class without images.
    """
    counts = zip(np.diag(matrix), matrix.sum(axis=1), strict=True)
    return [float(100 * right / size) if size else None for right, size in counts]


def neighbour_separation(fit: Vectors, held_out: Vectors) -> dict[str, Any]:
    """Return how well ten nearest neighbours in `fit` classify `held_out`, both with
    vectors [N, D].

    `accuracy` is in per cent; `accuracy_per_class` and the most confused `pairs` are
    those of its confusion matrix.
    """
    # A tree is faster in few dimensions, comparing all pairs in many; both are exact.
    algorithm = "kd_tree" if fit.vectors.shape[1] <= 5 else "brute"
    classifier = KNeighborsClassifier(
        min(NEIGHBOURS, len(fit.labels)), algorithm=algorithm
    ).fit(*fit)
    matrix = confusion_matrix(
        held_out.labels, classifier.predict(held_out.vectors), labels=range(10)
    )
    return {
        "accuracy": float(100 * np.trace(matrix) / len(held_out.labels)),
        "accuracy_per_class": accuracy_per_class(matrix),
        "pairs": confused_pairs(matrix),
    }


def linear_accuracy(fit: Vectors, held_out: Vectors) -> float:
    """Return the accuracy in per cent on `held_out` of logistic regression,
    standardized by and fitted to `fit`.
    """
    mean, deviation = fit.vectors.mean(axis=0), fit.vectors.std(axis=0)
    deviation[deviation == 0] = 1
    classifier = LogisticRegression(C=0.01, max_iter=1000).fit(
        (fit.vectors - mean) / deviation, fit.labels
    )
    return float(
        100 * classifier.score((held_out.vectors - mean) / deviation, held_out.labels)
    )


def between_classes(data: Vectors) -> tuple[np.ndarray, float]:
    """Return the share of the variance of vectors [N, D] that lies between the class
    means: per dimension, and in all.

    The shares are from 0 to 1, and 0 where nothing varies.
    """
    vectors = data.vectors.astype(np.float64)
    within, total = np.zeros(vectors.shape[1]), vectors.var(axis=0)
    for number in np.unique(data.labels):
        members = vectors[data.labels == number]
        within += len(members) / len(vectors) * members.var(axis=0)
    between = total - within
    return between / np.where(total > 0, total, 1), float(
        between.sum() / (total.sum() or 1)
    )
