"""Task 4 on small data: features, planes and measures are what NumPy and scikit-learn find; corner cases by hand."""

import json
import re
from collections import namedtuple

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import run_script
from matplotlib.colors import to_rgba_array
from scipy import ndimage
from sklearn import linear_model, metrics, neighbors, pipeline, preprocessing
from sklearn.decomposition import PCA

import task3
import task4
from common.data import digest, load_data
from common.pca import do_pca, project
from common.plotting import CLASS_COLOURS
from common.script import FEATURES, script_parser
from common.separation import confused_pairs

Ran = namedtuple("Ran", "model images labels spaces answers settings results planes classes page stored")


def exact(model, vectors):
    """The vectors and what stands after each ReLU, in double precision, and the network's answers."""
    parameters, spaces = [each.detach().double().numpy() for each in model.parameters()], [vectors]
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        spaces.append(np.maximum(spaces[-1] @ weight.T + bias, 0))
    return spaces, (spaces[-1] @ parameters[-2].T + parameters[-1]).argmax(axis=1)


@pytest.fixture(scope="module")
def ran(small_mnist, tmp_path_factory):
    """Task 4 of a network whose first units are the pixels' second component, enlarged, and the first; figures open."""
    torch.manual_seed(0)
    folder, model, data = tmp_path_factory.mktemp("task4"), task3.MultilayerPerceptron(), load_data(False, small_mnist)
    vectors = data.images.reshape(-1, 784) / 127.5 - 1
    first, *others = [layer for layer in model.layers[:-1] if hasattr(layer, "weight")]
    with torch.no_grad():
        first.weight[:3] = torch.tensor([[9], [3], [0]] * PCA(3).fit(vectors).components_[[1, 0, 2]])
        first.bias[:3] = torch.tensor([200, 200, -1])  # the third unit is dead
        for layer in others:
            layer.weight[:2] = torch.eye(*layer.weight.shape)[:2]
        model.layers[-1].bias -= model(torch.tensor(vectors).float()).mean(dim=0)  # no class is favoured
    settings = {"epochs": 1, "data": digest(load_data(True, small_mnist))}
    task3.save_checkpoint(model, settings, folder / "mlp.pt")
    flags = ["--data-dir", small_mnist, "--figures", folder, "--checkpoint", folder / "mlp.pt", "--seed", 2]
    plt.switch_backend("svg")
    task4.main(script_parser("", data=True, model=True).parse_args(map(str, [*flags, "--device", "cpu"])))
    figures = [plt.figure(number) for number in plt.get_fignums()[-2:]]
    plt.close("all")
    plt.switch_backend("agg")
    results, page = ((folder / name).read_text("utf-8") for name in ("task4.json", "task4_explorer.html"))
    with np.load(folder / FEATURES) as archive:
        return Ran(model, *data, *exact(model, vectors), settings, json.loads(results), *figures, page, dict(archive))


def test_the_features_are_what_stands_right_after_each_relu(ran):
    assert list(ran.stored) == [f"layer{number}" for number in range(1, len(ran.spaces))]
    for arrays in (ran.stored.values(), task4.extract_features(ran.model, ran.spaces[0])):
        for array, expected in zip(arrays, ran.spaces[1:], strict=True):
            assert array.dtype == np.float32
            np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match=r"\[N, 784\]"):
        task4.extract_features(ran.model, ran.images)


def test_the_results_and_the_page_describe_the_network_and_the_test_split(ran, small_mnist):
    results, wrong = ran.results, int((ran.answers != ran.labels).sum())
    assert (results["seed"], results["images"], results["network"]) == (2, 300, ran.settings)
    assert results["data"] == {"test": digest(load_data(False, small_mnist))}
    assert results["shapes"] == [list(space.shape) for space in ran.spaces[1:]]
    assert results["names"] == ["pixels", *(f"layer {number}" for number in range(1, len(ran.spaces)))]
    assert re.search(rf"300 test images.* all {wrong} that\s", ran.page, re.DOTALL)
    for pixels, accuracy in zip(range(5), results["shifted_accuracy"], strict=True):
        ways = np.multiply(pixels, [(0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0)])
        moved = [ndimage.shift(ran.images, way, order=0, mode="grid-wrap").reshape(-1, 784) for way in ways]
        right = [exact(ran.model, each / 127.5 - 1)[1] == ran.labels for each in moved]
        assert accuracy == pytest.approx(100 * np.mean(right), abs=0.1)  # one image in one direction


def test_the_measures_are_those_of_scikit_learn(ran):
    fit, check = np.array_split(np.random.default_rng(2).permutation(300), 2)  # the halves that belong to the seed
    labels, shown = ran.labels, check[: task4.SILHOUETTE_POINTS]
    for vectors, measure in zip(ran.spaces, ran.results["separation"], strict=True):
        pca = PCA(svd_solver="full").fit(vectors)
        plane, shares = pca.transform(vectors)[:, :2], pca.explained_variance_ratio_
        known = neighbors.KNeighborsClassifier(10).fit(plane[fit], labels[fit])
        matrix = metrics.confusion_matrix(labels[check], known.predict(plane[check]))
        classifier = linear_model.LogisticRegression(C=0.01, max_iter=1000)
        linear = pipeline.make_pipeline(preprocessing.StandardScaler(), classifier).fit(vectors[fit], labels[fit])
        assert measure == {
            "variance": pytest.approx(100 * shares[:2].sum(), rel=1e-4),
            "components_for_90": 1 + np.searchsorted(np.cumsum(shares), 0.9),
            "neighbours": pytest.approx(100 * matrix.trace() / 150),
            "neighbours_per_class": pytest.approx(list(100 * matrix.diagonal() / matrix.sum(axis=1))),
            "pairs": confused_pairs(matrix),
            "linear": pytest.approx(100 * linear.score(vectors[check], labels[check]), abs=0.7),  # one image
            "silhouette": pytest.approx(metrics.silhouette_score(plane[shown], labels[shown]), abs=1e-4),
            "dead_units": sum(not unit.any() for unit in vectors.T),
        }


def test_the_figures_and_the_page_show_each_plane_turned_like_that_of_the_pixels(ran):
    axis = r'"(left|below)": \[{"type": "object", "name": "LinearAxis".*?"axis_label": "([^"]+)"'
    names, reference = iter(re.findall(axis, ran.page)), project(ran.spaces[0], do_pca(ran.spaces[0]))
    measures = ran.results["separation"]
    for row, (vectors, axes) in enumerate(zip(ran.spaces, ran.planes.axes, strict=False)):
        order, pca = [1, 0] if row else [0, 1], PCA(2, svd_solver="full").fit(vectors)
        plane = pca.transform(vectors)[:, order]
        plane *= np.sign((plane * reference).sum(axis=0))
        distances = np.linalg.norm(axes.collections[0].get_offsets().data[:, None] - plane, axis=2)
        nearest = distances.argmin(axis=1)
        assert distances.min(axis=1).max() < 1e-2
        assert len(set(nearest)) == ran.results["shown_points"] == min(300, task4.SHOWN_POINTS)
        colours = to_rgba_array(np.array(CLASS_COLOURS)[ran.labels[nearest]])
        np.testing.assert_allclose(axes.collections[0].get_facecolors(), colours)
        assert axes.get_title() == f"{ran.results['names'][row]} · {measures[row]['neighbours']:.0f} %"
        below, left = (f"component {k + 1} ({pca.explained_variance_ratio_[k]:.1%} of the variance)" for k in order)
        assert {next(names), next(names)} == {("below", below), ("left", left)}
    lines = {tuple(line.get_ydata()) for line in ran.planes.axes[len(measures)].lines}
    assert lines == {tuple(each[key] for each in measures) for key in ("linear", "neighbours", "variance")}
    cells = {text.get_position(): text.get_text() for text in ran.classes.axes[0].texts}  # column, row
    rows = [each["neighbours_per_class"] for each in measures]
    assert all(cells[column, row] == f"{value:.0f}" for (row, column), value in np.ndenumerate(rows))


@pytest.mark.parametrize(("order", "signs"), [([0, 1], (1, -1)), ([1, 0], (1, 1)), ([1, 0], (-1, 1))])
def test_a_reflected_or_swapped_plane_is_turned_back(order, signs):
    rng, labels = np.random.default_rng(3), np.arange(200) % 10
    plane = 3 * rng.normal(size=(10, 2))[labels] + rng.normal(size=(200, 2))
    before = 5 * plane + [100, -30]  # neither scale nor place matters
    turned, found = task4.orient(plane[:, order] * signs, before, labels)
    np.testing.assert_allclose(turned, plane)
    assert found == order


def test_a_layer_that_is_dead_for_all_images_has_no_variance():
    zeros, labels = np.zeros((40, 6), np.float32), np.arange(40) % 2
    measure = task4.measure_separation(zeros, do_pca(zeros), project(zeros, do_pca(zeros)), labels, seed=0)
    assert (measure["variance"], measure["silhouette"], measure["dead_units"]) == (0, 0, 6)
    assert [text.get_text() for text in task4.classes_figure([measure]).axes[0].texts][2:] == [""] * 8  # no images


def test_the_default_network_is_trained_once_with_the_settings_of_task_3(checkout, small_mnist, tmp_path):
    program = """import sys; sys.path.insert(0, sys.argv.pop(1))
import task4, common.data, common.script
options = common.script.script_parser("", data=True, model=True).parse_args()
test_data = common.data.convert_mnist_to_vectors(common.data.load_data(False, options.data_dir))
networks = [task4.load_or_train(options, test_data) for _ in range(2)]"""
    (tmp_path / "twice.py").write_text(program)
    finished = run_script(tmp_path / "twice.py", checkout, "--data-dir", small_mnist, "--seed", 5)
    assert finished.stdout.count("training the network of task 3 first") == 1
    (checkout / "artifacts" / "mlp.pt").rename(tmp_path / "mlp.pt")  # a later test finds none, as here
    settings = {**task3.DEFAULTS, "seed": 5, "data": digest(load_data(True, small_mnist))}
    assert settings.items() <= task3.read_checkpoint(tmp_path / "mlp.pt")[1].items()


def test_a_network_of_other_data_is_refused_in_one_line_that_names_both(run_here, small_mnist, tmp_path, capsys):
    task3.save_checkpoint(task3.MultilayerPerceptron(), {"data": "0123456789abcdef"}, tmp_path / "mlp.pt")
    flags = ("--checkpoint", tmp_path / "mlp.pt", "--figures", tmp_path)
    assert run_here("task4.py", "--data-dir", small_mnist, *flags) == 1
    (line,) = capsys.readouterr().err.splitlines()
    for name in (tmp_path / "mlp.pt", "0123456789abcdef", small_mnist, digest(load_data(True, small_mnist))):
        assert str(name) in line
    assert [path.name for path in tmp_path.iterdir()] == ["mlp.pt"]
