"""Task 4 on small data: features, components and measures are what NumPy and
scikit-learn find; planes stay in place in the figure however a PCA turns them.
"""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import figures_of, run_script
from scipy import linalg, ndimage
from sklearn.decomposition import PCA

import task3
import task4
from common.data import Vectors, convert_mnist_to_vectors, digest, load_data
from common.script import FEATURES, script_parser
from common.separation import between_classes, linear_classifier, neighbour_separation

STEP = -(-600 // task4.FIT_IMAGES)  # the classifiers learn from every k-th train image
ONE_IMAGE = 0.4  # of 300, in per cent
TURNED = np.array([[np.cos(2), np.sin(2)], [-np.sin(2), np.cos(2)]])


def forward(model, vectors, position=0):
    """What stands at this position, after each later ReLU, and the logits, in double
    precision.
    """
    parameters = [each.detach().cpu().double().numpy() for each in model.parameters()]
    arrays = [vectors.astype(float)]
    for k in range(2 * position, len(parameters), 2):
        f = arrays[-1] @ parameters[k].T + parameters[k + 1]
        arrays.append(f if k == len(parameters) - 2 else np.maximum(f, 0))
    return arrays


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
    flags = f"--data-dir|{small_mnist}|--figures|{folder}|--device|cpu|--seed|2"
    parser = script_parser("", data=True, model=True)
    options = parser.parse_args([*flags.split("|"), f"--checkpoint={folder}/mlp.pt"])
    results, figures = figures_of(task4.main, options)
    return SimpleNamespace(**locals())


def test_the_features_are_what_stands_right_after_each_relu(ran):
    expected = forward(ran.model, ran.test.vectors)[1:-1]
    features = task4.extract_features(ran.model, ran.test.vectors)
    with np.load(ran.folder / FEATURES) as stored:
        assert list(stored) == ["layer1", "layer2", "layer3", "layer4"]
        for array, layer, space in zip(
            stored.values(), features, expected, strict=True
        ):
            np.testing.assert_array_equal(array, layer)
            assert layer.dtype == np.float32
            np.testing.assert_allclose(layer, space, rtol=1e-4, atol=1e-4)


def test_the_measures_are_those_of_scikit_learn_trained_and_untrained(ran):
    torch.manual_seed(3)  # of the settings: the control is the network before training
    control = task3.MultilayerPerceptron()
    rows = ran.results["separation"] + ran.results["untrained"]
    known = ran.train.vectors[::STEP]
    fits = forward(ran.model, known)[:-1] + forward(control, known)[1:-1]
    spaces = forward(ran.model, ran.test.vectors)[:-1]
    spaces += forward(control, ran.test.vectors)[1:-1]
    for fit, space, row in zip(fits, spaces, rows, strict=True):
        pca = full_pca(space)
        shares = pca.explained_variance_ratio_
        fit_plane = Vectors(pca.transform(fit)[:, :2], ran.train.labels[::STEP])
        plane = Vectors(pca.transform(space)[:, :2], ran.test.labels)
        expected = neighbour_separation(fit_plane, plane)
        expected["neighbours"] = pytest.approx(expected.pop("accuracy"), abs=ONE_IMAGE)
        linear = linear_classifier(Vectors(fit, fit_plane.labels))
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
    known = Vectors(ran.train.vectors[::STEP], ran.train.labels[::STEP])
    linear = linear_classifier(known)
    shifted = ran.results["shifted"]
    for pixels, network, control in zip(*shifted.values(), strict=True):
        scores = []
        for way in [(0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0)]:
            moved = ndimage.shift(
                ran.images.images, np.multiply(pixels, way), order=0, mode="grid-wrap"
            )
            vectors = moved.reshape(-1, 784) / np.float32(127.5) - 1
            logits = forward(ran.model, vectors)[-1]
            right = accuracy(logits, ran.test.labels)
            scores.append([right, 100 * linear.score(vectors, ran.test.labels)])
        expected = np.mean(scores, axis=0)
        assert [network, control] == pytest.approx(expected, abs=ONE_IMAGE)


def test_the_results_say_what_was_measured_and_compare_the_plane_with_task_2(ran):
    results = ran.results
    assert results["network"] == ran.settings
    assert results["data"] == {"test": digest(ran.images)}
    assert results["images"] == 300
    assert results["shapes"] == [[300, 100]] * 4
    settings = results["settings"]
    assert settings["fit_images"] == len(ran.train.labels[::STEP])
    assert settings["shown_points"] == min(300, task4.SHOWN_POINTS)
    train_plane = full_pca(ran.train.vectors).components_[:2]
    test_plane = full_pca(ran.test.vectors).components_[:2]
    cosines = np.cos(linalg.subspace_angles(train_plane.T, test_plane.T))
    assert sorted(results["plane_cosines"]) == pytest.approx(cosines, rel=1e-4)


def test_the_figures_and_the_page_show_the_results(ran):
    features, components = ran.figures
    trained, untrained = ran.results["separation"], ran.results["untrained"]
    rows = [*trained, {}, *untrained]  # the lower left cell holds words
    for axes, row in zip(features.axes, rows, strict=True):
        if row:
            assert f"{row['neighbours']:.0f} %" in axes.get_title("left")
            offsets = axes.collections[0].get_offsets()
            assert len(offsets) == ran.results["settings"]["shown_points"]

    left, right = components.axes
    curves = [list(line.get_ydata()) for line in left.lines]
    assert curves == ran.results["finished"]["accuracy"]
    digits = [int(tick.get_text().split()[0]) for tick in right.get_xticklabels()]
    ends = [line.get_ydata() for line in right.lines if len(line.get_ydata()) == 2]
    for digit, end in zip(digits, ends, strict=True):
        for row, value in zip((trained[0], trained[-1]), end, strict=True):
            assert value == min(row["recall"][digit], row["precision"][digit] or 0)
    gains = np.diff(ends)[:, 0]
    assert sorted(digits) == list(range(10))
    assert (np.diff(gains) <= 0).all()

    page = (ran.folder / "task4_explorer.html").read_text("utf-8")
    for vectors in forward(ran.model, ran.test.vectors)[:-1]:
        shares = 100 * full_pca(vectors).explained_variance_ratio_
        assert f"PC 1 · {shares[0]:.1f} %" in page
        assert f"PC 2 · {shares[1]:.1f} %" in page


@pytest.mark.parametrize("turn", [np.diag([1, -1]), np.eye(2)[::-1], TURNED])
def test_mirrored_swapped_or_rotated_planes_leave_the_picture_in_place(turn):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(200) % 10)
    pixels, *layers = rng.normal(size=(5, 200, 2))

    def draw(turn):
        """The planes given, the points drawn and the directions of the arrows."""
        planes = [pixels, layers[0] @ turn, layers[1] @ turn.T]
        below = [layers[2] @ turn, layers[3] @ turn.T]
        figure = task4.features_figure(planes, below, labels, "abc", "bc")
        panels = [axes for axes in figure.axes if axes.collections]
        points = [axes.collections[0].get_offsets().data for axes in panels]
        directions = []
        for axes in panels:
            arrows = {text.get_text(): text for text in axes.texts}
            ends = np.array([arrows["PC 1"].xyann, arrows["PC 2"].xyann])
            directions.append(ends / np.linalg.norm(ends, axis=1, keepdims=True))
        return np.array(planes + below), np.array(points), np.array(directions)

    planes, points, directions = draw(turn)
    close = partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    close(points, draw(np.eye(2))[1])
    close(points @ directions.swapaxes(1, 2), planes)
    close(points[0], pixels)
    means = np.stack([points[:, labels == k].mean(axis=1) for k in range(10)], axis=1)
    means -= means.mean(axis=1, keepdims=True)  # [panels, 10, 2]
    for one, before in ((1, 0), (2, 1), (3, 0), (4, 3)):  # no rotation brings it closer
        product = means[one].T @ means[before]
        close(product, product.T)
        assert np.linalg.eigvalsh(product).min() >= -1e-9


def test_a_dead_layer_has_results_and_classes_without_images_are_not_drawn():
    data = Vectors(np.zeros((40, 6), np.float32), np.arange(40) % 2)
    measure = task4.measure_separation(data, data)
    assert (measure["variance"], measure["between"]) == (0, 0)
    figure = task4.components_figure([[0] * 8], [measure], ["dead"])
    digits = [tick.get_text()[0] for tick in figure.axes[1].get_xticklabels()]
    assert digits == ["0", "1"]


def test_a_missing_default_network_is_trained_and_one_of_other_data_is_refused(
    checkout, small_mnist, tmp_path
):
    path = checkout / "artifacts" / "mlp.pt"
    flags = ("--data-dir", small_mnist, "--figures", tmp_path, "--seed", 5)
    assert run_script(checkout / "task4.py", *flags).returncode == 0
    data = digest(load_data(True, small_mnist))
    expected = {**task3.DEFAULTS, "seed": 5, "data": data}
    settings = task3.read_checkpoint(path)[1]
    assert expected.items() <= settings.items()

    other = {"data": "0123456789abcdef"}
    task3.save_checkpoint(task3.MultilayerPerceptron(), other, path)
    content = path.read_bytes()
    refused = run_script(checkout / "task4.py", *flags)
    assert path.read_bytes() == content
    path.rename(tmp_path / "mlp.pt")  # a later test finds none, as here
    (line,) = refused.stderr.splitlines()
    for name in (path, other["data"], small_mnist, data):
        assert str(name) in line
