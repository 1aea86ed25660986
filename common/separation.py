"""How well classes separate: nearest neighbours, a linear classifier, variance, and
what a confusion matrix shows.

Labels are integers from 0 to 9. Confusion matrices are [true class, predicted class].
"""

from itertools import combinations
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from common.data import Vectors, check_labels

NEIGHBOURS = 10
APART = 70  # per cent: a class stands apart if recall and precision are above it


def confused_pairs(matrix: np.ndarray) -> list[dict[str, Any]]:
    """Return the six pairs of classes that a confusion matrix confuses most.

    Most confused first; `images` counts the errors in both directions.
    """
    pairs = []
    for first, second in combinations(range(len(matrix)), 2):
        images = int(matrix[first, second] + matrix[second, first])
        pairs.append({"classes": [first, second], "images": images})
    return sorted(pairs, key=lambda pair: -pair["images"])[:6]


def recall(matrix: np.ndarray) -> list[float | None]:
    """Return the recall of each class in per cent: the share of its images that are
    recognized; None for a class without images.
    """
    return per_cent(np.diag(matrix), matrix.sum(axis=1))


def precision(matrix: np.ndarray) -> list[float | None]:
    """Return the precision of each class in per cent: the share of its predictions that
    are right; None for a class that is never predicted.
    """
    return per_cent(np.diag(matrix), matrix.sum(axis=0))


def per_cent(parts: np.ndarray, wholes: np.ndarray) -> list[float | None]:
    """Return each part in per cent of its whole; None where the whole is zero."""
    shares = []
    for part, whole in zip(parts, wholes, strict=True):
        shares.append(float(100 * part / whole) if whole else None)
    return shares


def neighbour_separation(train: Vectors, test: Vectors) -> dict[str, Any]:
    """Return how well ten nearest neighbours in `train` classify `test`, both with
    vectors [N, D].

    `accuracy` is in per cent; `recall`, `precision` and the most confused `pairs` are
    those of the confusion matrix. Raises ValueError for labels other than 0 to 9.
    """
    check_labels(train)
    check_labels(test)
    # A tree is faster in few dimensions, comparing all pairs in many; both are exact.
    algorithm = "kd_tree" if train.vectors.shape[1] <= 5 else "brute"
    count = min(NEIGHBOURS, len(train.labels))
    classifier = KNeighborsClassifier(count, algorithm=algorithm)
    classifier.fit(train.vectors, train.labels)
    predicted = classifier.predict(test.vectors)
    matrix = confusion_matrix(test.labels, predicted, labels=range(10))
    return {
        "accuracy": float(100 * np.trace(matrix) / len(test.labels)),
        "recall": recall(matrix),
        "precision": precision(matrix),
        "pairs": confused_pairs(matrix),
    }


def linear_classifier(train: Vectors) -> Pipeline:
    """Return a logistic regression fitted to standardized vectors [N, D]; it
    standardizes what it classifies in the same way.
    """
    regression = LogisticRegression(C=0.01, max_iter=1000)
    classifier = make_pipeline(StandardScaler(), regression)
    return classifier.fit(train.vectors, train.labels)


def between_classes(data: Vectors) -> float:
    """Return the share of the variance of vectors [N, D] between the class means.

    From 0 to 1, and 0 where nothing varies.
    """
    vectors = data.vectors.astype(np.float64)
    total = vectors.var(axis=0).sum()
    within = 0.0
    for number in np.unique(data.labels):
        members = vectors[data.labels == number]
        within += len(members) / len(vectors) * members.var(axis=0).sum()
    return float((total - within) / (total or 1))
