"""Task 2 on small data: every number and figure is what scikit-learn finds; corner
cases by hand.
"""

from itertools import permutations

import numpy as np
import pytest
from conftest import figures_of
from sklearn import decomposition, metrics

import task2
from common.data import Vectors, digest, load_data
from common.pca import PCA
from common.script import script_parser
from common.separation import linear_accuracy, neighbour_separation

CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # of single precision


@pytest.fixture(scope="module")
def ran(small_mnist, tmp_path_factory):
    """The results of task 2, its figures, which stay open as they do with --show, and
    both splits.
    """
    folder = tmp_path_factory.mktemp("task2")
    flags = ["--seed=2", f"--data-dir={small_mnist}", f"--figures={folder}"]
    results, figures = figures_of(
        task2.main, script_parser("", data=True).parse_args(flags)
    )
    return results, figures, load_data(True, small_mnist), load_data(False, small_mnist)


@pytest.fixture(scope="module")
def exact(ran):
    """Train vectors [N, 784] in double precision, scikit-learn's PCA of them in our
    signs, both splits projected.
    """
    vectors, tested = (split.images.reshape(-1, 784) / 127.5 - 1 for split in ran[2:])
    pca = decomposition.PCA(svd_solver="full").fit(vectors)
    pca.components_ *= np.sign([[row[np.abs(row).argmax()]] for row in pca.components_])
    return vectors, pca, pca.transform(vectors), pca.transform(tested)


def test_the_results_describe_both_splits(ran, exact):
    results, _, (images, labels), test = ran
    assert (results["seed"], results["data"]) == (
        2,
        {"train": digest(ran[2]), "test": digest(test)},
    )
    for name, array in (
        ("statistics", images),
        ("vectors", np.float32(exact[0])),
        ("labels", labels),
    ):
        expected = {
            "min": array.min(),
            "max": array.max(),
            "mean": pytest.approx(array.mean(), rel=1e-5),
        }
        assert results[name] == {
            **expected,
            "shape": list(array.shape),
            "dtype": str(array.dtype),
        }


def test_the_components_and_what_is_said_of_them_are_those_of_scikit_learn(ran, exact):
    said, labels, (vectors, pca, points, _) = ran[0]["components"], ran[2].labels, exact
    shares, count = pca.explained_variance_ratio_, task2.COMPONENTS
    np.testing.assert_allclose(said["variance_shares"], shares[:count], **CLOSE)
    assert said["components_for_share"] == {
        "0.5": 1 + np.searchsorted(np.cumsum(shares), 0.5)
    }
    pairs = list(permutations(range(10), 2))
    means = np.stack([vectors[labels == number].mean(axis=0) for number in range(10)])
    cosines = metrics.pairwise.cosine_similarity(
        pca.components_[:count], [means[k] - means[m] for k, m in pairs]
    )
    assert [tuple(one["classes"]) for one in said["closest_differences"]] == [
        pairs[k] for k in cosines.argmax(axis=1)
    ]
    assert [one["cosine"] for one in said["closest_differences"]] == pytest.approx(
        cosines.max(axis=1), abs=1e-3
    )
    closer = decomposition.PCA(9, svd_solver="full").fit(
        means[labels] + (vectors - means[labels]) / 5
    )
    assert said["easy_first_nine"] == pytest.approx(
        closer.explained_variance_ratio_.sum(), rel=2e-3
    )  # 1/N as 1/(N-1)
    means = pca.transform(means)
    between = means[labels].var(axis=0) / points.var(axis=0)
    np.testing.assert_allclose(
        said["between_classes"]["components"], between[:count], **CLOSE
    )
    np.testing.assert_allclose(
        list(ran[0]["class_means"].values()), means[:, :2], **CLOSE
    )


def test_classifiers_know_the_train_split_and_are_tested_on_the_other(ran, exact):
    results, _, train, test = ran
    columns = (
        results["classifiers"][name] for name in ("components", "neighbours", "linear")
    )
    for count, near, linear in zip(*columns, strict=True):
        fit, held_out = (
            Vectors(exact[2][:, :count], train.labels),
            Vectors(exact[3][:, :count], test.labels),
        )
        some = Vectors(
            *(array[:: -(-len(array) // task2.LINEAR_IMAGES)] for array in fit)
        )
        assert near == pytest.approx(
            neighbour_separation(fit, held_out)["accuracy"], abs=0.5
        )  # one image
        assert linear == pytest.approx(linear_accuracy(some, held_out), abs=0.5)
    plane = neighbour_separation(
        Vectors(exact[2][:, :2], train.labels), Vectors(exact[3][:, :2], test.labels)
    )
    assert results["plane"] == plane


def test_the_figures_show_the_data_and_the_results(ran, exact):
    (
        (results, (examples, components, plane, spectrum), (images, labels), _),
        (_, pca, points, _),
    ) = ran, exact
    for number, axes in enumerate(examples.axes):
        assert axes.get_title() == str(number)
        assert (
            (images[labels == number] == axes.images[0].get_array())
            .all(axis=(1, 2))
            .any()
        )
    rows = np.reshape(
        [axes.images[0].get_array() for axes in components.axes], (3, -1, 784)
    )
    for low, drawn, high, component, variance in zip(
        *rows, pca.components_, pca.explained_variance_, strict=False
    ):
        np.testing.assert_allclose(drawn, component, atol=1e-3)
        moved = pca.mean_ + np.multiply.outer([-2, 2], variance**0.5 * component)
        np.testing.assert_allclose(
            [low, high], (127.5 * moved + 127.5).clip(0, 255), atol=1.01
        )  # cut to integers
    drawn = plane.axes[0].collections[0].get_offsets().data
    distances = np.linalg.norm(drawn[:, None] - points[:, :2], axis=2)
    nearest = distances.argmin(axis=1)
    assert distances.min(axis=1).max() < 1e-3
    assert len(set(nearest)) == results["shown_points"] == min(600, task2.SHOWN_POINTS)
    recalls = results["plane"]["accuracy_per_class"]
    for number, axes in zip(
        sorted(range(10), key=lambda number: -recalls[number]),
        plane.axes[1:11],
        strict=True,
    ):
        assert axes.get_title() == f"{number} · recall {recalls[number]:.0f} %"
        assert np.array_equal(
            axes.collections[1].get_offsets(), drawn[labels[nearest] == number]
        )
    (easy, held), curves = (
        [line.get_ydata() for line in axes.lines[:2]] for axes in spectrum.axes
    )
    np.testing.assert_allclose(
        held[: len(pca.components_)],
        100 * np.cumsum(pca.explained_variance_ratio_),
        **CLOSE,
    )
    assert (easy[8], easy[-1]) == pytest.approx(
        (100 * results["components"]["easy_first_nine"], 100)
    )
    assert np.array_equal(
        curves, [results["classifiers"][name] for name in ("neighbours", "linear")]
    )
    assert f"first nine: {held[8]:.0f} %" in {
        text.get_text() for text in spectrum.axes[0].texts
    }


def test_some_classes_and_directions_that_do_not_vary_are_enough():
    labels, axes = (
        np.repeat([2, 5, 7], 2),
        np.array([[0.6, -0.8, 0], [-0.28, 0.96, 0], [0, 0, 1]]),
    )
    vectors = np.array(
        [[1.0, -1, 8], [-1, 1, 8], [4, 2, 8], [4, -2, 8], [-1, 3, 8], [1, 3, 8]]
    )
    first, second, third = task2.closest_class_difference(axes, vectors, labels)
    assert (first["classes"], first["cosine"]) == (
        (5, 7),
        pytest.approx(0.96),
    )  # of (4, -3) / 5
    assert (second["classes"], third["cosine"]) == (
        (7, 2),
        0,
    )  # 7 - 5 has the greater dot product
    assert not task2.easy_shares(
        np.ones((6, 4)), labels, PCA(np.eye(4), np.zeros(4), np.ones(4))
    ).any()
    panels = task2.projection_figure(
        np.eye(6, 2), labels, np.ones(2), [None] * 9 + [50]
    ).axes[1:11]
    assert [axes.get_title() for axes in panels] == [
        "9 · recall 50 %",
        *map(str, range(9)),
    ]  # the best is the first
