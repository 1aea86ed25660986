"""Task 2 on small data: every number and figure is what scikit-learn finds; corner cases by hand."""

import json
from itertools import permutations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn import decomposition, metrics, neighbors

import task2
from common.data import digest, load_data
from common.pca import PCA
from common.script import script_parser

CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # of single precision


@pytest.fixture(scope="module")
def ran(small_mnist, tmp_path_factory):
    """The results of task 2, its figures, which stay open as they do with --show, and both splits."""
    folder = tmp_path_factory.mktemp("task2")
    flags = ["--seed", "2", "--data-dir", str(small_mnist), "--figures", str(folder)]
    plt.switch_backend("svg")
    task2.main(script_parser("", data=True).parse_args(flags))
    figures = [plt.figure(number) for number in plt.get_fignums()[-4:]]
    plt.close("all")
    plt.switch_backend("agg")
    results = json.loads((folder / "task2.json").read_text(encoding="utf-8"))
    return results, figures, load_data(True, small_mnist), load_data(False, small_mnist)


@pytest.fixture(scope="module")
def exact(ran):
    """Train vectors [N, 784] in double precision, scikit-learn's PCA of them in our signs, both splits projected."""
    vectors, tested = (split.images.reshape(-1, 784) / 127.5 - 1 for split in ran[2:])
    pca = decomposition.PCA(svd_solver="full").fit(vectors)
    pca.components_ *= np.sign([[row[np.abs(row).argmax()]] for row in pca.components_])
    return vectors, pca, pca.transform(vectors), pca.transform(tested)


def test_the_results_describe_both_splits(ran, exact):
    results, _, (images, labels), test = ran
    assert (results["seed"], results["data"]) == (2, {"train": digest(ran[2]), "test": digest(test)})
    for name, array in (("statistics", images), ("vectors", np.float32(exact[0])), ("labels", labels)):
        expected = {"min": array.min(), "max": array.max(), "mean": pytest.approx(array.mean(), rel=1e-5)}
        assert results[name] == {**expected, "shape": list(array.shape), "dtype": str(array.dtype)}
    assert task2.describe(np.array([1e8, 1, -1e8, 2], np.float32))["mean"] == 0.75  # summed in double precision


def test_the_components_and_what_is_said_of_them_are_those_of_scikit_learn(ran, exact):
    found, labels, (vectors, pca, points, _) = ran[0]["components"], ran[2].labels, exact
    shares, count = pca.explained_variance_ratio_, task2.COMPONENTS
    np.testing.assert_allclose(found["variance_shares"], shares[:count], **CLOSE)
    needed = {share: 1 + np.searchsorted(np.cumsum(shares), float(share)) for share in ("0.5", "0.8", "0.9", "0.95")}
    assert found["components_for_share"] == needed
    pairs = list(permutations(range(10), 2))
    means = np.stack([vectors[labels == number].mean(axis=0) for number in range(10)])
    cosines = metrics.pairwise.cosine_similarity(pca.components_[:count], [means[k] - means[m] for k, m in pairs])
    differences = found["closest_differences"]
    assert [tuple(each["classes"]) for each in differences] == [pairs[k] for k in cosines.argmax(axis=1)]
    assert [each["cosine"] for each in differences] == pytest.approx(cosines.max(axis=1), abs=1e-3)
    assert found["between_classes"]["all"] == pytest.approx(means[labels].var(axis=0).sum() / vectors.var(axis=0).sum())
    means = pca.transform(means)
    between = means[labels].var(axis=0) / points.var(axis=0)
    np.testing.assert_allclose(found["between_classes"]["components"], between[:count], **CLOSE)
    np.testing.assert_allclose(list(ran[0]["class_means"].values()), means[:, :2], **CLOSE)


def test_neighbours_know_the_train_split_and_are_tested_on_the_other(ran, exact):
    results, _, train, test = ran
    assert results["neighbours"]["components"] == list(task2.NEIGHBOUR_COMPONENTS)
    for count, accuracy in [*zip(*results["neighbours"].values(), strict=True), (2, results["plane"]["accuracy"])]:
        known = neighbors.KNeighborsClassifier(10).fit(exact[2][:, :count], train.labels)
        assert accuracy == pytest.approx(100 * known.score(exact[3][:, :count], test.labels), abs=0.5)  # one image


def test_the_figures_show_the_data_and_the_results(ran, exact):
    (results, (examples, components, plane, spectrum), (images, labels), _), (_, pca, points, _) = ran, exact
    for number, axes in enumerate(examples.axes):
        assert axes.get_title() == str(number)
        assert (images[labels == number] == axes.images[0].get_array()).all(axis=(1, 2)).any()
    rows = np.reshape([axes.images[0].get_array() for axes in components.axes], (3, -1, 784))
    for low, drawn, high, component, variance in zip(*rows, pca.components_, pca.explained_variance_, strict=False):
        np.testing.assert_allclose(drawn, component, atol=1e-3)
        moved = pca.mean_ + np.multiply.outer([-2, 2], variance**0.5 * component)
        np.testing.assert_allclose([low, high], (127.5 * moved + 127.5).clip(0, 255), atol=1.01)  # cut to integers
    drawn = plane.axes[0].collections[0].get_offsets().data
    distances = np.linalg.norm(drawn[:, None] - points[:, :2], axis=2)
    nearest = distances.argmin(axis=1)
    assert distances.min(axis=1).max() < 1e-3
    assert len(set(nearest)) == results["shown_points"] == min(600, task2.SHOWN_POINTS)
    for number, axes in enumerate(plane.axes[1:11]):
        assert axes.get_title() == f"{number} · {results['plane']['accuracy_per_class'][number]:.0f} %"
        assert np.array_equal(axes.collections[1].get_offsets(), drawn[labels[nearest] == number])
    goals = {f"{100 * float(share):.0f} % in {n}" for share, n in results["components"]["components_for_share"].items()}
    assert len(goals & {text.get_text() for text in spectrum.axes[0].texts}) == 3


def test_some_classes_and_directions_that_do_not_vary_are_enough():
    labels = np.array([2, 2, 5, 5, 7, 7])  # with their means at (0, 0), (4, 0) and (0, 3)
    vectors = np.array([[1.0, -1, 8], [-1, 1, 8], [4, 2, 8], [4, -2, 8], [-1, 3, 8], [1, 3, 8]])
    axes = np.array([[0.6, -0.8, 0], [-0.28, 0.96, 0], [0, 0, 1]])
    first, second, third = task2.closest_class_difference(axes, vectors, labels)
    assert first == {"classes": [5, 7], "cosine": pytest.approx(0.96)}  # (4, -3) / 5
    assert second == {"classes": [7, 2], "cosine": pytest.approx(0.96)}  # 7 - 5 has the greater dot product
    assert third["cosine"] == task2.between_classes(vectors, labels)[0][2] == 0
    components = task2.describe_components(PCA(np.eye(5), np.array([2.0, 1, 1, 0, 0]), np.zeros(5)))
    assert components["components_for_share"] == {"0.5": 1, "0.8": 3, "0.9": 3, "0.95": 3}
    assert components["constant_directions"] == 2
