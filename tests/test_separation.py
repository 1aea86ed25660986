"""What is said about the classes: confusions, neighbours and a linear classifier, each by hand as well."""

import numpy as np
import pytest

from common.data import Vectors
from common.separation import accuracy_per_class, confused_pairs, neighbour_separation
from task4 import linear_accuracy


def matrix_of(counts):
    """A confusion matrix from {(true, predicted): count}."""
    matrix = np.zeros((10, 10), int)
    for place, count in counts.items():
        matrix[place] = count
    return matrix


def test_confused_pairs_count_both_directions_as_a_share_of_both_classes():
    matrix = matrix_of({(3, 3): 1, (3, 5): 1, (5, 3): 2, (5, 5): 1, (7, 7): 1})
    assert confused_pairs(matrix, 1) == [{"classes": [3, 5], "images": 3, "share": pytest.approx(60)}]


def test_confused_pairs_are_ordered_by_share_not_by_images():
    counts = {(0, 0): 90, (0, 1): 6, (1, 1): 100, (2, 4): 1, (4, 4): 3, (6, 6): 996, (6, 1): 4, (8, 8): 10}
    pairs = confused_pairs(matrix_of({**counts, (9, 8): 2, (9, 9): 8}), count=4)
    assert [(pair["classes"], pair["images"]) for pair in pairs] == [([2, 4], 1), ([8, 9], 2), ([0, 1], 6), ([1, 6], 4)]
    assert [pair["share"] for pair in pairs] == pytest.approx([25, 10, 600 / 196, 400 / 1100])


def test_accuracy_per_class_is_the_recall_and_none_without_images():
    matrix = matrix_of({(0, 0): 3, (0, 1): 1, (1, 1): 2, (2, 0): 5})
    assert accuracy_per_class(matrix) == [75, 100, 0] + [None] * 7


def overlapping_classes(dimensions, seed=0):
    """Two splits of four overlapping classes, the tested ones without ties among their ten nearest neighbours."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, dimensions))

    def split(count):
        labels = rng.integers(0, 4, count)
        return Vectors(centres[labels] + rng.normal(size=(count, dimensions)), labels)

    known, tested = split(80), split(150)
    votes = ten_neighbours_vote(known, tested.vectors)
    clear = np.sort(votes, axis=1)[:, -1] > np.sort(votes, axis=1)[:, -2]
    return known, Vectors(tested.vectors[clear], tested.labels[clear]), votes[clear].argmax(axis=1)


def ten_neighbours_vote(known, vectors):
    """The number of votes [N, 4] of the ten nearest neighbours, by all distances."""
    distances = np.linalg.norm(vectors[:, None] - known.vectors, axis=2)
    neighbours = known.labels[np.argsort(distances, axis=1)[:, :10]]
    return np.stack([(neighbours == number).sum(axis=1) for number in range(4)], axis=1)


@pytest.mark.parametrize("dimensions", [1, 2, 5, 6, 20])
def test_neighbours_vote_as_by_all_distances(dimensions):
    known, tested, voted = overlapping_classes(dimensions)
    separation = neighbour_separation(known, tested)
    right = voted == tested.labels
    assert 0 < right.mean() < 1
    assert separation["accuracy"] == pytest.approx(100 * right.mean())
    for number in range(4):
        recall = 100 * right[tested.labels == number].mean()
        assert separation["accuracy_per_class"][number] == pytest.approx(recall)
    first, second = separation["pairs"][0]["classes"]
    crossed = ((tested.labels == first) & (voted == second)) | ((tested.labels == second) & (voted == first))
    assert separation["pairs"][0]["images"] == crossed.sum() > 0


def two_groups(labels, count=15):
    """Points around -1 and 1 on a line, in two dimensions, with a label for each group."""
    places = np.repeat([[-1.0, -1.0], [1.0, 1.0]], count, axis=0)
    jitter = np.random.default_rng(1).normal(0, 0.01, places.shape)
    return Vectors(places + jitter, np.repeat(labels, count))


@pytest.mark.parametrize("accuracy", [neighbour_separation, linear_accuracy])
def test_a_classifier_learns_from_the_known_and_is_tested_on_the_others(accuracy):
    for labels, expected in (([4, 7], 100), ([7, 4], 0)):
        result = accuracy(two_groups([4, 7]), two_groups(labels))
        assert (result["accuracy"] if isinstance(result, dict) else result) == expected


def test_fewer_known_than_ten_are_all_asked():
    known = Vectors(np.array([[0.0], [1], [2]]), np.array([1, 1, 2]))
    assert neighbour_separation(known, Vectors(np.array([[2.0]]), np.array([1])))["accuracy"] == 100


def test_the_linear_classifier_scales_by_the_known_alone():
    # Of the known, the first dimension names the class always, the second in three of four cases. With both brought to
    # the same scale the first decides; where the far tested points stretch it, or where nothing is scaled, the second.
    side = np.tile([-1, 1], 100)
    misleading = np.where(np.arange(200) % 8 < 6, side, -side)
    known = Vectors(np.stack([0.01 * side, misleading], axis=1), (side > 0).astype(int))
    tested_side = np.tile([-1, 1], 10)
    tested = np.stack([0.01 * tested_side, -tested_side], axis=1)
    tested[:2, 0] *= 10_000
    assert linear_accuracy(known, Vectors(tested, (tested_side > 0).astype(int))) == 100


def test_the_linear_classifier_ignores_what_is_constant():
    constant = np.full((30, 1), 3.0)
    known, tested = (
        Vectors(np.concatenate([data.vectors, constant], axis=1), data.labels) for data in 2 * [two_groups([4, 7])]
    )
    assert linear_accuracy(known, tested) == 100
