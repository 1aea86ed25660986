"""Task 4 · What the hidden layers of task 3's network make of the digits.

Answers 4.1 to 4.4 of the sheet; writes figures/task4_*, figures/task4.json and the page
task4_explorer.html, and features.npz beside the checkpoint. Without the default
checkpoint the network is trained first, as task 3 does.
"""

import argparse
import os
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
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
from common.pca import PCA, do_pca, project
from common.plotting import CLASSIFIER_COLOURS, PAGE_WIDTH, Axes, Figure, plt, styled
from common.script import CHECKPOINT, FEATURES, Failure, check_shape
from common.separation import (
    NEIGHBOURS,
    between_classes,
    linear_accuracy,
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

SPACES = ("pixels", "layer 1", "layer 2", "layer 3", "layer 4")
SHOWN_POINTS = 3000
FIT_IMAGES = 20_000  # of the train split, from which both classifiers learn
KEPT_COMPONENTS = (
    1,
    2,
    3,
    5,
    7,
    10,
    20,
    50,
)  # numbers of components from which the network goes on
LEGEND = """variance between the classes and in the plane of two components; accuracy of ten
neighbours in the plane, and of a linear classifier in the full space (%)
              between   in plane  neighbours     linear"""
ROW = "{:12}{between:7.2f} %{variance:9.2f} %{neighbours:10.2f} %{linear:9.2f} %"


def load_or_train(
    options: argparse.Namespace, train_data: Vectors, test_data: Vectors, data: str
) -> tuple[MultilayerPerceptron, dict[str, Any]]:
    """Return the network of the checkpoint and its settings; train it first when the
    default checkpoint is missing.

    Raises `Failure` when the network was not trained on the train split of the flags,
    which has the digest `data`.
    """
    if options.checkpoint.resolve() == CHECKPOINT.resolve() and not CHECKPOINT.exists():
        print(
            f"no checkpoint {CHECKPOINT.name} yet: training the network of task 3 first",
            flush=True,
        )
        train_and_save(train_data, test_data, options, DEFAULTS, data)
    model, settings = read_checkpoint(options.checkpoint)
    if settings.get("data") != data:
        these = f"{options.data_dir or os.environ.get('MNIST_DIR') or 'MNIST'} (train split {data})"
        advice = (
            "give the --data-dir of its training, or train another with python task3.py"
        )
        raise Failure(
            f"{options.checkpoint} was trained on other data ({settings.get('data')}) than {these}; {advice}"
        )
    return model.to(script.choose_device(options.device)), settings


@torch.no_grad()
def extract_features(
    model: MultilayerPerceptron, vectors: np.ndarray
) -> list[np.ndarray]:
    """Return the activations right after each ReLU for `vectors` [N, 784]: four arrays
    float32 [N, 100] (4.1).
    """
    check_shape(vectors, "N", 784)
    activations = torch.as_tensor(vectors, dtype=torch.float32).to(
        next(model.parameters()).device
    )
    features = []
    for layer in model.layers:
        activations = layer(activations)
        if isinstance(layer, nn.ReLU):
            features.append(activations.cpu().numpy())
    return features


def orient(
    points: np.ndarray, reference: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, list[int]]:
    """Return points [N, 2] with columns swapped or negated to be most like the
    reference, and the columns' order.

    Of all swaps and signs, these give the class means the greatest covariance with
    those of the reference.
    """
    classes = [labels == number for number in np.unique(labels)]
    means, targets = (
        np.stack([plane[members].mean(axis=0) for members in classes])
        for plane in (points, reference)
    )
    products = (means - means.mean(axis=0)).T @ (
        targets - targets.mean(axis=0)
    )  # [2, 2]
    order = max([0, 1], [1, 0], key=lambda order: np.abs(products[order, [0, 1]]).sum())
    return points[:, order] * np.where(products[order, [0, 1]] < 0, -1, 1), order


def measure_separation(fit: Vectors, held_out: Vectors) -> dict[str, Any]:
    """Measure how well the classes of `held_out` separate in its D dimensions and in
    its first two components (4.3).

    Ten nearest neighbours in the plane and a linear classifier in the full space learn
    from `fit`; `four_nine` is the accuracy of the neighbours where only 4s and 9s are
    classified. Shares and accuracies are in per cent.
    """
    pca = do_pca(held_out.vectors)
    planes = [
        Vectors(project(vectors, pca), labels) for vectors, labels in (fit, held_out)
    ]
    both = [
        Vectors(*(array[np.isin(plane.labels, (4, 9))] for array in plane))
        for plane in planes
    ]
    has_both = all({4, 9} <= {*each.labels} for each in both)
    plane = neighbour_separation(*planes)
    return {
        "variance": float(100 * pca.variance_shares[:2].sum()),
        "components_for_90": int(np.searchsorted(np.cumsum(pca.variance_shares), 0.9))
        + 1,
        "between": 100 * between_classes(held_out)[1],
        "neighbours": plane["accuracy"],
        "recall": plane["accuracy_per_class"],
        "pairs": plane["pairs"],
        "four_nine": neighbour_separation(*both)["accuracy"] if has_both else None,
        "linear": linear_accuracy(fit, held_out),
    }


def compare_with_untrained(
    model: MultilayerPerceptron,
    seed: int,
    train_data: Vectors,
    spaces: Sequence[np.ndarray],
    labels: np.ndarray,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Measure the separation in the test pixels and layers, `spaces`, and in the layers
    before training (4.3).
    """
    torch.manual_seed(seed)
    control, some = (
        MultilayerPerceptron().to(next(model.parameters()).device),
        thin(train_data, FIT_IMAGES),
    )
    fits = [
        some.vectors,
        *extract_features(model, some.vectors),
        *extract_features(control, some.vectors),
    ]
    pairs = list(
        zip(fits, [*spaces, *extract_features(control, spaces[0])], strict=True)
    )
    measures = []
    for fit, held_out in tqdm(pairs, "separation", leave=False, disable=None):
        measures.append(
            measure_separation(Vectors(fit, some.labels), Vectors(held_out, labels))
        )
    return measures[: len(SPACES)], measures[len(SPACES) :]


@torch.no_grad()
def finished_accuracies(
    model: MultilayerPerceptron, position: int, pca: PCA, data: Vectors
) -> list[float]:
    """Return the accuracy in per cent when the network goes on from the first k
    components of a space alone (4.3).

    The space is that of the pixels (`position` 0) or of the activations after that
    ReLU; k runs through `KEPT_COMPONENTS`, and the mean replaces all that the
    components do not hold.
    """
    accuracies = []
    for count in np.minimum(KEPT_COMPONENTS, len(pca.mean)):
        kept = (
            project(data.vectors, pca, count) @ pca.eigenvectors[:, :count].T + pca.mean
        )
        inputs = torch.as_tensor(kept, dtype=torch.float32).to(
            next(model.parameters()).device
        )
        logits = model.layers[2 * position :](inputs).cpu()
        accuracies.append(batch_accuracy(logits, torch.as_tensor(data.labels)))
    return accuracies


def explain_errors(
    spaces: Sequence[np.ndarray], data: Images, answers: np.ndarray
) -> tuple[dict[str, Any], Figure]:
    """Measure and draw in which space the network's errors arise, by the labels of
    their nearest test images (4.4).

    Returns, by space, the per cent of all errors' neighbours with the true label and
    with the network's answer, which error is drawn (that whose neighbours change most
    from the one to the other), and the figure.
    """
    wrong = np.flatnonzero(answers != data.labels)
    if not len(wrong):
        return {"count": 0}, plt.figure(figsize=(PAGE_WIDTH, 0.1))
    nearest = []
    for vectors in spaces:
        search = NearestNeighbors(n_neighbors=NEIGHBOURS + 1, algorithm="brute").fit(
            vectors
        )
        found = search.kneighbors(
            vectors[wrong], return_distance=False
        )  # [errors, 11], mostly with the image itself
        nearest.append(
            [
                row[row != own][:NEIGHBOURS]
                for row, own in zip(found, wrong, strict=True)
            ]
        )
    nearest = np.array(nearest)  # [spaces, errors, 10]
    labels = data.labels[nearest]
    true, taken = (
        100 * (labels == each[wrong, None]).mean(axis=2)
        for each in (data.labels, answers)
    )
    drawn = (true[0] - true[-1] + taken[-1] - taken[0]).argmax()
    image = int(wrong[drawn])
    shown = {
        "image": image,
        "label": int(data.labels[image]),
        "answer": int(answers[image]),
    }
    shown |= {"true": true[:, drawn].tolist(), "taken": taken[:, drawn].tolist()}
    shares = {"true": true.mean(axis=1).tolist(), "taken": taken.mean(axis=1).tolist()}
    figure = errors_figure(data, shown, nearest[:, drawn], shares)
    return {"count": len(wrong), **shares, "shown": shown}, figure


def shifted_accuracy(model: MultilayerPerceptron, data: Images) -> list[float]:
    """Return the accuracy in per cent on images shifted by 0 … 4 pixels, the mean over
    four directions (4.4).

    Shifts wrap around; with MNIST's margins that moves under one per cent of the ink on
    average.
    """
    accuracies = []
    for pixels in range(5):
        moved = [
            (np.roll(data.images, step, axis), data.labels)
            for axis in (1, 2)
            for step in (pixels, -pixels)
        ]
        outputs = [
            predict_probabilities(
                model, convert_mnist_to_vectors(Images(*each)).vectors
            )
            for each in moved
        ]
        accuracies.append(
            float(
                100 * np.mean([each.argmax(axis=1) == data.labels for each in outputs])
            )
        )
    return accuracies


def layer_axis(axes: Axes) -> None:
    """Give an axes the pixels and the layers as ticks, and room at the right for the
    names of the lines.
    """
    axes.set_xticks(range(5), ["pixels", *range(1, 5)])
    axes.set_xlim(-0.4, 7)
    axes.set_xlabel("layer", x=0.36)
    axes.spines.bottom.set_bounds(-0.4, 4.4)


@styled
def features_figure(
    planes: Sequence[np.ndarray],
    labels: np.ndarray,
    measures: Sequence[Mapping],
    untrained: Sequence[Mapping],
) -> Figure:
    """Draw each representation in the plane of its first two components [N, 2], and how
    well classes separate (4.3).
    """
    figure, all_axes = plt.subplots(2, 3, figsize=(PAGE_WIDTH, 4.4))
    *panels, axes = all_axes.flat
    for panel, plane, name, measure in zip(
        panels, planes, SPACES, measures, strict=True
    ):
        plotting.class_scatter(panel, plane, labels)
        panel.set_title(f"{name} · accuracy {measure['neighbours']:.0f} %", pad=2)
        panel.set_axis_off()
    ends = []
    for key, colour in CLASSIFIER_COLOURS.items():
        for rows, line, text in (
            (measures, "o-", key),
            ([measures[0], *untrained], "o--", "untrained"),
        ):
            values = [row[key] for row in rows]
            axes.plot(
                values,
                line,
                color=colour,
                markerfacecolor=colour if rows is measures else "white",
            )
            ends.append((values[-1], f"{text} {values[-1]:.0f}", colour))
    height = -np.inf
    for value, text, colour in sorted(
        ends
    ):  # raised as little as needed to stand clear of the one below
        height = max(value, height + 7)
        axes.text(4.2, height, text, color=colour, va="center", fontsize=7)
    axes.set(ylim=(0, 104), ylabel="test accuracy (%)")
    axes.set_title("linear: full space;\nneighbours: in the plane", fontsize=7)
    layer_axis(axes)
    return figure


@styled
def components_figure(
    finished: Sequence[Sequence[float]], measures: Sequence[Mapping[str, Any]]
) -> Figure:
    """Draw the network's accuracy from k components, and each digit's recall in the
    first and last plane (4.3).
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.1))
    shades = plt.get_cmap("viridis_r")(np.linspace(0.15, 0.95, len(finished)))
    for name, values, shade in zip(SPACES, finished, shades, strict=True):
        left.plot(KEPT_COMPONENTS, values, "o-", color=shade, label=name)
    left.set(
        xscale="log",
        ylim=(0, 104),
        xlabel="number of components kept",
        ylabel="network's accuracy (%)",
    )
    left.set_xticks(KEPT_COMPONENTS, KEPT_COMPONENTS, minor=False)
    left.minorticks_off()
    left.legend(frameon=False, fontsize=7, loc="lower right")
    before, after = (np.array(measures[place]["recall"], float) for place in (0, -1))
    order = [
        number
        for number in np.argsort(-(after - before), kind="stable")
        if np.isfinite(after[number])
    ]
    for place, number in enumerate(order):
        colour = plotting.CLASS_COLOURS[number]
        right.plot(
            [place, place], [before[number], after[number]], color=colour, linewidth=2
        )
        right.plot(place, after[number], "o", color=colour, markersize=5)
        right.plot(place, before[number], "o", color=colour, markerfacecolor="white")
        gain = f"{round(after[number] - before[number]):+d}".replace("-", "−")
        right.text(place, 3, gain, fontsize=7, ha="center")
    right.set_xticks(range(len(order)), order)
    right.set(
        ylim=(0, 104),
        xlabel="digit, by gain in points",
        ylabel="recall in the plane (%)",
    )
    right.set_title(f"○ {SPACES[0]}, ● {SPACES[-1]}", fontsize=7, loc="right")
    return figure


@styled
def errors_figure(
    data: Images,
    shown: Mapping[str, Any],
    nearest: np.ndarray,
    shares: Mapping[str, Any],
) -> Figure:
    """Draw an error and its nearest images in each space, indices [spaces, 10], and the
    labels' shares of all (4.4).

    `shown` and `shares` are those that `explain_errors` returns.
    """
    figure = plt.figure(figsize=(PAGE_WIDTH, 2.4))
    left, right = figure.subfigures(1, 2, width_ratios=(1.75, 1))
    rows = left.subplots(*np.add(nearest.shape, (0, 1)))
    colours = {shown["label"]: "#08519c", shown["answer"]: "#d7301f"}
    for axes_row, images, name in zip(rows, nearest, SPACES, strict=True):
        for axes, image in zip(axes_row, [shown["image"], *images], strict=True):
            axes.imshow(data.images[image], "gray_r", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(
                visible=True,
                color=colours.get(data.labels[image], "0.75"),
                linewidth=1.5,
            )
        axes_row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    rows[0, 0].set_title("error", pad=3)
    rows[0, nearest.shape[1] // 2].set_title("nearest test images", pad=3)
    axes = right.subplots()
    for key, colour, text in zip(
        shares, colours.values(), ("true label", "network's\nanswer"), strict=True
    ):
        axes.plot(shares[key], "o-", color=colour)
        axes.text(
            4.2,
            shares[key][-1],
            f"{text}, {shares[key][-1]:.0f} %",
            color=colour,
            va="center",
            fontsize=7,
        )
    layer_axis(axes)
    axes.set(ylim=(0, None), ylabel="share of the neighbours (%)")
    return figure


def main(options: argparse.Namespace) -> None:
    """Answer 4.1 to 4.4 in turn."""
    train_images, test_images = (
        load_data(train=split, data_dir=options.data_dir) for split in (True, False)
    )
    check_enough(test_images.labels)
    train_data, test_data = (
        convert_mnist_to_vectors(train_images),
        convert_mnist_to_vectors(test_images),
    )
    model, settings = load_or_train(
        options, train_data, test_data, digest(train_images)
    )
    labels, probabilities = (
        test_data.labels,
        predict_probabilities(model, test_data.vectors),
    )
    answers = probabilities.argmax(axis=1)
    print(
        f"the network recognizes {100 * (answers == labels).mean():.2f} % of {len(labels):,} test images"
    )
    known = [
        f"{name.replace('_', ' ')} {settings.get(name, 'unknown')}"
        for name in (*DEFAULTS, "seed")
    ]
    print(f"its training: {', '.join(known)}")

    features = extract_features(model, test_data.vectors)  # 4.1
    with (
        script.replacing(options.checkpoint.with_name(FEATURES)) as temporary,
        temporary.open("wb") as file,
    ):
        np.savez(
            file,
            **{f"layer{number}": array for number, array in enumerate(features, 1)},
        )

    spaces = [test_data.vectors, *features]  # 4.2
    pcas = [do_pca(vectors) for vectors in spaces]
    planes, orders = [project(test_data.vectors, pcas[0])], [[0, 1]]
    for vectors, pca in zip(features, pcas[1:], strict=True):
        plane, order = orient(
            project(vectors, pca), planes[-1], labels
        )  # most like the one before
        planes.append(plane)
        orders.append(order)

    print(
        "measuring how well the classes separate, layer by layer …", flush=True
    )  # 4.3
    measures, untrained = compare_with_untrained(
        model, settings.get("seed", 0), train_data, spaces, labels
    )
    finished = [
        finished_accuracies(model, k, pca, Vectors(spaces[k], labels))
        for k, pca in enumerate(pcas)
    ]
    print(LEGEND)
    for name, measure in zip(
        [*SPACES, *(f"untrained {k}" for k in range(1, 5))],
        [*measures, *untrained],
        strict=True,
    ):
        print(ROW.format(name, **measure))

    print("drawing the figures and the page …", flush=True)
    shown = np.random.default_rng(options.seed).permutation(len(labels))[:SHOWN_POINTS]
    figure = features_figure(
        [plane[shown] for plane in planes], labels[shown], measures, untrained
    )
    plotting.save_figure(figure, options.figures, "task4_features")
    plotting.save_figure(
        components_figure(finished, measures), options.figures, "task4_components"
    )
    page = options.figures / "task4_explorer.html"
    title = f"What the hidden layers make of {len(labels):,} test images"
    panels = [
        Space(name, plane, [number + 1 for number in order], pca.variance_shares[order])
        for name, plane, order, pca in zip(SPACES, planes, orders, pcas, strict=True)
    ]
    save_page(page, panels, test_images.images, labels, probabilities, title, shown)
    errors, figure = explain_errors(spaces, test_images, answers)  # 4.4
    plotting.save_figure(figure, options.figures, "task4_errors")
    cosines = np.linalg.svd(
        do_pca(train_data.vectors).eigenvectors[:, :2].T @ pcas[0].eigenvectors[:, :2]
    )[1]
    results = {
        "data": {"test": digest(test_images)},
        "network": settings,
        "images": len(labels),
        "fit_images": len(thin(train_data, FIT_IMAGES).labels),
        "shown_points": len(shown),
        "shapes": [list(array.shape) for array in features],
        "names": SPACES,
        "separation": measures,
        "untrained": untrained,
        "finished": {"components": KEPT_COMPONENTS, "accuracy": finished},
        "errors": errors,
        "plane_cosines": cosines.tolist(),
        "shifted_accuracy": shifted_accuracy(model, test_images),
    }
    script.save_results(options, "task4", results)
    print(f"to explore in a browser: {page}")
    print(f"written to {options.figures}: task4_*.png, task4_*.svg, task4.json")
    if options.show:
        os.startfile(page) if sys.platform == "win32" else webbrowser.open(
            page.resolve().as_uri()
        )


if __name__ == "__main__":
    script.run(main, script.parse(script.script_parser(__doc__, data=True, model=True)))
