"""Task 2 · MNIST: examples, statistics, vectors, principal components and a map of the digits in two dimensions.

Answers 2.1 to 2.4 of the sheet; writes figures/task2_* and figures/task2.json.
"""

import argparse
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
from tqdm import tqdm

from common import plotting, script
from common.data import Vectors, check_enough, convert_mnist_to_vectors, digest, load_data
from common.pca import PCA, do_pca, project
from common.plotting import GUIDE, PAGE_WIDTH, SPLIT_COLOURS, Figure, plt, styled
from common.separation import neighbour_separation

COMPONENTS = 10  # of which the results speak
NEIGHBOUR_COMPONENTS = (1, 2, 3, 5, 10, 20, 40, 80)  # dimensions in which nearest neighbours are tried
TINY = np.finfo(np.float64).tiny  # for 0 / 0 = 0 where nothing varies
SHOWN_POINTS = 3000  # more would hide each other


def describe(array: np.ndarray) -> dict[str, Any]:
    """Return the statistics that 2.1 asks for."""
    low, high, mean = array.min().item(), array.max().item(), array.mean(dtype=np.float64).item()
    return {"min": low, "max": high, "mean": mean, "shape": list(array.shape), "dtype": str(array.dtype)}


def describe_components(pca: PCA) -> dict[str, Any]:
    """Return the components' shares of the variance and how many of them hold a given share (2.3)."""
    shares = pca.variance_shares
    cumulative = np.cumsum(shares)
    return {
        "variance_shares": shares[:COMPONENTS].tolist(),
        "components_for_share": {str(goal): int((cumulative < goal).sum()) + 1 for goal in (0.5, 0.8, 0.9, 0.95)},
        "constant_directions": int((shares < 1e-9).sum()),
    }


def closest_class_difference(components: np.ndarray, vectors: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Return, per component [K, 784], the two classes whose difference of means has the greatest cosine with it (2.3).

    The component has the sign of the first class's mean minus the second's.
    """
    classes = np.unique(labels)
    means = np.stack([vectors[labels == digit].mean(axis=0) for digit in classes])
    pairs = np.array(list(permutations(range(len(classes)), 2)))
    differences = means[pairs[:, 0]] - means[pairs[:, 1]]
    cosines = components @ differences.T / np.maximum(np.linalg.norm(differences, axis=1), TINY)  # [K, pairs]
    best = pairs[cosines.argmax(axis=1)]
    rows = zip(classes[best].tolist(), cosines.max(axis=1).tolist(), strict=True)
    return [{"classes": difference, "cosine": cosine} for difference, cosine in rows]


def between_classes(vectors: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the share of the variance that lies between the class means: in each dimension [D], and in all (2.3)."""
    mean = vectors.mean(axis=0, dtype=np.float64)
    between, within = np.zeros_like(mean), np.zeros_like(mean)
    for digit in np.unique(labels):
        members = vectors[labels == digit].astype(np.float64)
        weight = len(members) / len(vectors)
        between += weight * (members.mean(axis=0) - mean) ** 2
        within += weight * members.var(axis=0)
    total = between.sum() + within.sum()
    return between / np.maximum(between + within, TINY), float(between.sum() / max(total, TINY))


@styled
def components_figure(pca: PCA) -> Figure:
    """Draw the first components, ten at most, and the mean image moved by two standard deviations along each (2.3)."""
    count = min(COMPONENTS, 10)
    components = pca.eigenvectors[:, :count].T  # [count, 784]
    steps = 2 * np.sqrt(pca.eigenvalues[:count, None]) * components
    low, high = (((pca.mean + step + 1) * 127.5).clip(0, 255).astype(np.uint8) for step in (-steps, steps))
    rows = [images.reshape(-1, 28, 28) for images in (low, components, high)]
    titles = [f"{number} · {100 * share:.1f} %" for number, share in enumerate(pca.variance_shares[:count], 1)]
    return plotting.image_grid(rows, titles, ["mean − 2σ", "component", "mean + 2σ"], size=(PAGE_WIDTH, 1.75))


@styled
def spectrum_figure(shares: np.ndarray, counts: Sequence[int], accuracies: Sequence[float]) -> Figure:
    """Draw the variance that the first k components hold, and the accuracy of neighbours in their space (2.3)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2), sharex=True)
    held = 100 * np.cumsum(shares)
    left.plot(range(1, len(held) + 1), held, color="black")
    style = {"textcoords": "offset points", "fontsize": 7}
    below, above = {"xytext": (3, -2), "va": "top"}, {"xytext": (-2, 3), "va": "bottom", "ha": "right"}
    reached = {goal: int(np.searchsorted(held[:-1], goal)) + 1 for goal in (50, 90, 95)}
    marks = [(2, f"{held[1]:.0f} % in 2"), (9, f"{held[8]:.0f} % in 9, all\nthat ten class\nmeans can span")]
    marks += [(number, f"{goal} % in {number}") for goal, number in reached.items()]
    for (number, text), place in zip(marks, (below, above, below, above, below), strict=True):
        left.plot([number, number], [held[number - 1], 0], **GUIDE)
        left.plot(number, held[number - 1], "o", color="black")
        left.annotate(text, (number, held[number - 1]), **style, **place)
    right.plot(counts, accuracies, "o-", color=SPLIT_COLOURS["test"])
    for count, accuracy in zip(counts, accuracies, strict=True):
        right.annotate(f"{accuracy:.0f}", (count, accuracy), color=SPLIT_COLOURS["test"], **style, **below)
    text = "ten nearest neighbours in\nthe space of the components"
    right.text(0.98, 0.05, text, transform=right.transAxes, ha="right", fontsize=7, color=SPLIT_COLOURS["test"])
    for axes, quantity in ((left, "cumulative variance (%)"), (right, "accuracy (%)")):
        axes.set(xscale="log", ylim=(0, 104), xlabel="first principal components", ylabel=quantity)
        axes.xaxis.set_major_formatter("{x:.0f}")
    return figure


@styled
def projection_figure(
    points: np.ndarray, labels: np.ndarray, shares: np.ndarray, accuracy_per_class: Sequence[float | None]
) -> Figure:
    """Draw the plane of the first two components: all classes [N] at once, then one by one over points [N, 2] (2.4)."""
    figure = plt.figure(figsize=(PAGE_WIDTH, 2.5))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.2))
    axes = left.subplots()
    plotting.class_scatter(axes, points, labels)
    names = [f"component {number} ({100 * share:.1f} %)" for number, share in enumerate(shares[:2], 1)]
    axes.set(xlabel=names[0], ylabel=names[1])
    panels = right.subplots(3, 4, sharex=True, sharey=True).ravel()
    for number, axes in enumerate(panels[:10]):
        for each, colour in ((points, "0.85"), (points[labels == number], "#1f3b73")):
            axes.scatter(*each.T, s=0.6, color=colour, linewidths=0, rasterized=True)
        accuracy = accuracy_per_class[number]
        axes.set_title(str(number) if accuracy is None else f"{number} · {accuracy:.0f} %", pad=1)
        axes.set_aspect("equal")
    for axes in panels:
        axes.set_axis_off()
    note = "per cent: recognized by\nten nearest neighbours\nin the plane"
    panels[10].text(0.1, 0.5, note, transform=panels[10].transAxes, va="center", fontsize=7, in_layout=False)
    return figure


def main(options: argparse.Namespace) -> None:
    """Answer 2.1 to 2.4 in turn."""
    train, test = (load_data(train=split, data_dir=options.data_dir) for split in (True, False))
    check_enough(train.labels)

    statistics = describe(train.images)  # 2.1
    for name, value in statistics.items():
        print(f"{name:5}  {tuple(value) if name == 'shape' else value}")
    classes, firsts = np.unique(train.labels, return_index=True)
    figure = plotting.image_grid([train.images[firsts]], [str(label) for label in classes], size=(3.6, 0.6))
    plotting.save_figure(figure, options.figures, "task2_examples")

    vectors, labels = convert_mnist_to_vectors(train)  # 2.2
    test_vectors, test_labels = convert_mnist_to_vectors(test)

    pca = do_pca(vectors)  # 2.3
    between_components, _ = between_classes(project(vectors, pca, COMPONENTS), labels)
    _, between_all = between_classes(vectors, labels)
    plotting.save_figure(components_figure(pca), options.figures, "task2_components")
    print(f"two components hold {pca.variance_shares[:2].sum():.1%} of the variance")

    points = project(vectors, pca)  # 2.4
    plane = neighbour_separation(Vectors(points, labels), Vectors(project(test_vectors, pca), test_labels))
    shown = np.random.default_rng(options.seed).permutation(len(points))[:SHOWN_POINTS]
    figure = projection_figure(points[shown], labels[shown], pca.variance_shares, plane["accuracy_per_class"])
    plotting.save_figure(figure, options.figures, "task2_projection")

    print("test accuracy of ten nearest neighbours on the first components", flush=True)
    accuracies = []
    coordinates, test_coordinates = (
        project(split, pca, max(NEIGHBOUR_COMPONENTS)) for split in (vectors, test_vectors)
    )
    for count in tqdm(NEIGHBOUR_COMPONENTS, "neighbours", leave=False, disable=None):
        fit, held_out = Vectors(coordinates[:, :count], labels), Vectors(test_coordinates[:, :count], test_labels)
        accuracies.append(neighbour_separation(fit, held_out)["accuracy"])
    print("components" + "".join(f"{count:8}" for count in NEIGHBOUR_COMPONENTS))
    print("accuracy %" + "".join(f"{accuracy:8.2f}" for accuracy in accuracies))
    plotting.save_figure(
        spectrum_figure(pca.variance_shares, NEIGHBOUR_COMPONENTS, accuracies), options.figures, "task2_spectrum"
    )

    results = {
        "data": {"train": digest(train), "test": digest(test)},
        "statistics": statistics,
        "vectors": describe(vectors),
        "labels": describe(labels),
        "components": {
            **describe_components(pca),
            "closest_differences": closest_class_difference(pca.eigenvectors[:, :COMPONENTS].T, vectors, labels),
            "between_classes": {"components": between_components.tolist(), "all": between_all},
        },
        "shown_points": len(shown),
        "class_means": {str(k): points[labels == k].mean(axis=0).tolist() for k in np.unique(labels)},
        "plane": plane,
        "neighbours": {"components": NEIGHBOUR_COMPONENTS, "accuracy": accuracies},
    }
    script.save_results(options, "task2", results)
    print(f"written to {options.figures}: task2_*.png, task2_*.svg, task2.json")


if __name__ == "__main__":
    script.run(main, script.parse(script.script_parser(__doc__, data=True)))
