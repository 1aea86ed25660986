"""Task 2 · MNIST: examples, statistics, vectors, principal components and a map of the
digits in two dimensions.

Answers 2.1 to 2.4 of the sheet; writes figures/task2_* and figures/task2.json.
"""

import argparse
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
from tqdm import tqdm

from common import plotting, script
from common.data import (
    Vectors,
    check_enough,
    convert_mnist_to_vectors,
    digest,
    load_data,
    thin,
)
from common.pca import PCA, do_pca, project
from common.plotting import CLASSIFIER_COLOURS, GUIDE, PAGE_WIDTH, Figure, plt, styled
from common.separation import between_classes, linear_accuracy, neighbour_separation

COMPONENTS = 10  # drawn and described
KEPT_COMPONENTS = (
    1,
    2,
    3,
    5,
    10,
    20,
    40,
    80,
)  # numbers of components on which classifiers are tried
LINEAR_IMAGES = 20_000  # train images to which the linear classifier is fitted
SHOWN_POINTS = 3000  # more would hide each other


def describe(array: np.ndarray) -> dict[str, Any]:
    """Return min, max, mean, shape and dtype of an array, as 2.1 asks for."""
    low, high, mean = (
        array.min().item(),
        array.max().item(),
        array.mean(dtype=np.float64).item(),
    )
    return {
        "min": low,
        "max": high,
        "mean": mean,
        "shape": list(array.shape),
        "dtype": str(array.dtype),
    }


def closest_class_difference(
    components: np.ndarray, vectors: np.ndarray, labels: np.ndarray
) -> list[dict[str, Any]]:
    """Return, per component [K, 784], the classes whose difference of means has the
    greatest cosine with it (2.3).
    """
    means = {
        digit: vectors[labels == digit].mean(axis=0)
        for digit in np.unique(labels).tolist()
    }
    pairs = list(permutations(means, 2))
    differences = np.stack([means[first] - means[second] for first, second in pairs])
    lengths = np.linalg.norm(differences, axis=1)
    cosines = (
        components @ differences.T / np.where(lengths > 0, lengths, 1)
    )  # [K, pairs]
    return [
        {"classes": pairs[row.argmax()], "cosine": row.max().item()} for row in cosines
    ]


def easy_shares(vectors: np.ndarray, labels: np.ndarray, pca: PCA) -> np.ndarray:
    """Return the components' shares of the variance [784] if each image were five times
    as close to its class mean.

    The covariance is that of the class means plus a 25th of that within the classes
    (2.3).
    """
    between = np.zeros_like(pca.eigenvectors)
    for digit in np.unique(labels):
        members = vectors[labels == digit]
        difference = members.mean(axis=0, dtype=np.float64) - pca.mean
        between += len(members) / len(vectors) * np.outer(difference, difference)
    covariance = (pca.eigenvectors * pca.eigenvalues) @ pca.eigenvectors.T
    eigenvalues = np.linalg.eigvalsh(between + (covariance - between) / 25)[::-1].clip(
        min=0
    )
    return eigenvalues / (eigenvalues.sum() or 1)


@styled
def components_figure(pca: PCA) -> Figure:
    """Draw the first components, and above and below them the mean image moved by two
    standard deviations (2.3).
    """
    components = pca.eigenvectors[:, :COMPONENTS].T  # [10, 784]
    steps = 2 * np.sqrt(pca.eigenvalues[:COMPONENTS, None]) * components
    low, high = (
        ((pca.mean + step + 1) * 127.5).clip(0, 255).astype(np.uint8)
        for step in (-steps, steps)
    )
    rows = [images.reshape(-1, 28, 28) for images in (low, components, high)]
    titles = [
        f"{number}\n{100 * share:.1f} %"
        for number, share in enumerate(pca.variance_shares[:COMPONENTS], 1)
    ]
    names = ["mean − 2σ", "component", "mean + 2σ"]
    return plotting.image_grid(
        rows, titles, names, "number\nvariance", size=(PAGE_WIDTH, 1.75)
    )


@styled
def spectrum_figure(
    shares: np.ndarray,
    easy: np.ndarray,
    counts: Sequence[int],
    accuracies: Mapping[str, Sequence[float]],
) -> Figure:
    """Draw the variance that the first k components hold, also for easy data, and the
    accuracy of classifiers (2.3).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.1), sharex=True)
    numbers, held = np.arange(1, len(shares) + 1), 100 * np.cumsum(shares)
    left.plot(numbers, 100 * np.cumsum(easy), color="0.55", linestyle="--")
    left.plot(numbers, held, color="black")
    style = {"textcoords": "offset points", "fontsize": 7}
    below = {"xytext": (3, -2), "va": "top"}
    number = int(np.searchsorted(held[:-1], 90)) + 1
    for k, text in (
        (9, f"first nine: {held[8]:.0f} %"),
        (20, f"20: {held[19]:.0f} %"),
        (number, f"{number}: 90 %"),
    ):
        left.plot(k, held[k - 1], "o", color="black")
        left.annotate(text, (k, held[k - 1]), **style, **below)
    text = f"images five times\nas close to their\nclass mean:\n{100 * easy[:9].sum():.0f} % in nine"
    left.text(
        0.02, 1, text, transform=left.transAxes, color="0.4", fontsize=7, va="top"
    )
    for name, title, height in (
        ("neighbours", "ten nearest neighbours", 0.2),
        ("linear", "linear classifier", 0.08),
    ):
        values, colour = accuracies[name], CLASSIFIER_COLOURS[name]
        right.plot(counts, values, "o-", color=colour)
        right.text(
            0.98, height, title, transform=right.transAxes, ha="right", color=colour
        )
        for count, value, *both in zip(
            counts, values, *accuracies.values(), strict=True
        ):
            place = {"xytext": (0, 4), "ha": "center"} if value == max(both) else below
            right.annotate(
                f"{value:.0f}", (count, value), color=colour, **style, **place
            )
    for axes, quantity in (
        (left, "cumulative variance (%)"),
        (right, "test accuracy (%)"),
    ):
        axes.axvline(20, **GUIDE)
        axes.set(
            xscale="log",
            xlim=(0.85, 784),
            ylim=(0, 112),
            xlabel="number of components",
            ylabel=quantity,
        )
        axes.xaxis.set_major_formatter("{x:.0f}")
    return figure


@styled
def projection_figure(
    points: np.ndarray,
    labels: np.ndarray,
    shares: np.ndarray,
    recall: Sequence[float | None],
) -> Figure:
    """Draw the plane of the first two components: all classes at once, then one by one,
    best first (2.4).
    """
    figure = plt.figure(figsize=(PAGE_WIDTH, 2.7))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.3))
    axes = left.subplots()
    plotting.class_scatter(axes, points, labels)
    names = [
        f"component {number} ({100 * share:.1f} % of variance)"
        for number, share in enumerate(shares[:2], 1)
    ]
    axes.set(xlabel=names[0], ylabel=names[1])
    panels = right.subplots(3, 4, sharex=True, sharey=True).ravel()
    for number, axes in zip(
        sorted(range(10), key=lambda number: -(recall[number] or 0)),
        panels,
        strict=False,
    ):
        for each, colour in (
            (points, "0.85"),
            (points[labels == number], plotting.CLASS_COLOURS[number]),
        ):
            axes.scatter(*each.T, s=0.8, color=colour, linewidths=0, rasterized=True)
        axes.set_title(
            str(number)
            if recall[number] is None
            else f"{number} · recall {recall[number]:.0f} %",
            pad=1,
        )
        axes.set_aspect("equal")
    for axes in panels:
        axes.set_axis_off()
    note = "dots: train images;\nrecall: of test images,\nby ten neighbours"
    panels[10].text(
        0.05,
        0.5,
        note,
        transform=panels[10].transAxes,
        va="center",
        fontsize=7,
        in_layout=False,
    )
    return figure


def classifier_accuracies(
    train: Vectors, test: Vectors, pca: PCA
) -> dict[str, list[float]]:
    """Return the test accuracies in per cent of two classifiers on the first
    components, by their number (2.4).
    """
    accuracies: dict[str, list[float]] = {"neighbours": [], "linear": []}
    coordinates, test_coordinates = (
        project(split.vectors, pca, max(KEPT_COMPONENTS)) for split in (train, test)
    )
    for count in tqdm(KEPT_COMPONENTS, "classifiers", leave=False, disable=None):
        fit, held_out = (
            Vectors(coordinates[:, :count], train.labels),
            Vectors(test_coordinates[:, :count], test.labels),
        )
        accuracies["neighbours"].append(neighbour_separation(fit, held_out)["accuracy"])
        accuracies["linear"].append(linear_accuracy(thin(fit, LINEAR_IMAGES), held_out))
    return accuracies


def main(options: argparse.Namespace) -> None:
    """Answer 2.1 to 2.4 in turn."""
    train_images, test_images = (
        load_data(train=split, data_dir=options.data_dir) for split in (True, False)
    )
    check_enough(train_images.labels)

    statistics = describe(train_images.images)  # 2.1
    for name, value in statistics.items():
        print(f"{name:5}  {round(value, 2) if name == 'mean' else value}")
    classes, firsts = np.unique(train_images.labels, return_index=True)
    figure = plotting.image_grid(
        [train_images.images[firsts]],
        [str(label) for label in classes],
        size=(3.6, 0.6),
    )
    plotting.save_figure(figure, options.figures, "task2_examples")

    train, test = (
        convert_mnist_to_vectors(train_images),
        convert_mnist_to_vectors(test_images),
    )  # 2.2

    print("computing and drawing the principal components …", flush=True)  # 2.3
    pca = do_pca(train.vectors)
    shares = pca.variance_shares
    between, _ = between_classes(
        Vectors(project(train.vectors, pca, COMPONENTS), train.labels)
    )
    easy = easy_shares(*train, pca)
    plotting.save_figure(components_figure(pca), options.figures, "task2_components")
    print(
        f"two components hold {100 * shares[:2].sum():.2f} % of the variance",
        flush=True,
    )

    points = project(train.vectors, pca)  # 2.4
    plane = neighbour_separation(
        Vectors(points, train.labels), Vectors(project(test.vectors, pca), test.labels)
    )
    shown = np.random.default_rng(options.seed).permutation(len(points))[:SHOWN_POINTS]
    figure = projection_figure(
        points[shown], train.labels[shown], shares, plane["accuracy_per_class"]
    )
    plotting.save_figure(figure, options.figures, "task2_projection")

    print("classifying the test images by their first components …", flush=True)
    accuracies = classifier_accuracies(train, test, pca)
    print("components    " + "".join(f"{count:7}" for count in KEPT_COMPONENTS))
    for name, values in accuracies.items():
        print(f"{name:10} (%)" + "".join(f"{value:7.2f}" for value in values))
    figure = spectrum_figure(shares, easy, KEPT_COMPONENTS, accuracies)
    plotting.save_figure(figure, options.figures, "task2_spectrum")

    learned_from = len(thin(train, LINEAR_IMAGES).labels)
    results = {
        "data": {"train": digest(train_images), "test": digest(test_images)},
        "statistics": statistics,
        "vectors": describe(train.vectors),
        "labels": describe(train.labels),
        "components": {
            "variance_shares": shares[:COMPONENTS].tolist(),
            "components_for_share": {"0.5": int((np.cumsum(shares) < 0.5).sum()) + 1},
            "closest_differences": closest_class_difference(
                pca.eigenvectors[:, :COMPONENTS].T, *train
            ),
            "easy_first_nine": float(easy[:9].sum()),
            "between_classes": {"components": between.tolist()},
        },
        "shown_points": len(shown),
        "class_means": {
            str(k): points[train.labels == k].mean(axis=0).tolist() for k in classes
        },
        "plane": plane,
        "classifiers": {
            "components": KEPT_COMPONENTS,
            "linear_images": learned_from,
            **accuracies,
        },
    }
    script.save_results(options, "task2", results)
    print(f"written to {options.figures}: task2_*.png, task2_*.svg, task2.json")


if __name__ == "__main__":
    script.run(main, script.parse(script.script_parser(__doc__, data=True)))
