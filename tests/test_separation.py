"""What is said about the classes: confused pairs, recall and precision, nearest
neighbours, a linear classifier and variance.
"""

import numpy as np
import pytest
from sklearn import metrics
from sklearn.linear_model import LogisticRegression

from common.data import Vectors
from common.separation import (
    between_classes,
    confused_pairs,
    linear_classifier,
    neighbour_separation,
    precision,
    recall,
)


def matrix_of(counts):
    """A confusion matrix from {(true, predicted): count}."""
    matrix = np.zeros((10, 10), int)
    for place, count in counts.items():
        matrix[place] = count
    return matrix


def test_confused_pairs_count_both_directions_and_are_ordered_by_them():
    counts = {(0, 0): 90, (0, 1): 4, (1, 0): 2, (1, 1): 7, (6, 1): 5, (4, 2): 1}
    pairs = confused_pairs(matrix_of(counts))
    assert len(pairs) == 6
    assert [(pair["classes"], pair["images"]) for pair in pairs[:3]] == [
        ([0, 1], 6),
        ([1, 6], 5),
        ([2, 4], 1),
    ]


def test_recall_counts_a_row_precision_a_column_and_an_empty_one_has_none():
    matrix = matrix_of({(0, 0): 3, (0, 1): 1, (1, 1): 4, (2, 0): 5})
    assert recall(matrix) == [75, 100, 0] + [None] * 7
    assert precision(matrix) == [37.5, 80] + [None] * 8


@pytest.mark.parametrize("dimensions", [1, 5, 6])
@pytest.mark.parametrize("known", [4, 80])
def test_up_to_ten_known_neighbours_vote_as_by_all_distances(known, dimensions):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, known + 150)
    noise = rng.normal(size=(len(labels), dimensions))
    vectors = rng.normal(size=(4, dimensions))[labels] + noise
    train = Vectors(vectors[:known], labels[:known])
    test = Vectors(vectors[known:], labels[known:])
    distances = np.linalg.norm(test.vectors[:, None] - train.vectors, axis=2)
    nearest = train.labels[distances.argsort(axis=1)[:, :10]]
    votes = (nearest[:, :, None] == np.arange(4)).sum(axis=1)
    voted = votes.argmax(axis=1)  # the smallest in a tie
    matrix = metrics.confusion_matrix(test.labels, voted, labels=range(10))
    assert neighbour_separation(train, test) == {
        "accuracy": pytest.approx(100 * (voted == test.labels).mean()),
        "recall": recall(matrix),
        "precision": precision(matrix),
        "pairs": confused_pairs(matrix),
    }


def test_the_linear_classifier_standardizes_by_the_vectors_from_which_it_learns():
    rng = np.random.default_rng(1)
    labels = np.arange(900) % 9
    scale = np.logspace(-2, 2, 30)
    noise = 3 * rng.normal(size=(900, 30))
    vectors = (rng.normal(size=(9, 30))[labels] + noise + 5) * scale
    vectors[:, 0] = 1
    vectors[100:] += scale  # what is classified has another mean
    train = Vectors(vectors[:100], labels[:100])
    mean = train.vectors.mean(axis=0)
    deviation = train.vectors.std(axis=0)
    deviation[0] = 1
    known = LogisticRegression(C=0.01)
    known.fit((train.vectors - mean) / deviation, train.labels)
    expected = known.predict((vectors - mean) / deviation)
    assert (linear_classifier(train).predict(vectors) == expected).mean() > 0.995


def test_the_variance_between_classes_is_that_of_their_means_weighted_by_members():
    means = np.array([[0, 0, 7], [6, 1, 7]])
    labels = np.array([0, 0, 0, 0, 1, 1])
    first = [[1, 0, 0], [-1, 0, 0], [1, 2, 0], [-1, -2, 0]]
    vectors = means[labels] + [*first, [0, 1, 0], [0, -1, 0]]
    # Between: 36 and 1 times 4/6 times 2/6, that is 8 and 2/9; within: 4/6 and 10/6
    for offset, precise in ((0, np.float64), (1e4, np.float32)):
        data = Vectors((vectors + offset).astype(precise), 3 * labels + 2)
        assert between_classes(data) == pytest.approx(
            (8 + 2 / 9) / (8 + 2 / 9 + 14 / 6)
        )
    assert between_classes(Vectors(np.ones((4, 3)), np.arange(4))) == 0
