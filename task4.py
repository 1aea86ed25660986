"""Task 4 · What the hidden layers of task 3's network make of the digits.

Answers 4.1 to 4.4 of the sheet; writes figures/task4_*, figures/task4.json and the page
task4_explorer.html, and features.npz beside the checkpoint. Without the default
checkpoint the network is trained first, as task 3 does.
"""

import argparse
import os
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.linalg import orthogonal_procrustes
from sklearn.pipeline import Pipeline
from torch import nn
from tqdm import tqdm

from common import plotting, script
from common.data import (
    Images,
    Vectors,
    check_enough,
    convert_mnist_to_vectors,
    digest,
    load_data,
    thin,
)
from common.explorer import Space, save_page
from common.pca import PCA, components_for_90, do_pca, project
from common.plotting import PAGE_WIDTH, Axes, Figure, plt, styled
from common.script import CHECKPOINT, FEATURES, Failure, check_shape
from common.separation import (
    APART,
    NEIGHBOURS,
    between_classes,
    linear_classifier,
    neighbour_separation,
)
from task3 import (
    DEFAULTS,
    MultilayerPerceptron,
    batch_accuracy,
    predict_probabilities,
    read_checkpoint,
    train_and_save,
)

SHOWN_POINTS = 3000
FIT_IMAGES = 20_000  # of the train split, from which both classifiers learn
KEPT_COMPONENTS = (1, 2, 3, 5, 7, 10, 20, 50)
SHIFTS = (0, 1, 2, 3, 4)  # in pixels


def load_or_train(
    options: argparse.Namespace,
    train_data: Vectors,
    test_data: Vectors,
    train_digest: str,
) -> tuple[MultilayerPerceptron, dict[str, Any]]:
    """Return the network of the checkpoint and its settings; train it first when the
    default checkpoint is missing.

    Raises `Failure` when the network was not trained on the train split of the flags,
    which has the digest `train_digest`.
    """
    default = options.checkpoint.resolve() == CHECKPOINT.resolve()
    if default and not CHECKPOINT.exists():
        print("no checkpoint yet: training the network of task 3 first", flush=True)
        train_and_save(train_data, test_data, options, DEFAULTS, train_digest)
    model, network = read_checkpoint(options.checkpoint)
    if network.get("data") != train_digest:
        folder = options.data_dir or os.environ.get("MNIST_DIR") or "MNIST"
        raise Failure(
            f"{options.checkpoint} was trained on other data ({network.get('data')}) "
            f"than {folder} (train split {train_digest}); give the --data-dir of its "
            "training, or train another with python task3.py"
        )
    return model.to(script.choose_device(options.device)), network


@torch.no_grad()
def extract_features(
    model: MultilayerPerceptron, vectors: np.ndarray
) -> list[np.ndarray]:
    """Return the activations right after each ReLU for `vectors` [N, 784]: four arrays
    float32 [N, 100] (4.1).
    """
    check_shape(vectors, "N", 784)
    device = next(model.parameters()).device
    activations = torch.as_tensor(vectors, dtype=torch.float32, device=device)
    features = []
    for layer in model.layers:
        activations = layer(activations)
        if isinstance(layer, nn.ReLU):
            features.append(activations.cpu().numpy())  # [N, 100]
    return features


def save_features(features: Sequence[np.ndarray], path: Path) -> None:
    """Write the features of the layers to an archive of NumPy, as layer1, layer2 …"""
    arrays = {f"layer{k}": array for k, array in enumerate(features, 1)}
    with script.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def measure_separation(
    train: Vectors, test: Vectors, linear: Pipeline
) -> dict[str, Any]:
    """Measure how well the classes of the test split separate in one space, whose
    vectors are [N, D], and in the plane of its two most important components (4.3).

    The components are those of the test vectors, as in 4.2. Ten nearest neighbours in
    the plane learn from the train vectors, as `linear` has, a classifier in all
    dimensions. Shares and accuracies are in per cent.
    """
    pca = do_pca(test.vectors)
    train_plane = Vectors(project(train.vectors, pca), train.labels)
    test_plane = Vectors(project(test.vectors, pca), test.labels)
    plane = neighbour_separation(train_plane, test_plane)
    return {
        "variance": float(100 * pca.variance_shares[:2].sum()),
        "components_for_90": components_for_90(pca.variance_shares),
        "between": 100 * between_classes(test),
        "neighbours": plane["accuracy"],
        "recall": plane["recall"],
        "precision": plane["precision"],
        "pairs": plane["pairs"],
        "linear": float(100 * linear.score(test.vectors, test.labels)),
    }


def measure_layers(
    model: MultilayerPerceptron, train: Vectors, test: Vectors
) -> list[dict[str, Any]]:
    """Measure the separation in each hidden layer of a network, for vectors [N, 784]
    (4.3).
    """
    train_features = extract_features(model, train.vectors)
    test_features = extract_features(model, test.vectors)
    layers = list(zip(train_features, test_features, strict=True))
    measures = []
    for fitted, measured in tqdm(layers, "layers", leave=False, disable=None):
        train_layer = Vectors(fitted, train.labels)
        test_layer = Vectors(measured, test.labels)
        linear = linear_classifier(train_layer)
        measures.append(measure_separation(train_layer, test_layer, linear))
    return measures


@torch.no_grad()
def finished_accuracies(
    layers: nn.Module, pca: PCA, vectors: np.ndarray, labels: np.ndarray
) -> list[float]:
    """Return the accuracy in per cent of the layers that follow on a space, from the
    first k components of its vectors [N, D] alone, for each k of `KEPT_COMPONENTS`
    (4.3).

    The mean replaces all that the components do not hold.
    """
    device = next(layers.parameters()).device
    accuracies = []
    for count in np.minimum(KEPT_COMPONENTS, len(pca.mean)):
        coordinates = project(vectors, pca, count)  # [N, k]
        kept = coordinates @ pca.eigenvectors[:, :count].T + pca.mean  # [N, D]
        logits = layers(torch.as_tensor(kept, dtype=torch.float32, device=device))
        accuracies.append(batch_accuracy(logits.cpu(), torch.as_tensor(labels)))
    return accuracies


def plane_cosines(first: PCA, second: PCA) -> list[float]:
    """Return the cosines of the two angles between the planes of the first two
    components of two PCAs (4.4); they are 1 where the planes are the same.
    """
    products = first.eigenvectors[:, :2].T @ second.eigenvectors[:, :2]  # [2, 2]
    return np.linalg.svd(products, compute_uv=False).tolist()


def shifted_accuracies(
    classify: Callable[[np.ndarray], np.ndarray], data: Images
) -> list[float]:
    """Return the accuracy in per cent on images shifted by each of `SHIFTS`, the mean
    over four directions (4.4); `classify` maps vectors [N, 784] to classes [N].

    Shifts wrap around; with MNIST's margins that moves under one per cent of the ink on
    average.
    """
    accuracies = []
    for pixels in SHIFTS:
        right = []
        for axis, step in ((1, pixels), (1, -pixels), (2, pixels), (2, -pixels)):
            moved = Images(np.roll(data.images, step, axis), data.labels)
            vectors = convert_mnist_to_vectors(moved).vectors
            right.append(classify(vectors) == data.labels)
        accuracies.append(float(100 * np.mean(right)))
    return accuracies


def alignment(
    points: np.ndarray, reference: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Return the rotation [2, 2], with or without a reflection, by which
    `points @ rotation` [N, 2] are most like the reference points [N, 2].

    A PCA fixes its axes only up to their sign, and where two variances are nearly equal
    only up to a rotation. Scatter plots of two spaces can be compared once the means of
    the classes lie as close to those of the other as a rotation can bring them.
    """
    means = []
    targets = []
    for number in np.unique(labels):
        means.append(points[labels == number].mean(axis=0))
        targets.append(reference[labels == number].mean(axis=0))
    centred_means = means - np.mean(means, axis=0)  # [C, 2]
    centred_targets = targets - np.mean(targets, axis=0)
    return orthogonal_procrustes(centred_means, centred_targets)[0]


def alignments(
    planes: Sequence[np.ndarray], reference: np.ndarray, labels: np.ndarray
) -> list[np.ndarray]:
    """Return the rotations [2, 2] that align planes, points [N, 2], each with the one
    before and the first with the reference.
    """
    rotations = []
    for points in planes:
        rotation = alignment(points, reference, labels)
        reference = points @ rotation
        rotations.append(rotation)
    return rotations


def draw_directions(axes: Axes, rotation: np.ndarray) -> None:
    """Draw where the two components point after a rotation [2, 2], as arrows beside the
    title of an axes.
    """
    low = rotation.min(axis=0).clip(max=0)  # how far the arrows reach
    high = rotation.max(axis=0).clip(min=0)
    right = 0.94 - 0.2 * high[0]
    middle = 1.06 - 0.1 * (low[1] + high[1])
    for number, direction in enumerate(rotation, 1):
        axes.annotate(
            f"PC {number}",
            (right, middle),
            16 * direction,
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7,
            arrowprops={"arrowstyle": "<-", "shrinkA": 0, "shrinkB": 0},
        )


def draw_planes(
    all_axes: Sequence[Axes],
    planes: Sequence[np.ndarray],
    reference: np.ndarray,
    labels: np.ndarray,
    titles: Sequence[str],
) -> None:
    """Draw planes, points [N, 2], from left to right, each rotated onto the one before
    and the first onto the reference.
    """
    rotations = alignments(planes, reference, labels)
    panels = zip(all_axes, planes, rotations, titles, strict=True)
    for axes, points, rotation, title in panels:
        plotting.class_scatter(axes, points @ rotation, labels)
        draw_directions(axes, rotation)
        axes.set_title(title, loc="left", pad=2)
        axes.set_axis_off()


def panel_titles(
    names: Sequence[str], measures: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return each space's name with the accuracy of the neighbours in its plane."""
    titles = []
    for name, measure in zip(names, measures, strict=True):
        titles.append(f"{name}\n{measure['neighbours']:.0f} %")
    return titles


@styled
def features_figure(
    planes: Sequence[np.ndarray],
    untrained_planes: Sequence[np.ndarray],
    labels: np.ndarray,
    titles: Sequence[str],
    untrained_titles: Sequence[str],
) -> Figure:
    """Draw the pixels and the layers, and below them the layers before training, each
    as points [N, 2] in the plane of its first two components (4.3).
    """
    figure, all_axes = plt.subplots(2, len(planes), figsize=(PAGE_WIDTH, 3))
    draw_planes(all_axes[0], planes, planes[0], labels, titles)
    draw_planes(all_axes[1, 1:], untrained_planes, planes[0], labels, untrained_titles)
    all_axes[1, 0].text(0, 0.5, "before\ntraining:", transform=all_axes[1, 0].transAxes)
    all_axes[1, 0].set_axis_off()
    words = (
        f"per cent: test accuracy of {NEIGHBOURS} nearest neighbours in the plane; "
        "each plane is rotated onto the one before it, at a scale of its own"
    )
    figure.supxlabel(words, x=0.01, ha="left", fontsize=7)
    return figure


def lesser_shares(measure: Mapping[str, Any]) -> np.ndarray:
    """Return the lesser of recall and precision of each class [10] in per cent; NaN for
    a class without images, 0 for one that is never predicted.
    """
    recall = np.array(measure["recall"], dtype=float)  # None becomes NaN
    precision = np.array(measure["precision"], dtype=float)
    return np.minimum(recall, np.nan_to_num(precision))


@styled
def components_figure(
    finished: Sequence[Sequence[float]],
    measures: Sequence[Mapping[str, Any]],
    names: Sequence[str],
) -> Figure:
    """Draw the network's accuracy from k components, and how well each digit separates
    in the first and the last plane (4.3).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.1))
    draw_finished(left, finished, names)

    before = lesser_shares(measures[0])
    after = lesser_shares(measures[-1])
    order = [
        k for k in np.argsort(before - after, kind="stable") if np.isfinite(after[k])
    ]
    ticks = []
    for place, number in enumerate(order):
        colour = plotting.CLASS_COLOURS[number]
        ends = [before[number], after[number]]
        right.plot([place, place], ends, color=colour, linewidth=2)
        right.plot(place, after[number], "o", color=colour, markersize=5)
        right.plot(place, before[number], "o", color=colour, markerfacecolor="white")
        gain = f"{after[number] - before[number]:+.0f}"
        ticks.append(f"{number}\n{gain.replace('-', '−')}")
    right.axhline(APART, color="black", linestyle="--", linewidth=0.8, zorder=0)
    right.set_xticks(range(len(order)), ticks)
    right.set(ylim=(0, 104), xlabel="digit and gain in points")
    right.set_ylabel("lesser of recall and\nprecision in the plane (%)")
    right.set_title(f"○ {names[0]}, ● {names[-1]}", fontsize=7, loc="right")
    return figure


def draw_finished(
    axes: Axes, finished: Sequence[Sequence[float]], names: Sequence[str]
) -> None:
    """Draw the network's accuracies from k components, a line for each space."""
    last = len(finished) - 1
    # All lines may end at the same place: their names stand below each other
    for position, values in enumerate(finished):
        # The deeper, the darker
        shade = str(0.7 * (last - position) / last)
        axes.plot(KEPT_COMPONENTS, values, "o-", color=shade)
        axes.annotate(
            names[position],
            (KEPT_COMPONENTS[-1], values[-1]),
            (1.06, 97 - 11 * (last - position)),
            textcoords=("axes fraction", "data"),
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": shade,
                "linestyle": ":",
                "patchA": None,
                "relpos": (-0.05, 0.5),
            },
        )
    axes.set(xscale="log", ylim=(0, 104), xlabel="number of components kept")
    axes.set_ylabel("network's accuracy (%)")
    axes.set_xticks(KEPT_COMPONENTS, KEPT_COMPONENTS)
    axes.minorticks_off()


def print_measures(names: Sequence[str], measures: Sequence[Mapping[str, Any]]) -> None:
    """Print what was measured in each space, a line each."""
    print("                variance         variance    test accuracy    test accuracy")
    print("                 between           in the    of neighbours      of a linear")
    print("             classes (%)        plane (%)     in plane (%)   classifier (%)")
    for name, measure in zip(names, measures, strict=True):
        variance = f"{measure['between']:12.2f}{measure['variance']:17.2f}"
        accuracy = f"{measure['neighbours']:17.2f}{measure['linear']:17.2f}"
        print(f"{name:12}{variance}{accuracy}")


def main(options: argparse.Namespace) -> None:
    """Answer 4.1 to 4.4 in turn."""
    train_images = load_data(train=True, data_dir=options.data_dir)
    test_images = load_data(train=False, data_dir=options.data_dir)
    check_enough(test_images.labels)
    train_data = convert_mnist_to_vectors(train_images)
    test_data = convert_mnist_to_vectors(test_images)
    labels = test_data.labels
    train_digest = digest(train_images)
    model, network = load_or_train(options, train_data, test_data, train_digest)
    probabilities = predict_probabilities(model, test_data.vectors)
    accuracy = 100 * np.mean(probabilities.argmax(axis=1) == labels)
    print(f"the network recognizes {accuracy:.2f} % of {len(labels):,} test images")

    # 4.1
    features = extract_features(model, test_data.vectors)
    save_features(features, options.checkpoint.with_name(FEATURES))

    # 4.2
    spaces = [test_data.vectors, *features]
    names = ["pixels"] + [f"layer {k}" for k in range(1, len(spaces))]
    pcas = [do_pca(vectors) for vectors in spaces]
    planes = []
    for vectors, pca in zip(spaces, pcas, strict=True):
        planes.append(project(vectors, pca))

    # 4.3
    print("measuring how well the classes separate, layer by layer …", flush=True)
    known = thin(train_data, FIT_IMAGES)
    linear = linear_classifier(known)
    measures = [measure_separation(known, test_data, linear)]
    measures += measure_layers(model, known, test_data)
    torch.manual_seed(network.get("seed", 0))
    control = MultilayerPerceptron().to(next(model.parameters()).device)
    untrained = measure_layers(control, known, test_data)
    untrained_names = [f"untrained {k}" for k in range(1, len(spaces))]
    print_measures(names + untrained_names, measures + untrained)

    finished = []
    for position, pca in enumerate(pcas):
        following = model.layers[2 * position :]
        vectors = spaces[position]
        finished.append(finished_accuracies(following, pca, vectors, labels))

    print("drawing the figures and the page …", flush=True)
    shown = np.random.default_rng(options.seed).permutation(len(labels))[:SHOWN_POINTS]
    shown_planes = [points[shown] for points in planes]
    untrained_planes = []
    for vectors in extract_features(control, test_data.vectors):
        untrained_planes.append(project(vectors, do_pca(vectors))[shown])
    figure = features_figure(
        shown_planes,
        untrained_planes,
        labels[shown],
        panel_titles(names, measures),
        panel_titles(names[1:], untrained),
    )
    plotting.save_figure(figure, options.figures, "task4_features")
    figure = components_figure(finished, measures, names)
    plotting.save_figure(figure, options.figures, "task4_components")

    rotations = alignments(shown_planes, shown_planes[0], labels[shown])
    panels = []
    for position, rotation in enumerate(rotations):
        panel = Space(
            name=names[position],
            vectors=spaces[position],
            points=planes[position] @ rotation,
            rotation=rotation,
            accuracy=measures[position]["neighbours"],
        )
        panels.append(panel)
    page = options.figures / "task4_explorer.html"
    save_page(page, panels, test_images.images, labels, probabilities, shown)

    # 4.4
    cosines = plane_cosines(do_pca(train_data.vectors), pcas[0])

    def recognize(vectors: np.ndarray) -> np.ndarray:
        return predict_probabilities(model, vectors).argmax(axis=1)

    shifted = {
        "pixels": SHIFTS,
        "network": shifted_accuracies(recognize, test_images),
        "linear": shifted_accuracies(linear.predict, test_images),
    }

    results = {
        "data": {"test": digest(test_images)},
        "network": network,
        "images": len(labels),
        "shapes": [list(array.shape) for array in features],
        "names": names,
        "settings": {
            "neighbours": NEIGHBOURS,
            "apart": APART,
            "fit_images": len(known.labels),
            "shown_points": len(shown),
        },
        "separation": measures,
        "untrained": untrained,
        "finished": {"components": KEPT_COMPONENTS, "accuracy": finished},
        "plane_cosines": cosines,
        "shifted": shifted,
    }
    script.save_results(options, "task4", results)
    print(f"to explore in a browser: {page}")
    print(f"written to {options.figures}: task4_*.png, task4_*.svg, task4.json")
    print(
        f"neighbours in the plane recognize {measures[0]['neighbours']:.2f} % from "
        f"{names[0]}, {measures[-1]['neighbours']:.2f} % from {names[-1]}"
    )
    if options.show:
        webbrowser.open(page.resolve().as_uri())


if __name__ == "__main__":
    script.run(main, script.parse(script.script_parser(__doc__, data=True, model=True)))
