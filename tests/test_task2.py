"""The numbers of task 2: statistics, what the components hold and mean, and the plane of the first two."""

import argparse
import json

import numpy as np
import pytest
import sklearn.decomposition
from sklearn.neighbors import KNeighborsClassifier

import task2
from common.data import digest, load_data
from common.pca import PCA

EXACT = {"rtol": 1e-9, "atol": 1e-12}


def pca_with(eigenvalues):
    """A PCA with these eigenvalues, whose components are the axes."""
    return PCA(np.eye(len(eigenvalues)), np.array(eigenvalues, float), np.zeros(len(eigenvalues)))


def test_statistics_are_plain_values_for_the_results():
    statistics = task2.describe(np.array([[3, 250], [7, 10]], np.uint8))
    assert statistics == {"min": 3, "max": 250, "mean": 67.5, "shape": [2, 2], "dtype": "uint8"}
    assert json.loads(json.dumps(statistics)) == statistics


def test_the_mean_of_single_precision_is_taken_in_double():
    assert task2.describe(np.array([1e8, 1, -1e8, 2], np.float32))["mean"] == 0.75


@pytest.mark.parametrize(
    ("eigenvalues", "expected"),
    [
        ([51, 30, 10, 5, 4], {"0.5": 1, "0.8": 2, "0.9": 3, "0.95": 4}),
        ([98, 60, 20, 11, 11], {"0.5": 2, "0.8": 3, "0.9": 4, "0.95": 5}),
        ([2, 1, 1], {"0.5": 1, "0.8": 3, "0.9": 3, "0.95": 3}),  # the first holds half exactly
    ],
)
def test_so_many_components_hold_a_share(eigenvalues, expected):
    assert task2.describe_components(pca_with(eigenvalues))["components_for_share"] == expected


def test_the_first_ten_shares_and_the_constant_directions_are_given():
    components = task2.describe_components(pca_with([40, 20, 10, 10, 5, 5, 4, 3, 2, 0.9, 0.1, 1e-8, 0]))
    assert components["variance_shares"] == pytest.approx([0.4, 0.2, 0.1, 0.1, 0.05, 0.05, 0.04, 0.03, 0.02, 0.009])
    assert components["constant_directions"] == 2


def test_a_component_is_named_by_the_difference_of_means_of_greatest_cosine():
    # the means of classes 2, 5 and 7 lie at (0, 0), (4, 0) and (0, 3)
    vectors = np.array([[1.0, -1], [-1, 1], [4, 2], [4, -2], [-1, 3], [1, 3]])
    labels = np.array([2, 2, 5, 5, 7, 7])
    components = np.array([[1, 0], [0, -1], [0.6, -0.8], [-0.28, 0.96]])
    assert task2.closest_class_difference(components, vectors, labels) == [
        {"classes": [5, 2], "cosine": pytest.approx(1)},
        {"classes": [2, 7], "cosine": pytest.approx(1)},
        {"classes": [5, 7], "cosine": pytest.approx(0.96)},  # (4, -3) / 5
        {"classes": [7, 2], "cosine": pytest.approx(0.96)},  # (-4, 3) / 5 has the greater dot product, the cosine 0.8
    ]


def test_between_classes_is_a_share_of_each_dimension_and_of_all_by_hand():
    labels = np.array([5, 6, 5])
    vectors = np.array([[0.0, 1], [10, 0], [2, -1]])  # between 18 and 0, within 2/3 and 2/3
    shares, of_all = task2.between_classes(vectors, labels)
    np.testing.assert_allclose(shares, [18 / (18 + 2 / 3), 0], **EXACT)
    assert of_all == pytest.approx(18 / (18 + 4 / 3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_share_between_classes_is_the_variance_left_when_each_vector_is_its_class_mean(dtype):
    rng = np.random.default_rng(0)
    vectors, labels = (rng.normal(size=(50, 6)) + 3).astype(dtype), rng.integers(0, 10, 50)
    exact = vectors.astype(np.float64)
    means = np.stack([exact[labels == label].mean(axis=0) for label in labels])
    shares, of_all = task2.between_classes(vectors, labels)
    np.testing.assert_allclose(shares, means.var(axis=0) / exact.var(axis=0), **EXACT)
    np.testing.assert_allclose(1 - shares, (exact - means).var(axis=0) / exact.var(axis=0), **EXACT)
    np.testing.assert_allclose(of_all, means.var(axis=0).sum() / exact.var(axis=0).sum(), **EXACT)


def texts(figure):
    """Every text that a figure shows."""
    axes = figure.axes
    shown = [text.get_text() for each in axes for text in each.texts] + [each.get_title() for each in axes]
    return set(shown + [each.get_xlabel() for each in axes] + [each.get_ylabel() for each in axes])


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([0.3, 0.21, 0.1, 0.1, 0.1, 0.1, 0.03, 0.02, 0.02, 0.02], {"51 % in 2", "50 % in 2", "90 % in 6", "95 % in 8"}),
        ([0.5] + 10 * [0.05], {"55 % in 2", "50 % in 1", "90 % in 9", "95 % in 10"}),
    ],
)
def test_the_figure_of_the_spectrum_names_the_numbers_of_components(shares, expected):
    figure = task2.spectrum_figure(np.array(shares), (1, 2, 5), (20.4, 45.6, 80.2))
    assert expected | {"20", "46", "80"} <= texts(figure)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), 100 * np.cumsum(shares), **EXACT)


def test_the_figure_of_the_plane_names_shares_and_accuracies():
    points, labels = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 4
    figure = task2.projection_figure(points, labels, np.array([0.345, 0.123]), [98.2, 40, 0, 7.6] + [None] * 6)
    assert {"component 1 (34.5 %)", "component 2 (12.3 %)", "0 · 98 %", "2 · 0 %", "3 · 8 %", "4"} <= texts(figure)
    assert len(figure.axes[1].collections[1].get_offsets()) == 10  # class 0 over all


def test_the_figure_of_the_components_moves_the_mean_by_two_standard_deviations():
    vectors = PCA(np.eye(784), np.geomspace(1 / 16, 1e-9, 784), np.zeros(784))
    low, component, high = (task2.components_figure(vectors).axes[place].images[0].get_array() for place in (0, 10, 20))
    assert (low[0, 0], high[0, 0], low[0, 1], high[0, 1]) == (63, 191, 127, 127)  # 127.5 × (1 ∓ 2/4)
    assert component[0, 0] == 1


FIGURES = ("image_grid", "components_figure", "spectrum_figure", "projection_figure")


@pytest.fixture(scope="module")
def drawn_and_answered(small_mnist, tmp_path_factory):
    """What each figure of task 2 is given on small data, and the results."""
    folder, given = tmp_path_factory.mktemp("task2"), {}

    def collect(name):
        return lambda *arguments, **settings: given.update({name: arguments})

    with pytest.MonkeyPatch.context() as patch:
        for name in FIGURES:
            patch.setattr(task2, name, collect(name))
        patch.setattr(task2, "save_figure", lambda figure, folder, name: None)
        task2.main(argparse.Namespace(seed=0, data_dir=small_mnist, figures=folder))
    return given, json.loads((folder / "task2.json").read_text(encoding="utf-8"))


@pytest.fixture
def answered(drawn_and_answered):
    """The results of task 2."""
    return drawn_and_answered[1]


def test_the_figures_show_what_the_results_say(drawn_and_answered, small_mnist):
    given, results = drawn_and_answered
    data = load_data(True, small_mnist)
    (examples,), titles = given["image_grid"]
    assert titles == list("0123456789")
    for number, image in enumerate(examples):
        assert np.array_equal(image, next(data.images[k] for k in range(600) if data.labels[k] == number))
    shares, counts, accuracies = given["spectrum_figure"]
    assert shares[:10].tolist() == results["components"]["variance_shares"]
    assert [list(counts), accuracies] == [results["neighbours"][name] for name in ("components", "accuracy")]
    points, labels, plane_shares, accuracy_per_class = given["projection_figure"]
    assert points.shape == (results["shown_points"], 2) == (600, 2)
    for number in range(10):
        mean = results["class_means"][str(number)]
        np.testing.assert_allclose(points[labels == number].mean(axis=0), mean, rtol=1e-3, atol=1e-3)
    assert plane_shares[:10].tolist() == results["components"]["variance_shares"]
    assert accuracy_per_class == results["plane"]["accuracy_per_class"]


def test_the_plane_is_that_of_the_train_split_and_judged_on_the_test_split(answered, small_mnist):
    train, test = (load_data(split, small_mnist) for split in (True, False))
    pca = sklearn.decomposition.PCA(2, svd_solver="full").fit(train.images.reshape(600, 784))
    planes = [pca.transform(split.images.reshape(-1, 784)) for split in (train, test)]
    neighbours = KNeighborsClassifier(10).fit(planes[0], train.labels)
    accuracy = pytest.approx(100 * neighbours.score(planes[1], test.labels), abs=0.5)  # a tie may fall otherwise
    assert answered["plane"]["accuracy"] == accuracy
    assert answered["neighbours"]["accuracy"][answered["neighbours"]["components"].index(2)] == accuracy
    means = np.array([planes[0][train.labels == number].mean(axis=0) for number in range(10)]) / 127.5
    given = np.array([answered["class_means"][str(number)] for number in range(10)])
    np.testing.assert_allclose(np.abs(given), np.abs(means), atol=1e-3)  # the signs are ours


def test_the_results_name_both_data_sets(answered, small_mnist):
    assert answered["data"] == {
        name: digest(load_data(split, small_mnist)) for name, split in (("train", True), ("test", False))
    }


def test_the_statistics_are_those_of_the_train_split(answered, small_mnist):
    images = load_data(True, small_mnist).images
    assert answered["statistics"]["mean"] == pytest.approx(images.mean())
    assert answered["statistics"]["shape"] == [600, 28, 28]
    assert answered["vectors"]["mean"] == pytest.approx(images.mean() / 127.5 - 1)
    assert answered["labels"] == {
        "min": 0,
        "max": 9,
        "mean": pytest.approx(answered["labels"]["mean"]),
        "shape": [600],
        "dtype": "int64",
    }


def test_the_components_of_the_results_are_the_first_ten(answered):
    components = answered["components"]
    assert [len(components[name]) for name in ("variance_shares", "closest_differences")] == [10, 10]
    between = components["between_classes"]
    assert len(between["components"]) == 10
    # a greater share of the first components than of all dimensions lies between the classes
    assert between["all"] < between["components"][0] < 1
    assert all(0.3 < pair["cosine"] < 1 for pair in components["closest_differences"][:2])


def test_what_does_not_vary_has_no_share_and_no_cosine():
    same, labels = np.ones((6, 3)), np.array([0, 0, 0, 1, 1, 1])
    shares, of_all = task2.between_classes(same, labels)
    assert (shares.tolist(), of_all) == ([0, 0, 0], 0)
    assert [entry["cosine"] for entry in task2.closest_class_difference(np.eye(3), same, labels)] == [0, 0, 0]
