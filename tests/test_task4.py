"""Task 4 on small data: features, components and measures are what NumPy and
scikit-learn find; planes stay in place in the figure however a PCA turns them.
"""

import argparse
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import figures_of, forward, run_script
from scipy import linalg, ndimage
from sklearn.decomposition import PCA

import task3
import task4
from common.data import Vectors, convert_mnist_to_vectors, digest, load_data, thin
from common.script import FEATURES
from common.separation import between_classes, linear_classifier, neighbour_separation

ONE_IMAGE = 0.4  # of 300, in per cent


def accuracy(logits, labels):
    return 100 * (logits.argmax(axis=1) == labels).mean()


def full_pca(vectors):
    return PCA(svd_solver="full").fit(vectors)


@pytest.fixture(scope="module")
def ran(small_mnist, tmp_path_factory):
    """Task 4 of a network that has learned from 600 images; its figures are open."""
    folder = tmp_path_factory.mktemp("task4")
    images = load_data(False, small_mnist)
    train = convert_mnist_to_vectors(load_data(True, small_mnist))
    test = convert_mnist_to_vectors(images)
    torch.manual_seed(0)
    model = task3.MultilayerPerceptron()
    task3.train(model, train, test, epochs=15, learning_rate=1e-3)
    settings = {"seed": 3, "data": digest(load_data(True, small_mnist))}
    task3.save_checkpoint(model, settings, folder / "mlp.pt")
    options = argparse.Namespace(
        seed=2,
        data_dir=small_mnist,
        figures=folder,
        checkpoint=folder / "mlp.pt",
        device="cpu",
        show=False,
    )
    results, figures = figures_of(task4.main, options)
    return SimpleNamespace(**locals())


def test_the_features_are_what_stands_right_after_each_relu(ran):
    features = task4.extract_features(ran.model, ran.test.vectors)
    expected = forward(ran.model, ran.test.vectors)[1:-1]
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4)
    with np.load(ran.folder / FEATURES) as stored:
        for k, layer in enumerate(features, 1):
            np.testing.assert_array_equal(stored[f"layer{k}"], layer)
            assert layer.dtype == np.float32


def test_the_measures_are_those_of_scikit_learn_trained_and_untrained(ran):
    torch.manual_seed(3)  # of the settings: the control is the network before training
    control = task3.MultilayerPerceptron()
    rows = ran.results["separation"] + ran.results["untrained"]
    known = thin(ran.train, task4.FIT_IMAGES)
    fits = forward(ran.model, known.vectors)[:-1]
    fits += forward(control, known.vectors)[1:-1]
    spaces = forward(ran.model, ran.test.vectors)[:-1]
    spaces += forward(control, ran.test.vectors)[1:-1]
    for fit, space, row in zip(fits, spaces, rows, strict=True):
        pca = full_pca(space)
        shares = pca.explained_variance_ratio_
        fit_plane = Vectors(pca.transform(fit)[:, :2], known.labels)
        plane = Vectors(pca.transform(space)[:, :2], ran.test.labels)
        expected = neighbour_separation(fit_plane, plane)
        expected["neighbours"] = pytest.approx(expected.pop("accuracy"), abs=ONE_IMAGE)
        linear = linear_classifier(Vectors(fit, known.labels))
        score = 100 * linear.score(space, plane.labels)
        expected["linear"] = pytest.approx(score, abs=ONE_IMAGE)
        between = between_classes(Vectors(space, plane.labels))
        expected["between"] = pytest.approx(100 * between, rel=1e-4)
        expected["variance"] = pytest.approx(100 * shares[:2].sum(), rel=1e-4)
        expected["components_for_90"] = 1 + np.searchsorted(shares.cumsum(), 0.9)
        assert row == expected


def test_the_network_goes_on_from_the_first_components_alone(ran):
    spaces = forward(ran.model, ran.test.vectors)[:-1]
    rows = ran.results["finished"]["accuracy"]
    for position, (space, row) in enumerate(zip(spaces, rows, strict=True)):
        pca = full_pca(space)
        for count, found in zip(task4.KEPT_COMPONENTS, row, strict=True):
            kept = pca.transform(space)[:, :count] @ pca.components_[:count] + pca.mean_
            logits = forward(ran.model, kept, position)[-1]
            expected = accuracy(logits, ran.test.labels)
            assert found == pytest.approx(expected, abs=ONE_IMAGE)


def test_both_classifiers_meet_images_shifted_in_four_directions(ran):
    linear = linear_classifier(thin(ran.train, task4.FIT_IMAGES))
    shifted = ran.results["shifted"]
    for k, pixels in enumerate(shifted["pixels"]):
        right = []
        for way in [(0, 0, pixels), (0, 0, -pixels), (0, pixels, 0), (0, -pixels, 0)]:
            moved = ndimage.shift(ran.images.images, way, order=0, mode="grid-wrap")
            vectors = moved.reshape(-1, 784) / 127.5 - 1
            network = accuracy(forward(ran.model, vectors)[-1], ran.test.labels)
            right.append([network, 100 * linear.score(vectors, ran.test.labels)])
        found = [shifted["network"][k], shifted["linear"][k]]
        assert found == pytest.approx(np.mean(right, axis=0), abs=ONE_IMAGE)


def test_the_results_say_what_was_measured_and_compare_the_plane_with_task_2(ran):
    results = ran.results
    assert results["network"] == ran.settings
    assert results["data"] == {"test": digest(ran.images)}
    assert results["shapes"] == [[300, 100]] * 4
    train_plane = full_pca(ran.train.vectors).components_[:2].T
    test_plane = full_pca(ran.test.vectors).components_[:2].T
    cosines = np.cos(linalg.subspace_angles(train_plane, test_plane))
    assert sorted(results["plane_cosines"]) == pytest.approx(cosines, rel=1e-4)


def test_the_figures_and_the_page_show_the_results(ran):
    features, components = ran.figures
    rows = ran.results["separation"] + ran.results["untrained"]
    panels = [axes for axes in features.axes if axes.collections]
    for axes, row in zip(panels, rows, strict=True):
        assert f"{row['neighbours']:.0f} %" in axes.get_title("left")
        offsets = axes.collections[0].get_offsets()
        assert len(offsets) == ran.results["settings"]["shown_points"]

    left, right = components.axes
    curves = [list(line.get_ydata()) for line in left.lines]
    assert curves == ran.results["finished"]["accuracy"]
    digits = [int(tick.get_text().split()[0]) for tick in right.get_xticklabels()]
    assert sorted(digits) == list(range(10))
    gains = []
    for digit, line in zip(digits, right.lines[:-1:3], strict=True):
        shares = []
        for row in (rows[0], rows[4]):  # pixels and the last layer
            shares.append(min(row["recall"][digit], row["precision"][digit] or 0))
        assert list(line.get_ydata()) == shares
        gains.append(shares[1] - shares[0])
    assert gains == sorted(gains, reverse=True)

    page = (ran.folder / "task4_explorer.html").read_text("utf-8")
    for name, row in zip(ran.results["names"], rows, strict=False):
        assert f"{name}: {row['neighbours']:.0f} %" in page


def centred_means(points, labels):
    means = np.array([points[labels == k].mean(axis=0) for k in range(10)])
    return means - means.mean(axis=0)


def test_planes_are_rotated_onto_the_one_before_and_arrows_show_their_components():
    labels = np.arange(200) % 10
    planes = np.random.default_rng(0).normal(size=(5, 200, 2))
    figure = task4.features_figure(planes[:3], planes[3:], labels, "abc", "bc")
    panels = [axes for axes in figure.axes if axes.collections]
    drawn = [axes.collections[0].get_offsets().data for axes in panels]
    np.testing.assert_allclose(drawn[0], planes[0])
    for k, before in enumerate([0, 0, 1, 0, 3]):
        arrows = {text.get_text(): text for text in panels[k].texts}
        ends = np.array([arrows["PC 1"].xyann, arrows["PC 2"].xyann])
        directions = ends / np.linalg.norm(ends[0])
        np.testing.assert_allclose(drawn[k] @ directions.T, planes[k], atol=1e-6)
        means = centred_means(drawn[k], labels)
        product = means.T @ centred_means(drawn[before], labels)
        np.testing.assert_allclose(product, product.T, atol=1e-6)  # no rotation
        assert np.linalg.eigvalsh(product).min() >= 0  # brings them closer


def test_a_network_of_other_data_is_refused_and_stays(checkout, small_mnist, tmp_path):
    path = checkout / "artifacts" / "mlp.pt"
    task3.save_checkpoint(task3.MultilayerPerceptron(), {"data": "others"}, path)
    content = path.read_bytes()
    flags = ("--data-dir", small_mnist, "--figures", tmp_path)
    (line,) = run_script(checkout / "task4.py", *flags).stderr.splitlines()
    for name in (path, "others", small_mnist, digest(load_data(True, small_mnist))):
        assert str(name) in line
    assert path.read_bytes() == content
