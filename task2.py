"""Task 2 · MNIST: examples, statistics, vectors, principal components and a map of the digits in two dimensions.

Answers 2.1 to 2.4 of the sheet; writes figures/task2_*.png and figures/task2.json.
"""

from __future__ import annotations

import argparse
from itertools import permutations
from typing import Any

import numpy as np

from common.data import check_enough, convert_mnist_to_vectors, load_data
from common.pca import PCA, do_pca, project
from common.runtime import parse, run, save_results, script_parser


def parse_options() -> argparse.Namespace:
    """Parse the flags of task 2."""
    return parse(script_parser(__doc__, data=True))


options = parse_options() if __name__ == "__main__" else None  # --help does not wait for the slow imports below

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from sklearn.neighbors import KNeighborsClassifier

from common.confusion import confused_pairs, confusion_matrix
from common.plotting import Curve, Panel, class_legend, class_scatter, curve_panels, image_grid, save_figure

SHOWN_POINTS = 6000  # a tenth of MNIST: more would hide each other
NEIGHBOURS = 10


def describe(array: np.ndarray) -> dict[str, Any]:
    """Return the statistics that 2.1 asks for."""
    return {
        "min": array.min().item(),
        "max": array.max().item(),
        "mean": array.mean(dtype=np.float64).item(),
        "shape": list(array.shape),
        "dtype": str(array.dtype),
    }


def first_of_each_class(labels: np.ndarray) -> np.ndarray:
    """Return the index of the first example of every class that occurs, in the order of the classes."""
    return np.unique(labels, return_index=True)[1]


def describe_components(pca: PCA) -> dict[str, Any]:
    """Return the components' shares of the variance and how many of them hold a given share (2.3)."""
    shares = pca.variance_shares
    cumulative = np.cumsum(shares)
    return {
        "variance_shares": shares[:10].tolist(),
        "components_for_share": {
            str(goal): int(np.searchsorted(cumulative, goal)) + 1 for goal in (0.5, 0.8, 0.9, 0.95)
        },
        "constant_directions": int((shares < 1e-9).sum()),
    }


def likeness(components: np.ndarray, vectors: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Return, per component [K, 784], the two classes whose means differ most nearly along it, and that cosine (2.3).

    The component has the sign of the first class's mean minus the second's.
    """
    classes = np.unique(labels)
    means = np.stack([vectors[labels == digit].mean(axis=0) for digit in classes])
    pairs = np.array(list(permutations(range(len(classes)), 2)))
    differences = means[pairs[:, 0]] - means[pairs[:, 1]]
    cosines = components @ differences.T / np.linalg.norm(differences, axis=1)  # [K, pairs]
    best = cosines.argmax(axis=1)
    return [
        {"classes": classes[pairs[pair]].tolist(), "cosine": float(row[pair])}
        for row, pair in zip(cosines, best, strict=True)
    ]


def variance_curve(pca: PCA) -> Figure:
    """Draw the share of the variance that the first k components hold together (2.3)."""
    counts = np.arange(1, len(pca.eigenvalues) + 1)
    curve = Curve("cumulative", counts, np.cumsum(pca.variance_shares) * 100)
    return curve_panels([Panel("", "number of components", "variance held (%)", [curve])])


def confusion_in_the_plane(
    points: np.ndarray, labels: np.ndarray, test_points: np.ndarray, test_labels: np.ndarray
) -> dict[str, Any]:
    """Return how well nearest neighbours tell the classes apart in the plane, and which they confuse (2.4)."""
    classifier = KNeighborsClassifier(NEIGHBOURS).fit(points, labels)
    predicted = classifier.predict(test_points)
    matrix = confusion_matrix(test_labels, predicted)
    return {
        "neighbours": NEIGHBOURS,
        "accuracy": float((predicted == test_labels).mean() * 100),
        "accuracy_per_class": (100 * np.diag(matrix) / np.maximum(matrix.sum(axis=1), 1)).tolist(),
        "pairs": confused_pairs(matrix),
    }


def projection_figure(points: np.ndarray, labels: np.ndarray, pca: PCA, seed: int) -> Figure:
    """Draw a fixed random subset of the projected train split in the colours of its classes (2.4)."""
    subset = np.random.default_rng(seed).permutation(len(points))[:SHOWN_POINTS]
    figure, axes = plt.subplots(figsize=(6.6, 6.3))
    class_scatter(axes, points[subset], labels[subset], pca.variance_shares[:2])
    class_legend(figure, [str(digit) for digit in range(10)], columns=10)
    return figure


def main(options: argparse.Namespace) -> None:
    """Answer 2.1 to 2.4 in turn."""
    train, test = load_data(train=True, data_dir=options.data_dir), load_data(train=False, data_dir=options.data_dir)

    check_enough(train.labels)

    statistics = describe(train.images)  # 2.1
    for name, value in statistics.items():
        print(f"{name:5}  {tuple(value) if name == 'shape' else value}")
    examples = first_of_each_class(train.labels)
    examples_figure = image_grid(train.images[examples], [str(label) for label in train.labels[examples]])

    vectors, labels = convert_mnist_to_vectors(train)  # 2.2
    test_vectors, test_labels = convert_mnist_to_vectors(test)

    pca = do_pca(vectors)  # 2.3
    components = pca.eigenvectors[:, :10].T  # [10, 784]
    titles = [f"{number}: {share:.1%}" for number, share in enumerate(pca.variance_shares[:10], 1)]
    components_figure = image_grid(components.reshape(-1, 28, 28), titles, symmetric=True, label="weight of a pixel")

    points, test_points = project(vectors, pca), project(test_vectors, pca)  # 2.4
    class_means = [points[labels == digit].mean(axis=0).tolist() for digit in np.unique(labels)]
    confusion = confusion_in_the_plane(points, labels, test_points, test_labels)
    print(f"two components hold {pca.variance_shares[:2].sum():.1%} of the variance")
    print(f"{NEIGHBOURS}-nearest-neighbour accuracy in their plane {confusion['accuracy']:.2f} %")

    save_figure(examples_figure, options.figures / "task2_examples.png")
    save_figure(components_figure, options.figures / "task2_components.png")
    save_figure(variance_curve(pca), options.figures / "task2_variance.png")
    save_figure(projection_figure(points, labels, pca, options.seed), options.figures / "task2_projection.png")
    results = {
        "statistics": statistics,
        "vectors": describe(vectors),
        "components": {**describe_components(pca), "likeness": likeness(components, vectors, labels)},
        "shown_points": min(SHOWN_POINTS, len(labels)),
        "class_means": class_means,
        "confusion": confusion,
    }
    save_results(options, "task2", results)


if __name__ == "__main__":
    run(main, options)
