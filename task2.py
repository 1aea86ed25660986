"""Task 2 · MNIST: examples, statistics, vectors, principal components and a map of the digits in two dimensions.

Answers 2.1 to 2.4 of the sheet; writes figures/task2_* and figures/task2.json.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
from tqdm import tqdm

from common import plotting, script
from common.data import Vectors, check_enough, convert_mnist_to_vectors, digest, load_data, thin
from common.pca import PCA, do_pca, project
from common.plotting import GUIDE, PAGE_WIDTH, SPLIT_COLOURS, Figure, plt, styled
from common.separation import between_classes, linear_accuracy, neighbour_separation

COMPONENTS = 10  # of which the results speak
KEPT_COMPONENTS = (1, 2, 3, 5, 10, 20, 40, 80)  # numbers of components on which classifiers are tried
LINEAR_IMAGES = 20_000  # to which the linear classifier is fitted
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


def easy_shares(vectors: np.ndarray, labels: np.ndarray, pca: PCA) -> np.ndarray:
    """Return the components' shares of the variance [784] if each image were five times as close to its class mean.

    The covariance is that of the class means plus that within the classes, of which a 25th is left (2.3).
    """
    between = np.zeros_like(pca.eigenvectors)
    for digit in np.unique(labels):
        members = vectors[labels == digit]
        difference = members.mean(axis=0, dtype=np.float64) - pca.mean
        between += len(members) / len(vectors) * np.outer(difference, difference)
    covariance = (pca.eigenvectors * pca.eigenvalues) @ pca.eigenvectors.T
    eigenvalues = np.linalg.eigvalsh(between + (covariance - between) / 25)[::-1].clip(min=0)
    return eigenvalues / max(eigenvalues.sum(), TINY)


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
def spectrum_figure(
    shares: np.ndarray, easy: np.ndarray, counts: Sequence[int], accuracies: Mapping[str, Sequence[float]]
) -> Figure:
    """Draw the variance that the first k components hold, also of easy data, and what classifiers reach there (2.3)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.1), sharex=True)
    numbers, held = np.arange(1, len(shares) + 1), 100 * np.cumsum(shares)
    left.plot(numbers, 100 * np.cumsum(easy), color="0.55", linestyle="--")
    left.plot(numbers, held, color="black")
    style = {"textcoords": "offset points", "fontsize": 7}
    below = {"xytext": (3, -2), "va": "top"}
    number = int(np.searchsorted(held[:-1], 90)) + 1
    for k, text in ((9, f"first nine: {held[8]:.0f} %"), (20, f"20: {held[19]:.0f} %"), (number, f"{number}: 90 %")):
        left.plot(k, held[k - 1], "o", color="black")
        left.annotate(text, (k, held[k - 1]), **style, **below)
    text = f"images five times\nas close to their\nclass mean:\n{100 * easy[:9].sum():.0f} % in nine"
    left.text(0.02, 1, text, transform=left.transAxes, color="0.4", fontsize=7, va="top")
    colours = {"neighbours": SPLIT_COLOURS["test"], "linear": "#b35900"}
    for name, values in accuracies.items():
        right.plot(counts, values, "o-", color=colours[name])
        for count, value, *both in zip(counts, values, *accuracies.values(), strict=True):
            place = {"xytext": (0, 4), "ha": "center"} if value == max(both) else below
            right.annotate(f"{value:.0f}", (count, value), color=colours[name], **style, **place)
    right.text(0.98, 0.2, "ten nearest neighbours", transform=right.transAxes, ha="right", color=colours["neighbours"])
    right.text(0.98, 0.08, "linear classifier", transform=right.transAxes, ha="right", color=colours["linear"])
    for axes, quantity in ((left, "cumulative variance (%)"), (right, "test accuracy (%)")):
        axes.axvline(20, **GUIDE)
        axes.set(xscale="log", xlim=(0.85, 784), ylim=(0, 112), xlabel="number of components", ylabel=quantity)
        axes.xaxis.set_major_formatter("{x:.0f}")
    return figure


@styled
def projection_figure(
    points: np.ndarray, labels: np.ndarray, shares: np.ndarray, recall: Sequence[float | None]
) -> Figure:
    """Draw the plane of the first two components: all classes at once, then one by one, best first (2.4)."""
    figure = plt.figure(figsize=(PAGE_WIDTH, 2.7))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.3))
    axes = left.subplots()
    plotting.class_scatter(axes, points, labels)
    names = [f"component {number} ({100 * share:.1f} % of variance)" for number, share in enumerate(shares[:2], 1)]
    axes.set(xlabel=names[0], ylabel=names[1])
    panels = right.subplots(3, 4, sharex=True, sharey=True).ravel()
    for number, axes in zip(sorted(range(10), key=lambda number: -(recall[number] or 0)), panels, strict=False):
        for each, colour in ((points, "0.85"), (points[labels == number], plotting.CLASS_COLOURS[number])):
            axes.scatter(*each.T, s=0.8, color=colour, linewidths=0, rasterized=True)
        axes.set_title(str(number) if recall[number] is None else f"{number} · {recall[number]:.0f} %", pad=1)
        axes.set_aspect("equal")
    for axes in panels:
        axes.set_axis_off()
    note = "train points; per cent of\nthe test images that ten\nneighbours recognize"
    panels[10].text(0.05, 0.5, note, transform=panels[10].transAxes, va="center", fontsize=7, in_layout=False)
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
    between_components, _ = between_classes(Vectors(project(vectors, pca, COMPONENTS), labels))
    _, between_all = between_classes(Vectors(vectors, labels))
    easy = easy_shares(vectors, labels, pca)
    plotting.save_figure(components_figure(pca), options.figures, "task2_components")
    print(f"two components hold {pca.variance_shares[:2].sum():.1%} of the variance")

    points = project(vectors, pca)  # 2.4
    plane = neighbour_separation(Vectors(points, labels), Vectors(project(test_vectors, pca), test_labels))
    shown = np.random.default_rng(options.seed).permutation(len(points))[:SHOWN_POINTS]
    figure = projection_figure(points[shown], labels[shown], pca.variance_shares, plane["accuracy_per_class"])
    plotting.save_figure(figure, options.figures, "task2_projection")

    print("test accuracy on the first components …", flush=True)
    accuracies: dict[str, list[float]] = {"neighbours": [], "linear": []}
    coordinates, test_coordinates = (project(split, pca, max(KEPT_COMPONENTS)) for split in (vectors, test_vectors))
    for count in tqdm(KEPT_COMPONENTS, "classifiers", leave=False, disable=None):
        fit, held_out = Vectors(coordinates[:, :count], labels), Vectors(test_coordinates[:, :count], test_labels)
        accuracies["neighbours"].append(neighbour_separation(fit, held_out)["accuracy"])
        some = thin(fit, LINEAR_IMAGES)
        accuracies["linear"].append(linear_accuracy(some, held_out))
    print("components    " + "".join(f"{count:7}" for count in KEPT_COMPONENTS))
    for name, values in accuracies.items():
        print(f"{name:10} (%)" + "".join(f"{value:7.2f}" for value in values))
    figure = spectrum_figure(pca.variance_shares, easy, KEPT_COMPONENTS, accuracies)
    plotting.save_figure(figure, options.figures, "task2_spectrum")

    results = {
        "data": {"train": digest(train), "test": digest(test)},
        "statistics": statistics,
        "vectors": describe(vectors),
        "labels": describe(labels),
        "components": {
            **describe_components(pca),
            "closest_differences": closest_class_difference(pca.eigenvectors[:, :COMPONENTS].T, vectors, labels),
            "easy_first_nine": float(easy[:9].sum()),
            "between_classes": {"components": between_components.tolist(), "all": between_all},
        },
        "shown_points": len(shown),
        "class_means": {str(k): points[labels == k].mean(axis=0).tolist() for k in np.unique(labels)},
        "plane": plane,
        "classifiers": {"components": KEPT_COMPONENTS, "linear_images": len(some.labels), **accuracies},
    }
    script.save_results(options, "task2", results)
    print(f"written to {options.figures}: task2_*.png, task2_*.svg, task2.json")


if __name__ == "__main__":
    script.run(main, script.parse(script.script_parser(__doc__, data=True)))
