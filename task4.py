"""Task 4 · What the hidden layers of task 3's network make of the digits.

Answers 4.1 to 4.4 of the sheet; writes figures/task4_*, figures/task4.json and the page task4_explorer.html, and
features.npz beside the checkpoint. Without a checkpoint the network is trained first, as task 3 does.
"""

import argparse
import webbrowser
from collections.abc import Mapping, Sequence
from itertools import accumulate, product
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from torch import nn
from tqdm import tqdm

from common.checks import check_shape
from common.data import Images, Vectors, check_enough, convert_mnist_to_vectors, digest, load_data
from common.explorer import save_page
from common.pca import PCA, do_pca, project
from common.plotting import PAGE_WIDTH, SPLIT_COLOURS, class_scatter, draw_cells, save_figure, styled
from common.runtime import CHECKPOINT, choose_device, parse, replacing, run, save_results, script_parser
from common.separation import neighbour_separation
from task3 import MultilayerPerceptron, load_checkpoint, predict_probabilities, train_and_save

NAMES = ("pixels", "layer 1", "layer 2", "layer 3", "layer 4")
SHOWN_POINTS = 3000
SILHOUETTE_POINTS = 2500  # its cost grows with the square
LEGEND = """variance held by two components; accuracy of ten neighbours in their plane and of a linear classifier in the
full space; silhouette in the plane, from -1 to 1; units that are zero for every image
           variance  neighbours    linear  silhouette  dead units"""


def load_or_train(options: argparse.Namespace, test_data: Vectors) -> MultilayerPerceptron:
    """Return the network of the checkpoint; train it first when the default checkpoint does not exist."""
    if options.checkpoint.resolve() == CHECKPOINT.resolve() and not CHECKPOINT.exists():
        print(f"no checkpoint {CHECKPOINT.name} yet: training the network of task 3 first", flush=True)
        train_and_save(load_data(train=True, data_dir=options.data_dir), test_data, options)
    return load_checkpoint(options.checkpoint).to(choose_device(options.device))


@torch.no_grad()
def extract_features(model: MultilayerPerceptron, vectors: np.ndarray) -> list[np.ndarray]:
    """Return the activations right after each of the four ReLUs for `vectors` [N, 784]: four float32 [N, 100] (4.1)."""
    check_shape(vectors, "N", 784)
    activations = torch.as_tensor(vectors, dtype=torch.float32).to(next(model.parameters()).device)
    features = []
    for layer in model.layers:
        activations = layer(activations)
        if isinstance(layer, nn.ReLU):
            features.append(activations.cpu().numpy())
    return features


def resemblance(points: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> float:
    """Return the correlation between the class means of two planes [N, 2], 0 where nothing varies (4.4)."""
    classes = [labels == number for number in np.unique(labels)]
    means = [np.stack([plane[members].mean(axis=0) for members in classes]) for plane in (points, reference)]
    centred = [(plane - plane.mean(axis=0)).ravel() for plane in means]  # on the mean of all classes
    lengths = np.linalg.norm(centred, axis=1)
    return float(centred[0] @ centred[1] / max(lengths.prod(), np.finfo(float).tiny))


def orient(points: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return points [N, 2] with columns swapped or negated so that they resemble the reference most."""
    turned = [points[:, order] * signs for order in ([0, 1], [1, 0]) for signs in product((1, -1), repeat=2)]
    return max(turned, key=lambda plane: resemblance(plane, reference, labels))


def linear_accuracy(known: Vectors, tested: Vectors) -> float:
    """Return the accuracy in per cent on `tested` of logistic regression, standardized by and fitted to `known`."""
    mean, deviation = known.vectors.mean(axis=0), known.vectors.std(axis=0)
    deviation[deviation == 0] = 1
    classifier = LogisticRegression(C=0.01, max_iter=1000).fit((known.vectors - mean) / deviation, known.labels)
    return float(100 * classifier.score((tested.vectors - mean) / deviation, tested.labels))


def measure_separation(
    vectors: np.ndarray, pca: PCA, points: np.ndarray, labels: np.ndarray, seed: int
) -> dict[str, Any]:
    """Measure how well the classes of vectors [N, D] and of their projection, points [N, 2], are separated (4.3).

    Variance and accuracies are in per cent; components are counted that hold 90 % of the variance. Nearest neighbours
    in the plane and a linear classifier in the full space learn one half of the images and are tested on the other.
    The silhouette, from -1 to 1, is that of the plane; dead units are zero for every image.
    """
    fit, check = np.array_split(np.random.default_rng(seed).permutation(len(labels)), 2)
    plane = neighbour_separation(Vectors(points[fit], labels[fit]), Vectors(points[check], labels[check]))
    shown = check[:SILHOUETTE_POINTS]
    return {
        "variance": float(100 * pca.variance_shares[:2].sum()),
        "components_for_90": int(np.searchsorted(np.cumsum(pca.variance_shares), 0.9)) + 1,
        "neighbours": plane["accuracy"],
        "neighbours_per_class": plane["accuracy_per_class"],
        "pairs": plane["pairs"],
        "linear": linear_accuracy(Vectors(vectors[fit], labels[fit]), Vectors(vectors[check], labels[check])),
        "silhouette": float(silhouette_score(points[shown], labels[shown])),
        "dead_units": int((vectors == 0).all(axis=0).sum()),
    }


def shifted_accuracy(model: MultilayerPerceptron, data: Images) -> list[float]:
    """Return the network's accuracy in per cent on images shifted by 0 … 4 pixels, the mean over four directions (4.4).

    Shifts wrap around; with MNIST's margins that moves under one per cent of the ink.
    """
    accuracies = []
    for pixels in range(5):
        moved = [(np.roll(data.images, step, axis), data.labels) for axis in (1, 2) for step in (pixels, -pixels)]
        outputs = [predict_probabilities(model, convert_mnist_to_vectors(Images(*each)).vectors) for each in moved]
        accuracies.append(float(100 * np.mean([each.argmax(axis=1) == data.labels for each in outputs])))
    return accuracies


@styled
def features_figure(points: Sequence[np.ndarray], labels: np.ndarray, measures: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw each representation in the plane of its first two components [N, 2], then three measures of all (4.3)."""
    figure, all_axes = plt.subplots(2, 3, figsize=(PAGE_WIDTH, 4.4))
    for axes, plane, name, measure in zip(all_axes.flat, points, NAMES, measures, strict=False):
        class_scatter(axes, plane, labels)
        axes.set_title(f"{name} · {measure['neighbours']:.0f} %", pad=2)
        axes.set_axis_off()
    axes = all_axes[1, 2]
    lines = {
        "linear": ("linear classifier,\nfull space", "black"),
        "neighbours": ("neighbours\nin the plane", SPLIT_COLOURS["test"]),
        "variance": ("variance\nin the plane", "0.45"),
    }
    for key, (_, colour) in lines.items():
        axes.plot([measure[key] for measure in measures], color=colour)
    style = {"fontsize": 7, "va": "center", "bbox": {"facecolor": "white", "linewidth": 0, "pad": 0.6}}
    for place, measure in enumerate(measures):
        height = name_height = -np.inf
        for key in sorted(lines, key=measure.get):  # from below, raised as little as needed to stand clear
            (name, colour), value = lines[key], measure[key]
            height, name_height = max(value, height + 7), max(value, name_height + 16)
            axes.text(place, height, f"{value:.0f}", color=colour, ha="center", **style)
            if place == len(measures) - 1:
                axes.text(place + 0.5, name_height, name, color=colour, **style)
    axes.set_xticks(range(len(NAMES)), [name.removeprefix("layer ") for name in NAMES])
    axes.set(xlim=(-0.6, 7), ylim=(0, 104), yticks=[], title="per cent")
    axes.set_xlabel("layer", x=0.41)
    axes.spines.left.set_visible(False)
    axes.spines.bottom.set_bounds(-0.4, len(NAMES) - 0.6)
    return figure


@styled
def classes_figure(measures: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the accuracy of neighbours in the plane per representation and class, in per cent (4.3)."""
    accuracy = np.array([measure["neighbours_per_class"] for measure in measures], float)  # [5, 10]
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH, 1.3))
    texts = np.where(np.isfinite(accuracy), np.char.mod("%.0f", accuracy), "")
    draw_cells(axes, mpl.colormaps["Blues"](accuracy / 110), texts, fontsize=7)
    axes.set_yticks(range(len(NAMES)), NAMES)
    axes.set_xlabel("accuracy per digit of ten nearest neighbours in the plane (%)")
    return figure


def main(options: argparse.Namespace) -> None:
    """Answer 4.1 to 4.4 in turn."""
    test_images = load_data(train=False, data_dir=options.data_dir)
    check_enough(test_images.labels)
    test_data = convert_mnist_to_vectors(test_images)
    labels = test_data.labels
    model = load_or_train(options, test_data)
    shifted = shifted_accuracy(model, test_images)
    settings = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in model.settings.items())
    print(f"network: {settings}; accuracy on these {len(labels):,} images {shifted[0]:.2f} %")

    features = extract_features(model, test_data.vectors)  # 4.1
    with replacing(options.checkpoint.with_name("features.npz")) as temporary, temporary.open("wb") as file:
        np.savez(file, **{f"layer{number}": array for number, array in enumerate(features, 1)})
    spaces = [test_data.vectors, *features]  # 4.2
    pcas = [do_pca(vectors) for vectors in spaces]
    planes = [project(vectors, pca) for vectors, pca in zip(spaces, pcas, strict=True)]
    points = list(accumulate(planes, lambda previous, plane: orient(plane, previous, labels)))
    measures = [  # 4.3, 4.4
        measure_separation(*space, labels, options.seed)
        for space in tqdm(list(zip(spaces, pcas, points, strict=True)), "separation", leave=False, disable=None)
    ]
    print(LEGEND)
    for name, measure in zip(NAMES, measures, strict=True):
        line = "{:9}{variance:8.1f} %{neighbours:10.2f} %{linear:8.2f} %{silhouette:12.3f}{dead_units:12}"
        print(line.format(name, **measure))

    shown = np.random.default_rng(options.seed).permutation(len(labels))[:SHOWN_POINTS]
    figure = features_figure([plane[shown] for plane in points], labels[shown], measures)
    save_figure(figure, options.figures, "task4_features")
    save_figure(classes_figure(measures), options.figures, "task4_classes")
    shares = [plane.var(axis=0, ddof=1) / (pca.eigenvalues.sum() or 1) for plane, pca in zip(points, pcas, strict=True)]
    page = options.figures / "task4_explorer.html"
    title = f"What the hidden layers make of {len(labels):,} test images"
    panels = list(zip(NAMES, points, shares, strict=True))
    save_page(page, panels, test_images.images, labels, predict_probabilities(model, test_data.vectors), title, shown)
    results = {
        "data": {"test": digest(test_images)},
        "network": model.settings,
        "images": len(labels),
        "shown_points": len(shown),
        "shapes": [list(array.shape) for array in features],
        "names": NAMES,
        "separation": measures,
        "resemblance": [resemblance(orient(plane, points[0], labels), points[0], labels) for plane in points],
        "shifted_accuracy": shifted,
    }
    save_results(options, "task4", results)
    print(f"left in {options.figures}: task4_*.png, task4_*.svg, task4.json; to explore in a browser: {page}")
    if options.show:
        webbrowser.open(page.resolve().as_uri())


if __name__ == "__main__":
    run(main, parse(script_parser(__doc__, data=True, model=True)))
