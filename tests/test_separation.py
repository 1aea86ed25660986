"""What is said about the classes: recall and precision, nearest neighbours, a linear
classifier and variance.
"""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
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


def test_recall_counts_a_row_precision_a_column_and_an_empty_one_has_none():
    matrix = np.zeros((10, 10), int)
    matrix[:3, :2] = [[3, 1], [0, 4], [5, 0]]
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
    nearest = cdist(test.vectors, train.vectors).argsort(axis=1)[:, :10]
    voted = stats.mode(train.labels[nearest], axis=1).mode  # the smallest in a tie
    matrix = metrics.confusion_matrix(test.labels, voted, labels=range(10))
    assert neighbour_separation(train, test) == {
        "accuracy": pytest.approx(100 * (voted == test.labels).mean()),
        "recall": recall(matrix),
        "precision": precision(matrix),
        "pairs": confused_pairs(matrix),
    }


def test_other_classes_than_the_ten_digits_are_refused():
    digits = Vectors(np.eye(10), np.arange(10))
    others = Vectors(np.eye(10), digits.labels + 1)
    for pair in [(digits, others), (others, digits)]:
        with pytest.raises(ValueError, match="label"):
            neighbour_separation(*pair)


def test_the_linear_classifier_standardizes_by_the_vectors_from_which_it_learns():
    rng = np.random.default_rng(1)
    labels = np.arange(900) % 9
    vectors = rng.normal(size=(9, 30))[labels] + 3 * rng.normal(size=(900, 30)) + 5
    vectors *= np.logspace(-2, 2, 30)
    train = Vectors(vectors[:100], labels[:100])
    mean = train.vectors.mean(axis=0)
    deviation = train.vectors.std(axis=0)
    known = LogisticRegression(C=0.01)
    known.fit((train.vectors - mean) / deviation, train.labels)
    expected = known.predict((vectors - mean) / deviation)
    assert (linear_classifier(train).predict(vectors) == expected).mean() > 0.995


def test_the_variance_between_classes_is_that_of_their_means_weighted_by_members():
    rng = np.random.default_rng(2)
    labels = np.array([5, 5, 5, 5, 2, 2, 9])
    means = rng.normal(size=(10, 3))
    vectors = means[labels] + rng.normal(size=(7, 3))
    for number in (2, 5, 9):
        means[number] = vectors[labels == number].mean(axis=0)
    expected = means[labels].var(axis=0).sum() / vectors.var(axis=0).sum()
    assert between_classes(Vectors(vectors, labels)) == pytest.approx(expected)
    assert between_classes(Vectors(np.ones((4, 3)), np.arange(4))) == 0
