"""What is said about the classes: confused pairs, recalls, nearest neighbours, a linear
classifier and variance.
"""

import numpy as np
import pytest
from sklearn import linear_model, metrics, pipeline, preprocessing

from common.data import Vectors
from common.separation import (
    accuracy_per_class,
    between_classes,
    confused_pairs,
    linear_accuracy,
    neighbour_separation,
)


def matrix_of(counts):
    """A confusion matrix from {(true, predicted): count}."""
    matrix = np.zeros((10, 10), int)
    for place, count in counts.items():
        matrix[place] = count
    return matrix


def test_confused_pairs_count_both_directions_and_are_ordered_by_share_not_by_images():
    counts = {
        (0, 0): 90,
        (0, 1): 4,
        (1, 0): 2,
        (1, 1): 100,
        (2, 4): 1,
        (4, 4): 3,
        (6, 6): 996,
        (6, 1): 4,
        (8, 8): 10,
    }
    pairs = confused_pairs(matrix_of({**counts, (9, 8): 2, (9, 9): 8}))
    assert len(pairs) == 6
    del pairs[4:]  # never confused
    assert [(pair["classes"], pair["images"]) for pair in pairs] == [
        ([2, 4], 1),
        ([8, 9], 2),
        ([0, 1], 6),
        ([1, 6], 4),
    ]
    assert [pair["share"] for pair in pairs] == pytest.approx(
        [25, 10, 600 / 196, 400 / 1102]
    )


def test_accuracy_per_class_is_the_recall_and_none_without_images():
    matrix = matrix_of({(0, 0): 3, (0, 1): 1, (1, 1): 2, (2, 0): 5})
    assert accuracy_per_class(matrix) == [75, 100, 0] + [None] * 7


@pytest.mark.parametrize("dimensions", [1, 5, 6])
@pytest.mark.parametrize("known", [4, 80])
def test_up_to_ten_known_neighbours_vote_as_by_all_distances(known, dimensions):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, known + 150)
    vectors = rng.normal(size=(4, dimensions))[labels] + rng.normal(
        size=(len(labels), dimensions)
    )
    fit, held_out = (
        Vectors(vectors[:known], labels[:known]),
        Vectors(vectors[known:], labels[known:]),
    )
    order = np.linalg.norm(held_out.vectors[:, None] - fit.vectors, axis=2).argsort(
        axis=1
    )[:, :10]
    voted = (
        (fit.labels[order][:, :, None] == np.arange(4)).sum(axis=1).argmax(axis=1)
    )  # the smallest in a tie
    matrix = metrics.confusion_matrix(held_out.labels, voted, labels=range(10))
    separation = neighbour_separation(fit, held_out)
    assert separation.pop("accuracy") == pytest.approx(
        100 * (voted == held_out.labels).mean()
    )
    assert separation == {
        "accuracy_per_class": accuracy_per_class(matrix),
        "pairs": confused_pairs(matrix),
    }


def test_the_linear_classifier_is_a_logistic_regression_on_the_scale_of_the_fitted_vectors():
    rng, labels = np.random.default_rng(1), np.arange(900) % 9
    vectors = (
        rng.normal(size=(9, 30))[labels] + 3 * rng.normal(size=(900, 30))
    ) * np.logspace(-2, 2, 30) + 5
    vectors[:, 0], vectors[100:] = 1, 2 * vectors[100:] + 3
    fit, held_out = (
        Vectors(vectors[:100], labels[:100]),
        Vectors(vectors[100:], labels[100:]),
    )
    known = pipeline.make_pipeline(
        preprocessing.StandardScaler(), linear_model.LogisticRegression(C=0.01)
    ).fit(*fit)
    assert linear_accuracy(fit, held_out) == pytest.approx(
        100 * known.score(*held_out), abs=0.2
    )  # one vector


def test_the_variance_between_classes_is_that_of_their_means_counted_as_often_as_their_members():
    means, labels = np.array([[0, 0, 7], [6, 1, 7]]), np.array([0, 0, 0, 0, 1, 1])
    vectors = means[labels] + [
        [1, 0, 0],
        [-1, 0, 0],
        [1, 2, 0],
        [-1, -2, 0],
        [0, 1, 0],
        [0, -1, 0],
    ]
    between, within = [8, 2 / 9], [4 / 6, 10 / 6]  # 36 and 1 times 4/6 times 2/6
    for offset, precise in ((0, np.float64), (1e4, np.float32)):
        shares, in_all = between_classes(
            Vectors((vectors + offset).astype(precise), 3 * labels + 2)
        )
        assert shares == pytest.approx(
            [8 / (8 + within[0]), between[1] / (between[1] + within[1]), 0]
        )
        assert in_all == pytest.approx(sum(between) / (sum(between) + sum(within)))
    assert between_classes(Vectors(np.ones((4, 3)), np.arange(4)))[1] == 0
