"""Task 4 · What the hidden layers of task 3's network make of the digits.

Answers 4.1 to 4.4 of the sheet; writes figures/task4_*, figures/task4.json and the page task4_explorer.html, and
features.npz beside the checkpoint. Without a checkpoint the network is trained first, as task 3 does.
"""

import argparse
import os
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from torch import nn
from tqdm import tqdm

from common import plotting, script
from common.data import Images, Vectors, check_enough, convert_mnist_to_vectors, digest, load_data
from common.explorer import Space, save_page
from common.pca import PCA, do_pca, project
from common.plotting import PAGE_WIDTH, SPLIT_COLOURS, Figure, plt, styled
from common.script import CHECKPOINT, FEATURES, Failure, check_shape
from common.separation import neighbour_separation
from task3 import DEFAULTS, MultilayerPerceptron, predict_probabilities, read_checkpoint, train_and_save

SHOWN_POINTS = 3000
SILHOUETTE_POINTS = 2500  # its cost grows with the square
LEGEND = """variance held by two components; accuracy of ten neighbours in their plane and of a linear classifier in the
full space; silhouette in the plane, from -1 to 1; units that are zero for every image
           variance  neighbours    linear  silhouette  dead units"""


def load_or_train(options: argparse.Namespace, test_data: Vectors) -> tuple[MultilayerPerceptron, dict[str, Any]]:
    """Return the network of the checkpoint and its settings; train it first when the default checkpoint is missing.

    Raises `Failure` when the network was trained on another train split than that of the flags.
    """
    train_images = load_data(train=True, data_dir=options.data_dir)
    data = digest(train_images)
    if options.checkpoint.resolve() == CHECKPOINT.resolve() and not CHECKPOINT.exists():
        print(f"no checkpoint {CHECKPOINT.name} yet: training the network of task 3 first", flush=True)
        train_and_save(convert_mnist_to_vectors(train_images), test_data, options, DEFAULTS, data)
    model, settings = read_checkpoint(options.checkpoint)
    if settings.get("data") != data:
        these = f"{options.data_dir or os.environ.get('MNIST_DIR') or 'MNIST'} (train split {data})"
        advice = "give the --data-dir of its training, or train another with python task3.py"
        raise Failure(f"{options.checkpoint} was trained on other data ({settings.get('data')}) than {these}; {advice}")
    return model.to(script.choose_device(options.device)), settings


@torch.no_grad()
def extract_features(model: MultilayerPerceptron, vectors: np.ndarray) -> list[np.ndarray]:
    """Return what stands right after each ReLU for `vectors` [N, 784]: four arrays float32 [N, 100] (4.1)."""
    check_shape(vectors, "N", 784)
    activations = torch.as_tensor(vectors, dtype=torch.float32).to(next(model.parameters()).device)
    features = []
    for layer in model.layers:
        activations = layer(activations)
        if isinstance(layer, nn.ReLU):
            features.append(activations.cpu().numpy())
    return features


def orient(points: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Return points [N, 2] with columns swapped or negated to be most like the reference, and the order of the columns.

    Of all swaps and signs, these have the greatest correlation of the class means.
    """
    classes = [labels == number for number in np.unique(labels)]
    means, targets = (np.stack([plane[members].mean(axis=0) for members in classes]) for plane in (points, reference))
    products = (means - means.mean(axis=0)).T @ (targets - targets.mean(axis=0))  # [2, 2]
    order = max([0, 1], [1, 0], key=lambda order: np.abs(products[order, [0, 1]]).sum())
    return points[:, order] * np.where(products[order, [0, 1]] < 0, -1, 1), order


def linear_accuracy(fit: Vectors, held_out: Vectors) -> float:
    """Return the accuracy in per cent on `held_out` of logistic regression, standardized by and fitted to `fit`."""
    mean, deviation = fit.vectors.mean(axis=0), fit.vectors.std(axis=0)
    deviation[deviation == 0] = 1
    classifier = LogisticRegression(C=0.01, max_iter=1000).fit((fit.vectors - mean) / deviation, fit.labels)
    return float(100 * classifier.score((held_out.vectors - mean) / deviation, held_out.labels))


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


def names(spaces: Sequence[Any]) -> list[str]:
    """Return the names of the pixels and of the layers after them."""
    return ["pixels", *(f"layer {number}" for number in range(1, len(spaces)))]


@styled
def features_figure(points: Sequence[np.ndarray], labels: np.ndarray, measures: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw each representation in the plane of its first two components [N, 2], then three measures of all (4.3)."""
    height = -(-(len(points) + 1) // 3)  # panels
    figure, all_axes = plt.subplots(height, 3, figsize=(PAGE_WIDTH, 2.2 * height))
    for axes in all_axes.flat:
        axes.set_axis_off()
    for axes, plane, name, measure in zip(all_axes.flat, points, names(measures), measures, strict=False):
        plotting.class_scatter(axes, plane, labels)
        axes.set_title(f"{name} · {measure['neighbours']:.0f} %", pad=2)
    axes = all_axes.flat[len(points)]
    axes.set_axis_on()
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
    axes.set_xticks(range(len(measures)), [name.removeprefix("layer ") for name in names(measures)])
    axes.set(xlim=(-0.6, len(measures) + 2), ylim=(0, 104), yticks=[], title="per cent")
    axes.set_xlabel("layer", x=0.41)
    axes.spines.left.set_visible(False)
    axes.spines.bottom.set_bounds(-0.4, len(measures) - 0.6)
    return figure


@styled
def classes_figure(measures: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the accuracy of neighbours in the plane per representation and class, in per cent (4.3)."""
    accuracy = np.array([measure["neighbours_per_class"] for measure in measures], float)  # [5, 10]
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH, 1.3))
    texts = np.where(np.isfinite(accuracy), np.char.mod("%.0f", accuracy), "")
    plotting.draw_cells(axes, plt.get_cmap("Blues")(accuracy / 110), texts, fontsize=7)
    axes.set_yticks(range(len(measures)), names(measures))
    axes.set_xlabel("accuracy per digit of ten nearest neighbours in the plane (%)")
    return figure


def main(options: argparse.Namespace) -> None:
    """Answer 4.1 to 4.4 in turn."""
    test_images = load_data(train=False, data_dir=options.data_dir)
    check_enough(test_images.labels)
    test_data = convert_mnist_to_vectors(test_images)
    labels = test_data.labels
    model, settings = load_or_train(options, test_data)
    shifted = shifted_accuracy(model, test_images)
    print(f"accuracy of the network on these {len(labels):,} images {shifted[0]:.2f} %")
    print("network: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items()), flush=True)

    features = extract_features(model, test_data.vectors)  # 4.1
    with script.replacing(options.checkpoint.with_name(FEATURES)) as temporary, temporary.open("wb") as file:
        np.savez(file, **{f"layer{number}": array for number, array in enumerate(features, 1)})

    spaces = [test_data.vectors, *features]  # 4.2
    planes, pages, measures = [], [], []
    for name, vectors in zip(tqdm(names(spaces), "separation", leave=False, disable=None), spaces, strict=True):
        pca = do_pca(vectors)
        plane = project(vectors, pca)
        plane, order = orient(plane, planes[-1] if planes else plane, labels)
        planes.append(plane)
        pages.append(Space(name, plane, [number + 1 for number in order], pca.variance_shares[order]))
        measures.append(measure_separation(vectors, pca, plane, labels, options.seed))  # 4.3
    print(LEGEND)
    for name, measure in zip(names(spaces), measures, strict=True):
        line = "{:9}{variance:8.1f} %{neighbours:10.2f} %{linear:8.2f} %{silhouette:12.3f}{dead_units:12}"
        print(line.format(name, **measure))

    shown = np.random.default_rng(options.seed).permutation(len(labels))[:SHOWN_POINTS]
    figure = features_figure([plane[shown] for plane in planes], labels[shown], measures)
    plotting.save_figure(figure, options.figures, "task4_features")
    plotting.save_figure(classes_figure(measures), options.figures, "task4_classes")
    page = options.figures / "task4_explorer.html"
    title = f"What the hidden layers make of {len(labels):,} test images"
    save_page(page, pages, test_images.images, labels, predict_probabilities(model, test_data.vectors), title, shown)
    results = {
        "data": {"test": digest(test_images)},
        "network": settings,
        "images": len(labels),
        "shown_points": len(shown),
        "shapes": [list(array.shape) for array in features],
        "names": names(spaces),
        "separation": measures,
        "shifted_accuracy": shifted,
    }
    script.save_results(options, "task4", results)
    print(f"written to {options.figures}: task4_*.png, task4_*.svg, task4.json; to explore in a browser: {page}")
    if options.show:
        os.startfile(page) if sys.platform == "win32" else webbrowser.open(page.resolve().as_uri())


if __name__ == "__main__":
    script.run(main, script.parse(script.script_parser(__doc__, data=True, model=True)))
