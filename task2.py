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
    Images,
    Vectors,
    check_enough,
    convert_mnist_to_vectors,
    digest,
    load_data,
    thin,
)
from common.pca import PCA, components_for_90, do_pca, project
from common.plotting import (
    CLASS_COLOURS,
    GUIDE,
    PAGE_WIDTH,
    Axes,
    Figure,
    plt,
    styled,
)
from common.separation import (
    NEIGHBOURS,
    linear_classifier,
    neighbour_separation,
)

COMPONENTS = 10  # drawn and described
SPANNED = 9  # dimensions at most that ten class means span
CLOSER = 5  # times as close to its class mean is an image of the easy problem
KEPT_COMPONENTS = (1, 2, 3, 5, 10, 20, 40, 80)  # on which classifiers are tried
MARKED_COMPONENTS = 20  # by a line in both panels of the spectrum
LINEAR_IMAGES = 20_000  # train images to which the linear classifier is fitted
SHOWN_POINTS = 3000  # more would hide each other


def describe(array: np.ndarray) -> dict[str, Any]:
    """Return min, max, mean, shape and dtype of an array, as 2.1 asks for."""
    return {
        "min": array.min().item(),
        "max": array.max().item(),
        "mean": array.mean(dtype=np.float64).item(),
        "shape": list(array.shape),
        "dtype": str(array.dtype),
    }


def examples_figure(data: Images) -> Figure:
    """Draw the first image of each class with its label as title (2.1)."""
    labels, firsts = np.unique(data.labels, return_index=True)
    titles = [str(label) for label in labels]
    return plotting.image_grid([data.images[firsts]], titles, size=(3.6, 0.6))


def class_means(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mean vector of each class that occurs, float64 [C, D], in the order of
    the classes.
    """
    means = []
    for digit in np.unique(labels):
        means.append(vectors[labels == digit].mean(axis=0, dtype=np.float64))
    return np.stack(means)


def closest_class_difference(
    components: np.ndarray, means: np.ndarray, digits: Sequence[int]
) -> list[dict[str, Any]]:
    """Return, per component [K, D], the digits whose difference of class means [C, D]
    has the greatest cosine with it (2.3).
    """
    pairs = list(permutations(range(len(digits)), 2))
    differences = np.stack([means[first] - means[second] for first, second in pairs])
    lengths = np.linalg.norm(differences, axis=1)
    cosines = components @ differences.T / lengths  # [K, pairs]
    closest = []
    for row in cosines:
        first, second = pairs[row.argmax()]
        classes = [int(digits[first]), int(digits[second])]
        closest.append({"classes": classes, "cosine": row.max().item()})
    return closest


def in_class_span(components: np.ndarray, means: np.ndarray) -> list[float]:
    """Return, per component of length 1 [K, D], the squared length of its projection
    onto the space that the differences of the class means [C, D] span (2.3).
    """
    differences = means[1:] - means[0]  # [C - 1, D]
    basis, _ = np.linalg.qr(differences.T)  # orthonormal, [D, C - 1]
    return ((components @ basis) ** 2).sum(axis=1).tolist()


def easy_pca(means: np.ndarray, labels: np.ndarray, pca: PCA) -> PCA:
    """Return the PCA of an easier problem, in which each image lies `CLOSER` times as
    close to its class mean [C, 784] (2.3).

    The covariance is that of the class means plus that within the classes, divided by
    the square of `CLOSER`. The signs of the eigenvectors are arbitrary.
    """
    _, counts = np.unique(labels, return_counts=True)
    shifts = means - pca.mean  # [C, 784]
    between = shifts.T @ (shifts * counts[:, None]) / len(labels)  # [784, 784]
    covariance = (pca.eigenvectors * pca.eigenvalues) @ pca.eigenvectors.T
    within = covariance - between
    eigenvalues, eigenvectors = np.linalg.eigh(between + within / CLOSER**2)
    return PCA(eigenvectors[:, ::-1], eigenvalues[::-1].clip(min=0), pca.mean)


def describe_components(
    pca: PCA, easy: PCA, means: np.ndarray, digits: Sequence[int]
) -> dict[str, Any]:
    """Return what the answers say of the components today and of those of the easy
    problem (2.3); `means` [C, 784] are those of the images of the digits [C].
    """
    components = pca.eigenvectors[:, :COMPONENTS].T  # [10, 784]
    easy_components = easy.eigenvectors[:, :SPANNED].T  # [9, 784]
    return {
        "variance_shares": pca.variance_shares[:COMPONENTS].tolist(),
        "closest_differences": closest_class_difference(components, means, digits),
        "in_class_span": in_class_span(components, means),
        "easy_in_class_span": in_class_span(easy_components, means),
        "easy_first_nine": float(easy.variance_shares[:SPANNED].sum()),
    }


@styled
def components_figure(pca: PCA) -> Figure:
    """Draw the first components, and above and below them the mean image moved by two
    standard deviations (2.3).
    """
    components = pca.eigenvectors[:, :COMPONENTS].T  # [10, 784]
    steps = 2 * np.sqrt(pca.eigenvalues[:COMPONENTS, None]) * components
    low = 127.5 * (pca.mean - steps + 1)
    high = 127.5 * (pca.mean + steps + 1)
    rows = [
        low.clip(0, 255).astype(np.uint8).reshape(-1, 28, 28),
        components.reshape(-1, 28, 28),
        high.clip(0, 255).astype(np.uint8).reshape(-1, 28, 28),
    ]
    shares = pca.variance_shares[:COMPONENTS]
    titles = [f"{k}\n{100 * share:.1f} %" for k, share in enumerate(shares, 1)]
    limit = np.abs(components).max()
    scale = f"component\nblack: {limit:.2f}\nwhite: −{limit:.2f}"
    names = ["mean − 2σ", scale, "mean + 2σ"]
    heading = "number\nvariance"
    return plotting.image_grid(rows, titles, names, heading, size=(PAGE_WIDTH, 1.75))


@styled
def spectrum_figure(
    shares: np.ndarray,
    easy_shares: np.ndarray,
    accuracies: Mapping[str, Sequence[float]],
) -> Figure:
    """Draw the variance that the first k components hold, also of the easy problem, and
    the accuracy of classifiers on them (2.3, 2.4).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.1), sharex=True)
    draw_variance(left, shares, easy_shares)
    draw_accuracies(right, accuracies)
    for axes in (left, right):
        axes.axvline(MARKED_COMPONENTS, **GUIDE)
        axes.set(xscale="log", xlim=(0.85, 784), ylim=(0, 112))
        axes.set_xlabel("number of components")
        axes.xaxis.set_major_formatter("{x:.0f}")
    return figure


def draw_variance(axes: Axes, shares: np.ndarray, easy_shares: np.ndarray) -> None:
    """Draw the variance in per cent that the first k components hold, today and in the
    easy problem, by their shares [784].
    """
    numbers = np.arange(1, len(shares) + 1)
    held = 100 * np.cumsum(shares)
    easily_held = 100 * np.cumsum(easy_shares)
    axes.plot(numbers, easily_held, color="0.55", linestyle="--")
    axes.plot(numbers, held, color="black")
    ninety = components_for_90(shares)
    texts = {
        SPANNED: f"first {SPANNED}: {held[SPANNED - 1]:.0f} %",
        MARKED_COMPONENTS: f"{MARKED_COMPONENTS}: {held[MARKED_COMPONENTS - 1]:.0f} %",
        ninety: f"{ninety}: 90 %",
    }
    for number, text in texts.items():
        axes.plot(number, held[number - 1], "o", color="black")
        label_point(axes, number, held[number - 1], text)
    text = f"images {CLOSER} times\nas close to their\nclass mean:\n"
    text += f"first {SPANNED}: {easily_held[SPANNED - 1]:.0f} %"
    axes.annotate(
        text, (0.02, 1), xycoords="axes fraction", va="top", color="0.4", fontsize=7
    )
    axes.set_ylabel("cumulative variance (%)")


def draw_accuracies(axes: Axes, accuracies: Mapping[str, Sequence[float]]) -> None:
    """Draw the accuracies of `classifier_accuracies` by the number of components."""
    greatest = np.maximum(accuracies["neighbours"], accuracies["linear"])
    for name, filling in (("neighbours", "black"), ("linear", "white")):
        values = accuracies[name]
        axes.plot(KEPT_COMPONENTS, values, "o-k", markerfacecolor=filling)
        for number, value, most in zip(KEPT_COMPONENTS, values, greatest, strict=True):
            above = value == most
            label_point(axes, number, value, f"{value:.0f}", above)
    titles = f"● {NEIGHBOURS} nearest neighbours\n○ linear classifier"
    axes.annotate(titles, (0.35, 0.08), xycoords="axes fraction", linespacing=1.6)
    axes.set_ylabel("test accuracy (%)")


def label_point(axes: Axes, x: float, y: float, text: str, above: bool = False) -> None:
    """Write a small text above a point, or else at its lower right."""
    axes.annotate(
        text,
        (x, y),
        xytext=(0, 4) if above else (3, -2),
        textcoords="offset points",
        ha="center" if above else "left",
        va="baseline" if above else "top",
        fontsize=7,
    )


@styled
def projection_figure(
    points: np.ndarray,
    labels: np.ndarray,
    shares: np.ndarray,
    recall: Sequence[float | None],
    precision: Sequence[float | None],
) -> Figure:
    """Draw points [N, 2] in the plane of the first two components: all classes at once,
    then one by one, greatest recall first (2.4).
    """
    figure = plt.figure(figsize=(PAGE_WIDTH, 2.7))
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.3))
    axes = left.subplots()
    plotting.class_scatter(axes, points, labels)
    axes.set_xlabel(f"component 1 ({100 * shares[0]:.1f} % of variance)")
    axes.set_ylabel(f"component 2 ({100 * shares[1]:.1f} % of variance)")
    panels = right.subplots(3, 4, sharex=True, sharey=True).ravel()
    order = sorted(range(10), key=lambda number: -(recall[number] or 0))
    for axes, number in zip(panels, order, strict=False):
        members = points[labels == number]
        colour = CLASS_COLOURS[number]
        axes.scatter(*points.T, s=0.5, color="0.9", linewidths=0, rasterized=True)
        # Black rims make the pale classes stand out, too
        axes.scatter(*members.T, s=2, color="black", linewidths=0, rasterized=True)
        axes.scatter(*members.T, s=1, color=colour, linewidths=0, rasterized=True)
        title = str(number)
        if recall[number] is not None:
            title += f" · {recall[number]:.0f} / {precision[number] or 0:.0f} %"
        axes.set_title(title, pad=1)
        axes.set_aspect("equal")
    for axes in panels:
        axes.set_axis_off()
    note = f"recall / precision\nof test images,\nby {NEIGHBOURS} neighbours"
    panels[10].annotate(
        note,
        (0.05, 0.5),
        xycoords="axes fraction",
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
    train_points = project(train.vectors, pca, max(KEPT_COMPONENTS))
    test_points = project(test.vectors, pca, max(KEPT_COMPONENTS))
    accuracies: dict[str, list[float]] = {"neighbours": [], "linear": []}
    print("components  neighbours     linear", flush=True)
    for count in tqdm(KEPT_COMPONENTS, "classifiers", leave=False, disable=None):
        fit = Vectors(train_points[:, :count], train.labels)
        held_out = Vectors(test_points[:, :count], test.labels)
        neighbours = neighbour_separation(fit, held_out)["accuracy"]
        classifier = linear_classifier(thin(fit, LINEAR_IMAGES))
        linear = float(100 * classifier.score(held_out.vectors, held_out.labels))
        accuracies["neighbours"].append(neighbours)
        accuracies["linear"].append(linear)
        tqdm.write(f"{count:10}{neighbours:10.2f} %{linear:9.2f} %")
    return accuracies


def main(options: argparse.Namespace) -> None:
    """Answer 2.1 to 2.4 in turn."""
    train_images = load_data(train=True, data_dir=options.data_dir)  # 2.1
    test_images = load_data(train=False, data_dir=options.data_dir)
    check_enough(train_images.labels)
    statistics = describe(train_images.images)
    for name, value in statistics.items():
        print(f"{name:5}  {round(value, 2) if name == 'mean' else value}")
    figure = examples_figure(train_images)
    plotting.save_figure(figure, options.figures, "task2_examples")

    train = convert_mnist_to_vectors(train_images)  # 2.2
    test = convert_mnist_to_vectors(test_images)

    print("computing and drawing the principal components …", flush=True)  # 2.3
    pca = do_pca(train.vectors)
    means = class_means(train.vectors, train.labels)
    easy = easy_pca(means, train.labels, pca)
    plotting.save_figure(components_figure(pca), options.figures, "task2_components")

    points = project(train.vectors, pca)  # 2.4
    test_points = project(test.vectors, pca)
    plane = neighbour_separation(
        Vectors(points, train.labels), Vectors(test_points, test.labels)
    )
    shown = np.random.default_rng(options.seed).permutation(len(points))[:SHOWN_POINTS]
    figure = projection_figure(
        points[shown],
        train.labels[shown],
        pca.variance_shares,
        plane["recall"],
        plane["precision"],
    )
    plotting.save_figure(figure, options.figures, "task2_projection")
    print("classifying the test images by their first components …", flush=True)
    accuracies = classifier_accuracies(train, test, pca)
    figure = spectrum_figure(pca.variance_shares, easy.variance_shares, accuracies)
    plotting.save_figure(figure, options.figures, "task2_spectrum")

    settings = {
        "neighbours": NEIGHBOURS,
        "closer": CLOSER,
        "shown_points": len(shown),
        "linear_images": len(thin(train, LINEAR_IMAGES).labels),
    }
    digits = np.unique(train.labels)
    plane_means = class_means(points, train.labels).tolist()
    results = {
        "settings": settings,
        "data": {"train": digest(train_images), "test": digest(test_images)},
        "statistics": statistics,
        "vectors": describe(train.vectors),
        "labels": describe(train.labels),
        "components": describe_components(pca, easy, means, digits),
        "class_means": dict(zip(digits.astype(str), plane_means, strict=True)),
        "plane": plane,
        "classifiers": {
            "components": KEPT_COMPONENTS,
            "neighbours": accuracies["neighbours"],
            "linear": accuracies["linear"],
        },
    }
    script.save_results(options, "task2", results)
    print(f"written to {options.figures}: task2_*.png, task2_*.svg, task2.json")
    held = 100 * pca.variance_shares[:2].sum()
    needed = components_for_90(pca.variance_shares)
    text = f"two components hold {held:.2f} % of the variance"
    print(f"{text}; it takes {needed} to hold 90 %")


if __name__ == "__main__":
    script.run(main, script.parse(script.script_parser(__doc__, data=True)))
