"""The hidden features, their separation, and the shifted images, each with a case worked by hand."""

import argparse
import json
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import sklearn.decomposition
import torch
from torch import nn

import task4
from common.checks import Failure
from common.data import Images, convert_mnist_to_vectors, digest, load_data
from common.pca import PCA, do_pca, project
from task3 import MultilayerPerceptron, load_checkpoint, predict_probabilities, save_checkpoint
from task4 import extract_features, measure_separation, orient, resemblance, shifted_accuracy

pytestmark = pytest.mark.usefixtures("same_threads")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # of single precision


# 4.1 The features


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_features_are_what_stands_right_after_each_relu(dtype):
    torch.manual_seed(0)
    model = MultilayerPerceptron()
    expected = vectors = np.random.default_rng(0).normal(size=(6, 784)).astype(dtype)
    features = extract_features(model, vectors)
    linear = [layer for layer in model.layers if isinstance(layer, nn.Linear)]
    assert len(features) == 4
    for layer, array in zip(linear, features, strict=False):
        weight, bias = (parameter.detach().numpy() for parameter in (layer.weight, layer.bias))
        expected = np.maximum(expected @ weight.T + bias, 0)
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, expected, **CLOSE)
        assert (array == 0).any()


def save_network(path, epochs=1):
    """Save a network there."""
    model = MultilayerPerceptron()
    model.settings = {"epochs": epochs}
    save_checkpoint(model, path)


@pytest.fixture
def trainings(tmp_path, monkeypatch):
    """Make tmp_path/artifacts/mlp.pt the default checkpoint and tmp_path the working directory; count trainings."""

    def train_and_save(train_images, test_data, options):
        started.append((len(train_images.labels), test_data))
        save_network(options.checkpoint, epochs=10)

    started = []
    (tmp_path / "artifacts").mkdir()
    monkeypatch.setattr(task4, "CHECKPOINT", tmp_path.resolve() / "artifacts" / "mlp.pt")
    monkeypatch.setattr(task4, "train_and_save", train_and_save)
    monkeypatch.chdir(tmp_path)
    return started


@pytest.mark.parametrize("path", [None, "artifacts/mlp.pt", "./artifacts/../artifacts/mlp.pt"])
def test_the_default_checkpoint_is_made_once_however_it_is_named(path, trainings, small_mnist):
    path = Path(path) if path else task4.CHECKPOINT
    options = argparse.Namespace(checkpoint=path, data_dir=small_mnist, device="cpu")
    for _ in range(2):
        assert task4.load_or_train(options, "test data").settings == {"epochs": 10}
    assert trainings == [(600, "test data")]


def test_another_checkpoint_is_loaded_and_never_made(trainings, tmp_path):
    options = argparse.Namespace(checkpoint=tmp_path / "other.pt", data_dir=None, device="cpu")
    with pytest.raises(Failure, match=r"there is no checkpoint .*other\.pt"):
        task4.load_or_train(options, "test data")
    save_network(options.checkpoint, epochs=3)
    assert task4.load_or_train(options, "test data").settings == {"epochs": 3}
    assert trainings == []


# 4.2 The planes


@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_reflected_or_swapped_plane_is_turned_back(order, signs):
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 10
    plane = 3 * rng.normal(size=(10, 2))[labels] + rng.normal(size=(200, 2))
    before = 5 * plane + [100, -30]  # neither scale nor place matters
    np.testing.assert_allclose(orient(plane[:, order] * signs, before, labels), plane, **CLOSE)


def test_the_resemblance_is_the_correlation_of_class_means_once_they_are_turned():
    reference, plane = np.array([[-1.0, 0], [0, 0], [1, 0]]), np.array([[-1.0, 1], [0, -2], [1, 1]])
    labels = np.array([2, 4, 9])
    assert resemblance(plane, reference, labels) == pytest.approx(0.5)  # 2 / √(2 × 8)
    turned = 7 * plane[:, ::-1] * [-1, 1] + [3, 4]
    assert resemblance(orient(turned, reference, labels), reference, labels) == pytest.approx(0.5)
    assert resemblance(orient(turned, plane, labels), plane, labels) == pytest.approx(1)


# 4.3 The separation


def pca_with(eigenvalues):
    """A PCA with these eigenvalues, whose components are the axes."""
    return PCA(np.eye(len(eigenvalues)), np.array(eigenvalues, float), np.zeros(len(eigenvalues)))


def two_classes(count=400):
    """Vectors [N, 6] of noise, the points of two classes at two places, and the labels."""
    labels = np.arange(count) % 2
    vectors = np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)
    return vectors, labels[:, None] * [[3.0, 4.0]], labels


@pytest.mark.parametrize(
    ("eigenvalues", "variance", "components"),
    [([51, 30, 10, 5, 4], 81, 3), ([50, 20, 19, 6, 5], 70, 4), ([95, 4, 1], 99, 1)],
)
def test_the_variance_in_the_plane_and_the_components_for_nine_tenths_are_counted(eigenvalues, variance, components):
    measure = measure_separation(two_classes()[0], pca_with(eigenvalues), *two_classes()[1:], seed=0)
    assert measure["variance"] == pytest.approx(variance)
    assert measure["components_for_90"] == components


def test_a_unit_is_dead_only_if_it_is_exactly_zero_for_every_image():
    vectors, points, labels = two_classes()
    vectors[:, :4] = [0, 0, 5, 1e-30]  # dead, dead, constant, tiny
    vectors[7, 1] = 1e-30  # alive for one image
    assert measure_separation(vectors, pca_with([1] * 6), points, labels, seed=0)["dead_units"] == 1


def test_the_plane_is_measured_in_the_points_and_the_linear_classifier_in_the_vectors():
    vectors, points, labels = two_classes()
    measure = measure_separation(vectors, pca_with([1] * 6), points, labels, seed=0)
    assert measure["neighbours"] == 100
    assert measure["neighbours_per_class"] == [100, 100] + [None] * 8
    assert measure["silhouette"] == pytest.approx(1)
    assert measure["linear"] < 80
    vectors[:, 0] += 10 * labels
    measure = measure_separation(vectors, pca_with([1] * 6), 0 * points, labels, seed=0)
    assert measure["linear"] == 100
    assert measure["neighbours"] < 80
    assert measure["pairs"][0]["classes"] == [0, 1]
    assert measure["pairs"][0]["share"] == pytest.approx(100 - measure["neighbours"])
    assert measure["silhouette"] == pytest.approx(0)


@pytest.fixture
def halves(monkeypatch):
    """Collect what the classifiers are given: the known and the tested images of each."""
    given = []
    plane = {"accuracy": 0, "accuracy_per_class": [], "pairs": []}
    monkeypatch.setattr(task4, "neighbour_separation", lambda *splits: given.append(splits) or plane)
    monkeypatch.setattr(task4, "linear_accuracy", lambda *splits: given.append(splits) or 0.0)
    return given


def test_one_half_of_the_images_is_known_and_the_other_is_tested(halves):
    number = np.arange(41)
    for seed in (0, 1):
        measure_separation(
            number[:, None] * np.ones(3), pca_with([1, 1]), number[:, None] * np.ones(2), number % 7, seed
        )
    rows = [[split.vectors[:, 0].astype(int).tolist() for split in splits] for splits in halves]
    assert rows[0] == rows[1]  # the neighbours and the linear classifier have the same halves
    assert rows[2] == rows[3] != rows[0]
    for known, tested in rows:
        assert sorted(known + tested) == number.tolist()
        assert abs(len(known) - len(tested)) == 1
    for splits, classifier_rows in zip(halves, rows, strict=True):
        for split, numbers in zip(splits, classifier_rows, strict=True):
            assert split.labels.tolist() == [each % 7 for each in numbers]


# 4.4 The shifts


class Recognizes(nn.Module):
    """A network of which class 1 is every image with ink at one pixel, and class 0 any other."""

    def __init__(self, row, column):
        super().__init__()
        self.layer = nn.Linear(784, 2)
        with torch.no_grad():
            self.layer.weight.zero_()
            self.layer.weight[1, 28 * row + column] = 1
            self.layer.bias.zero_()

    def forward(self, vectors):
        return self.layer(vectors)


@pytest.mark.parametrize("place", [(14, 14), (0, 27)], ids=["in the middle", "at the corner, where shifts wrap around"])
def test_shifts_go_in_four_directions(place):
    # Five images of class 1, of which one has its ink in place and each other needs another shift: by 1 to the right,
    # 2 to the left, 3 down, 4 up. Unshifted one of five is right, else one of the twenty in four directions.
    images = np.zeros((5, 28, 28), np.uint8)
    for image, (down, right) in zip(images, ((0, 0), (0, 1), (0, -2), (3, 0), (-4, 0)), strict=True):
        image[(place[0] - down) % 28, (place[1] - right) % 28] = 255
    data = Images(images, np.ones(5, np.int64))
    assert shifted_accuracy(Recognizes(*place), data) == pytest.approx([20, 5, 5, 5, 5])


def test_the_labels_decide_what_is_right():
    data = Images(np.zeros((4, 28, 28), np.uint8), np.array([0, 0, 0, 1]))
    assert shifted_accuracy(Recognizes(3, 3), data) == pytest.approx([75] * 5)


# The figures


@pytest.mark.parametrize(
    ("values", "numbers", "names"),
    [((50, 48, 49), (62, 48, 55), (80, 48, 64)), ((30, 10, 20), (30, 10, 20), (42, 10, 26)), ((90, 45, 18),) * 3],
)
def test_numbers_and_names_are_raised_as_little_as_needed_to_stand_apart(values, numbers, names):
    keys = ("linear", "neighbours", "variance")
    figure = task4.features_figure([np.ones((1, 2))], np.zeros(1, int), [dict(zip(keys, values, strict=True))])
    heights = {text.get_text().split()[0]: text.get_position()[1] for text in figure.axes[5].texts}
    assert [heights[str(value)] for value in values] == list(numbers)
    assert [heights[key] for key in keys] == list(names)
    plt.close("all")


def measures_of(count):
    """Made-up measures, one after another."""
    keys = ("linear", "neighbours", "variance")
    return [
        {key: 10 * place + 3 * number for number, key in enumerate(keys)}
        | {"neighbours_per_class": [place] * 9 + [None]}
        for place in range(count)
    ]


def test_the_figure_of_the_features_names_each_accuracy_in_the_plane():
    rng = np.random.default_rng(0)
    points = [rng.normal(size=(40, 2)) for _ in range(5)]
    figure = task4.features_figure(points, np.arange(40) % 10, measures_of(5))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:5] == ["pixels · 3 %", "layer 1 · 13 %", "layer 2 · 23 %", "layer 3 · 33 %", "layer 4 · 43 %"]
    for axes, plane in zip(figure.axes, points, strict=False):
        assert np.array_equal(axes.collections[0].get_offsets(), plane)
    lines = {tuple(line.get_ydata()) for line in figure.axes[5].lines}
    assert lines == {tuple(range(start, 50 + start, 10)) for start in (0, 3, 6)}
    numbers = [(text.get_position()[0], text.get_text()) for text in figure.axes[5].texts]
    assert {(4, "40"), (4, "43"), (4, "46"), (0, "0"), (0, "3"), (0, "6")} <= set(numbers)


def test_the_table_of_classes_has_a_row_for_each_representation_and_leaves_out_what_is_missing():
    cells = task4.classes_figure(measures_of(5)).axes[0].texts
    texts = {text.get_position(): text.get_text() for text in cells}  # column, row
    assert [texts[0, row] for row in range(5)] == ["0", "1", "2", "3", "4"]
    assert {texts[9, row] for row in range(5)} == {""}


# The results


@pytest.fixture(scope="module")
def answered(small_mnist, tmp_path_factory):
    """The results of task 4 on small data, its network, features, what it draws, and the planes as they are turned."""

    def record(points, previous, labels):
        turned.append((previous, orient(points, previous, labels)))
        return turned[-1][1]

    folder, drawn, turned = tmp_path_factory.mktemp("task4"), [], []
    paths = {"data_dir": small_mnist, "figures": folder, "checkpoint": folder / "mlp.pt"}
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task4, "CHECKPOINT", (folder / "mlp.pt").resolve())
        patch.setattr(task4, "orient", record)
        patch.setattr(task4, "features_figure", lambda points, labels, measures: drawn.extend((points, labels)))
        patch.setattr(task4, "save_page", lambda *contents: drawn.append(contents))
        patch.setattr(task4, "classes_figure", lambda measures: None)
        patch.setattr(task4, "save_figure", lambda figure, folder, name: None)
        task4.main(argparse.Namespace(seed=2, device="cpu", show=False, **paths))
    torch.set_num_threads(threads)
    results = json.loads((folder / "task4.json").read_text(encoding="utf-8"))
    with np.load(folder / "features.npz") as archive:
        features = [archive[f"layer{number}"] for number in range(1, 5)]
    return results, load_checkpoint(folder / "mlp.pt"), features, *drawn, turned


def test_a_layer_that_is_dead_for_all_images_has_no_share_of_its_variance(small_mnist, tmp_path, monkeypatch):
    def die(model, vectors):
        return [*extract_features(model, vectors)[:3], np.zeros((len(vectors), 100), np.float32)]

    pages = []
    save_network(tmp_path / "mlp.pt")
    monkeypatch.setattr(task4, "extract_features", die)
    monkeypatch.setattr(task4, "save_page", lambda *contents: pages.append(contents))
    paths = {"data_dir": small_mnist, "figures": tmp_path, "checkpoint": tmp_path / "mlp.pt"}
    task4.main(argparse.Namespace(seed=2, device="cpu", show=False, **paths))
    plt.close("all")
    assert pages[0][1][4][2].tolist() == [0, 0]
    assert json.loads((tmp_path / "task4.json").read_text(encoding="utf-8"))["separation"][4]["dead_units"] == 100


def test_the_results_name_the_network_of_the_checkpoint_and_the_data(answered, small_mnist):
    results, network, *_ = answered
    assert results["network"] == network.settings
    assert results["network"]["data"] == digest(load_data(True, small_mnist))
    assert results["network"]["seed"] == 2
    assert results["data"] == {"test": digest(load_data(False, small_mnist))}


def test_unshifted_images_are_recognized_as_by_the_network_of_the_checkpoint(answered, small_mnist):
    results, network, *_ = answered
    vectors, labels = convert_mnist_to_vectors(load_data(False, small_mnist))
    assert results["shifted_accuracy"][0] == pytest.approx(
        100 * np.mean(predict_probabilities(network, vectors).argmax(axis=1) == labels)
    )


def test_the_stored_features_are_those_of_the_network_and_of_the_results(answered, small_mnist):
    results, network, features, *_ = answered
    vectors = convert_mnist_to_vectors(load_data(False, small_mnist)).vectors
    for stored, computed in zip(features, extract_features(network, vectors), strict=True):
        np.testing.assert_allclose(stored, computed, **CLOSE)
    assert results["shapes"] == [[300, 100]] * 4
    for space, measure in zip([vectors, *features], results["separation"], strict=True):
        ratios = sklearn.decomposition.PCA(2, svd_solver="full").fit(space.astype(np.float64)).explained_variance_ratio_
        assert measure["variance"] == pytest.approx(100 * ratios.sum(), rel=1e-4)
        assert measure["dead_units"] == sum(not column.any() for column in space.T)


def test_the_halves_of_the_results_follow_the_seed(answered):
    results, _, features, *_, page, _ = answered
    (_, plane, _), labels = page[1][1], page[3]
    measure = measure_separation(features[0], do_pca(features[0]), plane, labels, seed=2)
    for name in ("linear", "neighbours", "silhouette"):
        assert results["separation"][1][name] == pytest.approx(measure[name], abs=0.01)


def test_each_plane_is_compared_with_that_of_the_pixels(answered):
    results, *_, page, _ = answered
    planes, labels = [plane for _, plane, _ in page[1]], page[3]
    expected = [resemblance(orient(plane, planes[0], labels), planes[0], labels) for plane in planes]
    assert results["resemblance"] == pytest.approx(expected)
    assert results["resemblance"][0] == pytest.approx(1)
    assert min(results["resemblance"]) < 1


def test_the_page_has_the_planes_with_their_shares_and_the_probabilities(answered, small_mnist):
    results, network, *_, page, _ = answered
    _, spaces, images, labels, probabilities, title, _ = page
    data = load_data(False, small_mnist)
    assert [name for name, *_ in spaces] == results["names"]
    for (_, _, shares), measure in zip(spaces, results["separation"], strict=True):
        assert 100 * shares.sum() == pytest.approx(measure["variance"], rel=CLOSE["rtol"])
    assert np.array_equal(images, data.images)
    assert np.array_equal(labels, data.labels)
    expected = predict_probabilities(network, convert_mnist_to_vectors(data).vectors)
    np.testing.assert_allclose(probabilities, expected, **CLOSE)
    assert "300 test images" in title


def test_the_plane_of_the_pixels_is_their_projection_untouched(answered, small_mnist):
    *_, planes, labels, _, _ = answered
    vectors, all_labels = convert_mnist_to_vectors(load_data(False, small_mnist))
    shown = np.random.default_rng(2).permutation(300)
    np.testing.assert_allclose(planes[0], project(vectors, do_pca(vectors))[shown], **CLOSE)
    assert np.array_equal(labels, all_labels[shown])


def test_each_plane_is_turned_to_resemble_the_one_before(answered):
    *_, page, turned = answered
    planes = [plane for _, plane, _ in page[1]]
    assert len(planes) == 5
    for (previous, result), (before, after) in zip(turned, pairwise(planes), strict=False):
        assert previous is before
        assert result is after
    assert [previous is planes[0] for previous, _ in turned[4:]] == [True] * 5  # for the resemblance to the pixels


def test_planes_without_variation_do_not_resemble_each_other():
    assert resemblance(np.ones((4, 2)), np.ones((4, 2)), np.array([0, 0, 1, 1])) == 0
