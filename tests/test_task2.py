"""Task 2 on small data: every number and figure is what scikit-learn finds."""

import argparse

import numpy as np
import pytest
from conftest import figures_of
from sklearn import decomposition, metrics

import task2
from common.data import Vectors, digest, load_data
from common.separation import linear_classifier, neighbour_separation


def assert_close(ours, expected, tolerance=1e-4):  # of single precision
    np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def ran(small_mnist, tmp_path_factory):
    """The results of task 2, its figures, and both splits."""
    folder = tmp_path_factory.mktemp("task2")
    options = argparse.Namespace(seed=2, data_dir=small_mnist, figures=folder)
    results, figures = figures_of(task2.main, options)
    return results, figures, load_data(True, small_mnist), load_data(False, small_mnist)


@pytest.fixture(scope="module")
def exact(ran):
    """Train vectors [N, 784] in double precision, scikit-learn's PCA of them in our
    signs, and both splits in its coordinates.
    """
    _, _, train, test = ran
    vectors = train.images.reshape(-1, 784) / 127.5 - 1
    test_vectors = test.images.reshape(-1, 784) / 127.5 - 1
    pca = decomposition.PCA(svd_solver="full").fit(vectors)
    rows = pca.components_
    rows *= np.sign(rows.max(axis=1) + rows.min(axis=1))[:, None]
    points = Vectors(pca.transform(vectors), train.labels)
    return vectors, pca, points, Vectors(pca.transform(test_vectors), test.labels)


def first(data, count):
    return Vectors(data.vectors[:, :count], data.labels)


def test_the_results_describe_both_splits(ran, exact):
    results, _, train, test = ran
    assert results["data"] == {"train": digest(train), "test": digest(test)}
    vectors = np.float32(exact[0])
    for name, array in (("statistics", train.images), ("vectors", vectors)):
        assert results[name] == {
            "min": array.min(),
            "max": array.max(),
            "mean": pytest.approx(array.mean(), rel=1e-5),
            "shape": list(array.shape),
            "dtype": str(array.dtype),
        }


def test_the_components_and_what_is_said_of_them_are_those_of_scikit_learn(ran, exact):
    said = ran[0]["components"]
    vectors, pca, points, _ = exact
    components = pca.components_[:10]
    shares = pca.explained_variance_ratio_
    assert_close(said["variance_shares"], shares[:10])

    labels = points.labels
    means = np.stack([vectors[labels == digit].mean(axis=0) for digit in range(10)])
    differences = (means[:, None] - means).reshape(100, 784)
    cosines = metrics.pairwise.cosine_similarity(components, differences)
    closest = said["closest_differences"]
    pairs = np.array([row["classes"] for row in closest]) @ [10, 1]
    assert pairs.tolist() == cosines.argmax(axis=1).tolist()
    assert_close([row["cosine"] for row in closest], cosines.max(axis=1))

    closer = means[labels] + (vectors - means[labels]) / task2.CLOSER
    easy = decomposition.PCA(9, svd_solver="full").fit(closer)
    held = easy.explained_variance_ratio_.sum()
    assert_close(said["easy_first_nine"], held, 5e-4)  # 1/N as 1/(N-1)
    span = np.linalg.pinv(differences) @ differences  # projects onto it
    inside = ((components @ span) ** 2).sum(axis=1)
    easy_inside = ((easy.components_ @ span) ** 2).sum(axis=1)
    assert_close(said["in_class_span"], inside)
    assert_close(said["easy_in_class_span"], easy_inside, 1e-3)

    coordinates = pca.transform(means)[:, :2]
    assert_close(list(ran[0]["class_means"].values()), coordinates)


def test_classifiers_know_the_train_split_and_are_tested_on_the_other(ran, exact):
    said = ran[0]["classifiers"]
    _, _, train, test = exact
    plane = neighbour_separation(first(train, 2), first(test, 2))
    assert ran[0]["plane"] == plane
    assert len(plane["pairs"]) == 6
    for k, count in enumerate(said["components"]):
        fit = first(train, count)
        held_out = first(test, count)
        neighbours = neighbour_separation(fit, held_out)["accuracy"]
        assert_close(said["neighbours"][k], neighbours, 0.01)  # one image
        linear = 100 * linear_classifier(fit).score(held_out.vectors, held_out.labels)
        assert_close(said["linear"][k], linear, 0.01)


def test_the_examples_and_components_are_drawn(ran, exact):
    _, (examples, components, _, _), (images, labels), _ = ran
    _, pca, _, _ = exact
    for digit, axes in enumerate(examples.axes):
        assert axes.get_title() == str(digit)
        drawn = axes.images[0].get_array()
        assert (images[labels == digit] == drawn).all(axis=(1, 2)).any()
    drawn = [axes.images[0].get_array() for axes in components.axes]
    low, middle, high = np.reshape(drawn, (3, 10, 784))
    assert_close(middle, pca.components_[:10], 1e-3)
    step = 2 * np.sqrt(pca.explained_variance_[:10, None]) * pca.components_[:10]
    for image, vectors in ((low, pca.mean_ - step), (high, pca.mean_ + step)):
        expected = (127.5 * vectors + 127.5).clip(0, 255)
        assert np.abs(image - expected).max() < 1.01  # cut to integers


def test_the_plane_and_the_spectrum_are_drawn(ran, exact):
    results, (_, _, plane, spectrum), (_, labels), _ = ran
    _, pca, points, _ = exact
    drawn = plane.axes[0].collections[0].get_offsets().data
    distances = metrics.pairwise_distances(drawn, points.vectors[:, :2])
    nearest = distances.argmin(axis=1)
    assert distances.min(axis=1).max() < 1e-3
    assert len(set(nearest)) == results["settings"]["shown_points"]
    recalls = np.array(results["plane"]["recall"])
    precisions = results["plane"]["precision"]
    for digit, axes in zip(np.argsort(-recalls), plane.axes[1:11], strict=True):
        shares = f"{recalls[digit]:.0f} / {precisions[digit]:.0f} %"
        assert axes.get_title() == f"{digit} · {shares}"
        members = axes.collections[1].get_offsets()
        assert np.array_equal(members, drawn[labels[nearest] == digit])

    left, right = spectrum.axes
    easy = left.lines[0].get_ydata()
    held = left.lines[1].get_ydata()
    assert_close(held[:600], 100 * np.cumsum(pca.explained_variance_ratio_))
    assert_close(easy[8], 100 * results["components"]["easy_first_nine"])
    assert f"first 9: {held[8]:.0f} %" in [text.get_text() for text in left.texts]
    curves = [list(line.get_ydata()) for line in right.lines]
    for name in ("neighbours", "linear"):
        assert results["classifiers"][name] in curves
