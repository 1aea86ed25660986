"""Task 4 · What the hidden layers of task 3's network make of the digits.

Answers 4.1 to 4.4 of the sheet; writes figures/task4_features.png and figures/task4.json, and features.npz beside the
checkpoint. Without a checkpoint the network is trained first, as task 3 does.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from common.runtime import CHECKPOINT, parse, replacing, run, save_results, script_parser


def parse_options() -> argparse.Namespace:
    """Parse the flags of task 4."""
    return parse(script_parser(__doc__, data=True, model=True))


options = parse_options() if __name__ == "__main__" else None  # --help does not wait for the slow imports below

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from tqdm import tqdm

from common.checks import check_shape
from common.confusion import confused_pairs, confusion_matrix
from common.data import Images, Vectors, check_enough, convert_mnist_to_vectors, load_data
from common.pca import PCA, do_pca, project
from common.plotting import class_legend, class_scatter, save_figure
from common.runtime import choose_device
from task3 import MultilayerPerceptron, load_checkpoint, predict, train_and_save

NAMES = ("pixels", "layer 1", "layer 2", "layer 3", "layer 4")
NEIGHBOURS = 10
SHOWN_POINTS = 3000
SHIFTS = 4  # pixels
SILHOUETTE_POINTS = 2500  # its cost grows with the square


def network(options: argparse.Namespace, test_data: Vectors) -> MultilayerPerceptron:
    """Return the network of the checkpoint; train it first when the default checkpoint is not there."""
    if options.checkpoint == CHECKPOINT and not CHECKPOINT.exists():
        print(f"no checkpoint {CHECKPOINT.name} yet: training the network of task 3 first", flush=True)
        train_data = convert_mnist_to_vectors(load_data(train=True, data_dir=options.data_dir))
        train_and_save(train_data, test_data, options)
    return load_checkpoint(options.checkpoint).to(choose_device(options.device))


@torch.no_grad()
def extract_features(model: MultilayerPerceptron, vectors: np.ndarray) -> list[np.ndarray]:
    """Return what stands right after each of the four ReLUs for `vectors` [N, 784]: four float32 [N, 100] (4.1)."""
    check_shape(vectors, None, 784)
    activations = torch.as_tensor(vectors).to(next(model.parameters()).device)
    features = []
    for layer in model.layers:
        activations = layer(activations)
        if isinstance(layer, nn.ReLU):
            features.append(activations.cpu().numpy())
    return features


def save_features(features: list[np.ndarray], path: Path) -> None:
    """Store the features as `layer1` … `layer4` in one NumPy archive (4.1)."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{f"layer{number}": array for number, array in enumerate(features, 1)})


def shifted_accuracy(model: MultilayerPerceptron, data: Images) -> list[float]:
    """Return the network's accuracy in per cent on images shifted by 0 … 4 pixels, the mean over four directions (4.4).

    What leaves at one edge comes back at the other; with MNIST's margins that is under one per cent of the ink.
    """
    accuracies = []
    for pixels in range(SHIFTS + 1):
        moved = [(np.roll(data.images, step, axis), data.labels) for axis in (1, 2) for step in (pixels, -pixels)]
        right = [predict(model, convert_mnist_to_vectors(Images(*each)).vectors) == data.labels for each in moved]
        accuracies.append(float(100 * np.mean(right)))
    return accuracies


class Representation(NamedTuple):
    """The digits in one space: vectors [N, D], their principal components, and the first two coordinates [N, 2]."""

    vectors: np.ndarray
    pca: PCA
    points: np.ndarray


def represent(vectors: np.ndarray) -> Representation:
    """Repeat the steps of task 2 on one layer's vectors (4.2)."""
    pca = do_pca(vectors)
    return Representation(vectors, pca, project(vectors, pca))


def separation(representation: Representation, labels: np.ndarray, seed: int) -> dict[str, Any]:
    """Measure how well the classes are separated (4.3); the classifiers learn one half and are tested on the other.

    Returns the variance held by two components, the accuracy of nearest neighbours in their plane and of logistic
    regression in the full space, all in per cent; the pairs that the neighbours confuse; the silhouette in the plane,
    from -1 to 1; and the number of dead units, those that are zero for every image.
    """
    vectors, pca, points = representation
    order = np.random.default_rng(seed).permutation(len(labels))
    fit, check = np.array_split(order, 2)
    deviation = vectors[fit].std(axis=0)
    scaled = (vectors - vectors[fit].mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    predicted = KNeighborsClassifier(NEIGHBOURS).fit(points[fit], labels[fit]).predict(points[check])
    linear = LogisticRegression(C=0.01, max_iter=1000).fit(scaled[fit], labels[fit])
    shown = check[:SILHOUETTE_POINTS]
    return {
        "variance": float(100 * pca.variance_shares[:2].sum()),
        "neighbours": float(100 * (predicted == labels[check]).mean()),
        "pairs": confused_pairs(confusion_matrix(labels[check], predicted)),
        "linear": 100 * linear.score(scaled[check], labels[check]),
        "silhouette": float(silhouette_score(points[shown], labels[shown])),
        "dead_units": int((vectors == 0).all(axis=0).sum()),
    }


def features_figure(
    representations: list[Representation], labels: np.ndarray, measures: list[dict[str, Any]], seed: int
) -> Figure:
    """Draw the five projections side by side, with their measures of separation (4.3)."""
    subset = np.random.default_rng(seed).permutation(len(labels))[:SHOWN_POINTS]
    figure, all_axes = plt.subplots(2, 3, figsize=(10.8, 7.6))
    for axes, name, representation, measure in zip(all_axes.flat, NAMES, representations, measures, strict=False):
        class_scatter(axes, representation.points[subset], labels[subset], representation.pca.variance_shares[:2])
        axes.set_title(
            f"{name}: {NEIGHBOURS} neighbours {measure['neighbours']:.1f} %,\n"
            f"linear {measure['linear']:.1f} %, silhouette {measure['silhouette']:.2f}"
        )
    draw_measures(all_axes.flat[-1], measures)
    class_legend(figure, [str(digit) for digit in range(10)], columns=10)
    return figure


def draw_measures(axes: Axes, measures: list[dict[str, Any]]) -> None:
    """Draw the two accuracies over the representations, each curve named beside its end (4.3, 4.4)."""
    for name, label in (
        ("linear", "linear classifier\nin the full space"),
        ("neighbours", "10 neighbours\nin the plane"),
    ):
        values = [measure[name] for measure in measures]
        axes.plot(NAMES, values, "o-", color="black")
        axes.annotate(label, (3, values[3]), xytext=(4, -20), textcoords="offset points", ha="center", va="top")
    axes.set(ylabel="accuracy on the other half (%)", ylim=(0, 103), title="separation of the classes")


def main(options: argparse.Namespace) -> None:
    """Answer 4.1 to 4.4 in turn."""
    test_images = load_data(train=False, data_dir=options.data_dir)
    check_enough(test_images.labels)
    test_data = convert_mnist_to_vectors(test_images)
    model = network(options, test_data)

    features = extract_features(model, test_data.vectors)  # 4.1
    save_features(features, options.checkpoint.with_name("features.npz"))
    representations = [represent(vectors) for vectors in (test_data.vectors, *features)]  # 4.2
    measures = [  # 4.3, 4.4
        separation(representation, test_data.labels, options.seed)
        for representation in tqdm(representations, "separation", leave=False, disable=None)
    ]
    print("                  variance  neighbours  linear  silhouette  dead units")
    for name, measure in zip(NAMES, measures, strict=True):
        numbers = "{variance:7.1f} %  {neighbours:8.2f} %  {linear:.2f} %  {silhouette:8.3f}  {dead_units:10}"
        print(f"{name:16}", numbers.format(**measure))

    figure = features_figure(representations, test_data.labels, measures, options.seed)
    save_figure(figure, options.figures / "task4_features.png")
    results = {
        "images": len(test_data.labels),
        "neighbours": NEIGHBOURS,
        "shown_points": min(SHOWN_POINTS, len(test_data.labels)),
        "shapes": [list(array.shape) for array in features],
        "names": NAMES,
        "separation": measures,
        "shifted_accuracy": shifted_accuracy(model, test_images),
    }
    save_results(options, "task4", results)


if __name__ == "__main__":
    run(main, options)
