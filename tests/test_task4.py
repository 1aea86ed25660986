"""Task 4 on small data: features, planes and measures are what NumPy and scikit-learn
find; corner cases by hand.
"""

import re
from collections import namedtuple

import numpy as np
import pytest
import torch
from conftest import figures_of, run_script
from scipy import linalg, ndimage
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

import task3
import task4
from common.data import Images, Vectors, digest, load_data
from common.pca import do_pca, project
from common.script import FEATURES, script_parser
from common.separation import between_classes, linear_accuracy, neighbour_separation

FULL = {"svd_solver": "full"}  # the default is random
Ran = namedtuple(
    "Ran", "model train images labels known spaces answers results figures page stored"
)


def exact(model, vectors, position=0):
    """What stands at this position, the vectors, and after each later ReLU, in double
    precision, and the answers.
    """
    spaces, parameters = (
        [vectors],
        [each.detach().double().numpy() for each in model.parameters()][2 * position :],
    )
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        spaces.append(np.maximum(spaces[-1] @ weight.T + bias, 0))
    return spaces, (spaces[-1] @ parameters[-2].T + parameters[-1]).argmax(axis=1)


@pytest.fixture(scope="module")
def ran(small_mnist, tmp_path_factory):
    """Task 4 of a network whose first units are the pixels' second component, enlarged,
    and the first; figures open.
    """
    torch.manual_seed(0)
    folder, model = tmp_path_factory.mktemp("task4"), task3.MultilayerPerceptron()
    train, test = (load_data(split, small_mnist) for split in (True, False))
    known, vectors = (
        split.images.reshape(-1, 784) / 127.5 - 1 for split in (train, test)
    )
    first, *others = [layer for layer in model.layers[:-1] if hasattr(layer, "weight")]
    with torch.no_grad():
        first.weight[:3] = torch.tensor(
            [[9], [3], [0]] * PCA(3, **FULL).fit(vectors).components_[[1, 0, 2]]
        )
        first.bias[:3] = torch.tensor([200, 200, -1])  # the third unit is dead
        for layer in others:
            layer.weight[:2] = torch.eye(*layer.weight.shape)[:2]
        model.layers[-1].bias -= model(torch.tensor(vectors).float()).mean(
            dim=0
        )  # no class is favoured
    task3.save_checkpoint(model, {"seed": 3, "data": digest(train)}, folder / "mlp.pt")
    flags = [
        "--data-dir",
        small_mnist,
        "--figures",
        folder,
        "--checkpoint",
        folder / "mlp.pt",
        "--seed",
        2,
    ]
    parser = script_parser("", data=True, model=True)
    results, figures = figures_of(
        task4.main, parser.parse_args(map(str, [*flags, "--device", "cpu"]))
    )
    page = (folder / "task4_explorer.html").read_text("utf-8")
    with np.load(folder / FEATURES) as archive:
        return Ran(
            model,
            train,
            *test,
            known,
            *exact(model, vectors),
            results,
            figures,
            page,
            dict(archive),
        )


def test_the_features_are_what_stands_right_after_each_relu(ran):
    assert list(ran.stored) == [
        f"layer{number}" for number in range(1, len(ran.spaces))
    ]
    for arrays in (
        ran.stored.values(),
        task4.extract_features(ran.model, ran.spaces[0]),
    ):
        for array, expected in zip(arrays, ran.spaces[1:], strict=True):
            assert array.dtype == np.float32
            np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-3)


def test_the_results_and_the_page_describe_the_network_and_the_test_split(
    ran, small_mnist
):
    results, digests = (
        ran.results,
        [digest(load_data(split, small_mnist)) for split in (True, False)],
    )
    known = ran.known[:: -(-600 // task4.FIT_IMAGES)]
    assert (results["seed"], results["images"], results["fit_images"]) == (
        2,
        300,
        len(known),
    )
    assert [results["network"], results["data"]] == [
        {"seed": 3, "data": digests[0]},
        {"test": digests[1]},
    ]
    assert results["shapes"] == [list(space.shape) for space in ran.spaces[1:]]
    assert re.search(
        rf"300 test images.* all {(ran.answers != ran.labels).sum()} that\s",
        ran.page,
        re.DOTALL,
    )
    axes = (
        PCA(2, **FULL).fit(vectors).components_.T
        for vectors in (ran.known, ran.spaces[0])
    )
    assert sorted(results["plane_cosines"]) == pytest.approx(
        np.cos(linalg.subspace_angles(*axes)), abs=1e-4
    )
    for pixels, accuracy in zip(range(5), results["shifted_accuracy"], strict=True):
        ways = np.multiply(pixels, [(0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0)])
        moved = [
            ndimage.shift(ran.images, way, order=0, mode="grid-wrap").reshape(-1, 784)
            for way in ways
        ]
        right = [exact(ran.model, each / 127.5 - 1)[1] == ran.labels for each in moved]
        assert accuracy == pytest.approx(
            100 * np.mean(right), abs=0.1
        )  # one image in one direction


def test_the_measures_are_those_of_scikit_learn_trained_and_untrained(ran):
    torch.manual_seed(
        3
    )  # of the settings: the control is the network before its training
    control, step, measures = (
        task3.MultilayerPerceptron(),
        -(-600 // task4.FIT_IMAGES),
        ran.results["separation"],
    )
    fits, spaces = (
        [*exact(ran.model, each)[0], *exact(control, each)[0][1:]]
        for each in (ran.known, ran.spaces[0])
    )
    for fit, space, measure in zip(
        fits, spaces, measures + ran.results["untrained"], strict=True
    ):
        splits = (
            Vectors(fit[::step], ran.train.labels[::step]),
            Vectors(space, ran.labels),
        )
        pca = PCA(**FULL).fit(space)
        planes = [
            Vectors(pca.transform(each.vectors)[:, :2], each.labels) for each in splits
        ]
        hard = [
            Vectors(*(array[np.isin(each.labels, (4, 9))] for array in each))
            for each in planes
        ]
        plane, shares = neighbour_separation(*planes), pca.explained_variance_ratio_
        assert (measure["recall"], measure["pairs"]) == (
            plane["accuracy_per_class"],
            plane["pairs"],
        )
        expected = {
            "neighbours": plane["accuracy"],
            "four_nine": neighbour_separation(*hard)["accuracy"],
        }
        expected |= {
            "linear": linear_accuracy(*splits),
            "between": 100 * between_classes(splits[1])[1],
        }
        expected["variance"] = 100 * shares[:2].sum()
        assert measure["components_for_90"] == 1 + np.searchsorted(
            np.cumsum(shares), 0.9
        )
        assert {name: measure[name] for name in expected} == pytest.approx(
            expected, abs=0.4
        )  # one image


def test_the_network_goes_on_from_the_first_components_alone(ran):
    for position, (space, accuracies) in enumerate(
        zip(ran.spaces, ran.results["finished"]["accuracy"], strict=True)
    ):
        pca = PCA(**FULL).fit(space)
        for count, accuracy in zip(task4.KEPT_COMPONENTS, accuracies, strict=True):
            kept = pca.transform(space)[:, :count] @ pca.components_[:count] + pca.mean_
            right = exact(ran.model, kept, position)[1] == ran.labels
            assert accuracy == pytest.approx(100 * right.mean(), abs=0.4)  # one image


def test_errors_are_compared_with_their_nearest_images_and_that_which_changes_most_is_drawn(
    ran,
):
    wrong, errors, gains = (
        np.flatnonzero(ran.answers != ran.labels),
        ran.results["errors"],
        0,
    )
    place = list(wrong).index(errors["shown"]["image"])
    order = [
        cdist(space[wrong], space).argsort(axis=1)[:, 1 : task4.NEIGHBOURS + 1]
        for space in ran.spaces
    ]
    for name, text, labels, sign in (
        ("true", "label", ran.labels, 1),
        ("taken", "answer", ran.answers, -1),
    ):
        shares = 100 * (ran.labels[order] == labels[wrong, None]).mean(
            axis=2
        )  # [spaces, errors]
        assert errors[name] == pytest.approx(shares.mean(axis=1), abs=0.1)
        assert errors["shown"][text] == labels[wrong[place]]
        assert errors["shown"][name] == pytest.approx(
            shares[:, place], abs=10
        )  # one neighbour
        gains = gains + sign * (shares[0] - shares[-1])
    assert (errors["count"], gains[place]) == (
        len(wrong),
        pytest.approx(gains.max(), abs=10),
    )
    drawn = [axes.images[0].get_array() for axes in ran.figures[2].axes if axes.images]
    assert np.array_equal(
        drawn, ran.images[np.ravel([[wrong[place], *row[place]] for row in order])]
    )


def test_the_figures_and_the_page_show_the_results_and_each_plane_turned_like_that_of_the_pixels(
    ran,
):
    axis = r'"(left|below)": \[{"type": "object", "name": "LinearAxis".*?"axis_label": "([^"]+)"'
    shown = iter(
        (side, *re.findall(r"(?<!\w)\d[\d.]*", label))
        for side, label in re.findall(axis, ran.page)
    )
    reference = project(ran.spaces[0], do_pca(ran.spaces[0]))
    measures = ran.results["separation"]
    for row, (vectors, axes) in enumerate(
        zip(ran.spaces, ran.figures[0].axes, strict=False)
    ):
        order, pca = [1, 0] if row else [0, 1], PCA(2, **FULL).fit(vectors)
        plane = pca.transform(vectors)[:, order]
        distances = cdist(
            axes.collections[0].get_offsets().data,
            plane * np.sign((plane * reference).sum(axis=0)),
        )
        assert distances.min(axis=1).max() < 1e-2
        assert (
            len(set(distances.argmin(axis=1)))
            == ran.results["shown_points"]
            == min(300, task4.SHOWN_POINTS)
        )
        assert (
            axes.get_title()
            == f"{ran.results['names'][row]} · accuracy {measures[row]['neighbours']:.0f} %"
        )
        said = [
            (str(k + 1), f"{100 * pca.explained_variance_ratio_[k]:.1f}") for k in order
        ]
        assert {next(shown), next(shown)} == {("below", *said[0]), ("left", *said[1])}
    lines = [
        [list(line.get_ydata()) for line in axes.lines]
        for figure in ran.figures
        for axes in figure.axes
    ]
    both = measures, [measures[0], *ran.results["untrained"]]
    curves = [
        [row[key] for row in rows] for rows in both for key in ("linear", "neighbours")
    ]
    assert sorted(lines[len(ran.spaces)]) == sorted(curves)
    assert ran.results["finished"]["accuracy"] in lines


@pytest.mark.parametrize(
    ("order", "signs"), [([0, 1], (1, -1)), ([1, 0], (1, 1)), ([1, 0], (-1, 1))]
)
def test_a_reflected_or_swapped_plane_is_turned_back(order, signs):
    rng, labels = np.random.default_rng(3), np.arange(200) % 10
    plane = 3 * rng.normal(size=(10, 2))[labels] + rng.normal(size=(200, 2))
    turned, found = task4.orient(
        plane[:, order] * signs, 5 * plane + [100, -30], labels
    )  # in any scale and place
    np.testing.assert_allclose(turned, plane)
    assert found == order


def test_a_dead_layer_missing_classes_and_no_errors_have_results():
    data = Vectors(np.zeros((40, 6), np.float32), np.arange(40) % 2)
    measure = task4.measure_separation(data, data)
    assert [measure[name] for name in ("variance", "between", "four_nine")] == [
        0,
        0,
        None,
    ]
    errors, figure = task4.explain_errors(
        [data.vectors], Images(np.zeros((40, 28, 28)), data.labels), data.labels
    )
    assert (errors, figure.axes) == ({"count": 0}, [])


def test_the_default_network_is_trained_with_the_settings_of_task_3_when_it_is_missing(
    checkout, small_mnist, tmp_path
):
    finished = run_script(
        checkout / "task4.py",
        "--data-dir",
        small_mnist,
        "--figures",
        tmp_path,
        "--seed",
        5,
    )
    assert "training the network of task 3 first" in finished.stdout
    (checkout / "artifacts" / "mlp.pt").rename(
        tmp_path / "mlp.pt"
    )  # a later test finds none, as here
    settings = {
        **task3.DEFAULTS,
        "seed": 5,
        "data": digest(load_data(True, small_mnist)),
    }
    assert settings.items() <= task3.read_checkpoint(tmp_path / "mlp.pt")[1].items()


def test_a_network_of_other_data_is_not_replaced_but_refused_in_a_line_that_names_both(
    checkout, small_mnist, tmp_path
):
    path, data = checkout / "artifacts" / "mlp.pt", digest(load_data(True, small_mnist))
    task3.save_checkpoint(
        task3.MultilayerPerceptron(), {"data": "0123456789abcdef"}, path
    )
    (line,) = run_script(
        checkout / "task4.py", "--data-dir", small_mnist, "--figures", tmp_path
    ).stderr.splitlines()
    path.rename(tmp_path / "mlp.pt")
    assert all(
        str(name) in line for name in (path, "0123456789abcdef", small_mnist, data)
    )
