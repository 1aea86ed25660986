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
from sklearn.neighbors import NearestNeighbors
from torch import nn
from tqdm import tqdm

from common import plotting, script
from common.data import Images, Vectors, check_enough, convert_mnist_to_vectors, digest, load_data, thin
from common.explorer import Space, save_page
from common.pca import PCA, do_pca, project
from common.plotting import PAGE_WIDTH, SPLIT_COLOURS, Figure, plt, styled
from common.script import CHECKPOINT, FEATURES, Failure, check_shape
from common.separation import between_classes, linear_accuracy, neighbour_separation
from task3 import DEFAULTS, MultilayerPerceptron, batch_accuracy, predict_probabilities, read_checkpoint, train_and_save

SHOWN_POINTS = 3000
FIT_IMAGES = 20_000  # of the train split, from which both classifiers learn
KEPT_COMPONENTS = (1, 2, 3, 5, 7, 10, 20, 50)  # numbers of components from which the network finishes
NEIGHBOURS = 10
LEGEND = """variance between the classes and in the plane of two components; accuracy of ten
neighbours in the plane, and of a linear classifier in the full space (%)
           between  in plane  neighbours    linear   dead units"""


def load_or_train(
    options: argparse.Namespace, train_data: Vectors, test_data: Vectors, data: str
) -> tuple[MultilayerPerceptron, dict[str, Any]]:
    """Return the network of the checkpoint and its settings; train it first when the default checkpoint is missing.

    Raises `Failure` when the network was trained on another train split than that of the flags, of digest `data`.
    """
    if options.checkpoint.resolve() == CHECKPOINT.resolve() and not CHECKPOINT.exists():
        print(f"no checkpoint {CHECKPOINT.name} yet: training the network of task 3 first", flush=True)
        train_and_save(train_data, test_data, options, DEFAULTS, data)
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
    """Return points [N, 2] with columns swapped or negated to be most like the reference, and the columns' order.

    Of all swaps and signs, these have the greatest correlation of the class means.
    """
    classes = [labels == number for number in np.unique(labels)]
    means, targets = (np.stack([plane[members].mean(axis=0) for members in classes]) for plane in (points, reference))
    products = (means - means.mean(axis=0)).T @ (targets - targets.mean(axis=0))  # [2, 2]
    order = max([0, 1], [1, 0], key=lambda order: np.abs(products[order, [0, 1]]).sum())
    return points[:, order] * np.where(products[order, [0, 1]] < 0, -1, 1), order


def measure_separation(fit: Vectors, held_out: Vectors) -> dict[str, Any]:
    """Measure how well the classes of `held_out`, vectors [N, D], separate there and in its first two components (4.3).

    Ten nearest neighbours in the plane and a linear classifier in the full space learn from `fit`; `four_nine` is the
    accuracy of the neighbours among 4s and 9s alone. Shares and accuracies are in per cent; `components_for_90` hold
    90 % of the variance; dead units are zero for every image.
    """
    pca = do_pca(held_out.vectors)
    planes = [Vectors(project(vectors, pca), labels) for vectors, labels in (fit, held_out)]
    both = [Vectors(*(array[np.isin(plane.labels, (4, 9))] for array in plane)) for plane in planes]
    plane = neighbour_separation(*planes)
    return {
        "variance": float(100 * pca.variance_shares[:2].sum()),
        "components_for_90": int(np.searchsorted(np.cumsum(pca.variance_shares), 0.9)) + 1,
        "between": 100 * between_classes(held_out)[1],
        "neighbours": plane["accuracy"],
        "recall": plane["accuracy_per_class"],
        "pairs": plane["pairs"],
        "four_nine": neighbour_separation(*both)["accuracy"]
        if all({4, 9} <= {*each.labels} for each in both)
        else None,
        "linear": linear_accuracy(fit, held_out),
        "dead_units": int((held_out.vectors == 0).all(axis=0).sum()),
    }


@torch.no_grad()
def finished_accuracies(model: MultilayerPerceptron, position: int, pca: PCA, data: Vectors) -> list[float]:
    """Return the accuracy in per cent when the network goes on from the first k components of a space alone (4.3).

    The space is that of the pixels (`position` 0) or of the activations after that ReLU, `pca` its PCA, and k runs
    through `KEPT_COMPONENTS`; all that the components do not hold is replaced by the mean.
    """
    accuracies = []
    for count in np.minimum(KEPT_COMPONENTS, len(pca.mean)):
        kept = project(data.vectors, pca, count) @ pca.eigenvectors[:, :count].T + pca.mean
        inputs = torch.as_tensor(kept, dtype=torch.float32).to(next(model.parameters()).device)
        logits = model.layers[2 * position :](inputs).cpu()
        accuracies.append(batch_accuracy(logits, torch.as_tensor(data.labels)))
    return accuracies


def explain_errors(
    spaces: Sequence[np.ndarray], data: Images, probabilities: np.ndarray, options: argparse.Namespace
) -> dict[str, Any]:
    """Measure and draw in which space the network's errors happen: the labels of their ten nearest test images (4.4).

    Returns the per cent of the neighbours, over all errors, that have the true label and the network's answer, by
    space, and which error is drawn: that whose neighbours change most from the one to the other.
    """
    answers = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(answers != data.labels)
    if not len(wrong):
        plotting.save_figure(plt.figure(figsize=(PAGE_WIDTH, 0.1)), options.figures, "task4_errors")
        return {"count": 0}
    count = min(NEIGHBOURS + 1, len(data.labels))
    searches = [NearestNeighbors(n_neighbors=count, algorithm="brute").fit(vectors) for vectors in spaces]
    found = [search.kneighbors(vectors[wrong])[1] for search, vectors in zip(searches, spaces, strict=True)]
    found = np.array([[row[row != own][: count - 1] for row, own in zip(rows, wrong, strict=True)] for rows in found])
    nearest = data.labels[found]  # [spaces, errors, 10], the image itself left out
    true, answer = (100 * (nearest == each[wrong, None]).mean(axis=2) for each in (data.labels, answers))
    drawn = (true[0] - true[-1] + answer[-1] - answer[0]).argmax()
    image = int(wrong[drawn])
    shares = np.stack([true.mean(axis=1), answer.mean(axis=1)])  # [2, spaces]
    labels = nearest[:, drawn], data.labels[image], answers[image]
    figure = errors_figure(data.images[image], data.images[found[:, drawn]], *labels, shares)
    plotting.save_figure(figure, options.figures, "task4_errors")
    shown = {"image": image, "label": int(data.labels[image]), "answer": int(answers[image])}
    shown |= {"true": true[:, drawn].tolist(), "taken": answer[:, drawn].tolist()}
    return {"count": len(wrong), "true": shares[0].tolist(), "taken": shares[1].tolist(), "shown": shown}


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
def features_figure(
    planes: Sequence[np.ndarray], labels: np.ndarray, measures: Sequence[Mapping], untrained: Sequence[Mapping]
) -> Figure:
    """Draw each representation in the plane of its first two components [N, 2], and how well classes separate (4.3)."""
    height = -(-(len(planes) + 1) // 3)  # panels
    figure, all_axes = plt.subplots(height, 3, figsize=(PAGE_WIDTH, 2.2 * height))
    for axes in all_axes.flat:
        axes.set_axis_off()
    for axes, plane, name, measure in zip(all_axes.flat, planes, names(measures), measures, strict=False):
        plotting.class_scatter(axes, plane, labels)
        axes.set_title(f"{name} · {measure['neighbours']:.0f} % recognized", pad=2)
    axes = all_axes.flat[len(planes)]
    axes.set_axis_on()
    ends = []
    for key, colour in (("linear", "#b35900"), ("neighbours", SPLIT_COLOURS["test"])):
        for rows, line, text in ((measures, "o-", key), ([measures[0], *untrained], "o--", "untrained")):
            values = [row[key] for row in rows]
            axes.plot(values, line, color=colour, markerfacecolor=colour if rows is measures else "white")
            ends.append((values[-1], f"{text} {values[-1]:.0f}", colour))
    height = -np.inf
    for value, text, colour in sorted(ends):  # raised as little as needed to stand clear of the one below
        height = max(value, height + 7)
        axes.text(len(measures) - 0.8, height, text, color=colour, va="center", fontsize=7)
    axes.set_xticks(range(len(measures)), [name.removeprefix("layer ") for name in names(measures)])
    axes.set(xlim=(-0.4, len(measures) + 2.2), ylim=(0, 104), ylabel="test accuracy (%)")
    axes.set_title("linear: full space;\nneighbours: in the plane", fontsize=7)
    axes.set_xlabel("layer", x=0.36)
    axes.spines.bottom.set_bounds(-0.4, len(measures) - 0.6)
    return figure


@styled
def components_figure(finished: Sequence[Sequence[float]], measures: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw what the network reaches from k components, and each digit's recall in the first and last plane (4.3)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 2.1))
    shades = plt.get_cmap("viridis_r")(np.linspace(0.15, 0.95, len(finished)))
    for name, values, shade in zip(names(finished), finished, shades, strict=True):
        left.plot(KEPT_COMPONENTS, values, "o-", color=shade, label=name)
    left.set(xscale="log", ylim=(0, 104), xlabel="number of components kept", ylabel="network's accuracy (%)")
    left.set_xticks(KEPT_COMPONENTS, KEPT_COMPONENTS, minor=False)
    left.minorticks_off()
    left.legend(frameon=False, fontsize=7, loc="lower right")
    before, after = (np.array(measures[place]["recall"], float) for place in (0, -1))
    order = [number for number in np.argsort(-(after - before), kind="stable") if np.isfinite(after[number])]
    for place, number in enumerate(order):
        colour = plotting.CLASS_COLOURS[number]
        right.plot([place, place], [before[number], after[number]], color=colour, linewidth=2)
        right.plot(place, after[number], "o", color=colour, markersize=5)
        right.plot(place, before[number], "o", color=colour, markerfacecolor="white")
        right.text(
            place, 3, f"{round(after[number] - before[number]) + 0:+d}".replace("-", "−"), fontsize=7, ha="center"
        )
    right.set_xticks(range(len(order)), order)
    right.set(ylim=(0, 104), xlabel="digit, by gain in points", ylabel="recall in the plane (%)")
    right.set_title(f"○ pixels   ● {names(measures)[-1]}", fontsize=7, loc="right")
    return figure


@styled
def errors_figure(
    error: np.ndarray, nearest: np.ndarray, labels: np.ndarray, label: int, answer: int, shares: np.ndarray
) -> Figure:
    """Draw an error [28, 28] and its nearest images [spaces, 10, 28, 28] with their labels [spaces, 10] (4.4).

    Beside it are `shares` [2, spaces], the per cent of all errors' neighbours with the true label and with the answer.
    """
    figure = plt.figure(figsize=(PAGE_WIDTH, 2.4))
    left, right = figure.subfigures(1, 2, width_ratios=(1.75, 1))
    rows = left.subplots(len(nearest), nearest.shape[1] + 1)
    colours = {label: "#3f90da", answer: "#d7301f"}
    for axes_row, images, numbers, name in zip(rows, nearest, labels, names(nearest), strict=True):
        for axes, image, number in zip(axes_row, [error, *images], [label, *numbers], strict=True):
            axes.imshow(image, "gray_r", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color=colours.get(number, "0.75"), linewidth=1.5)
        axes_row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    rows[0, 0].set_title("error", pad=3)
    rows[0, nearest.shape[1] // 2].set_title("nearest test images", pad=3)
    axes = right.subplots()
    for values, colour, text in zip(shares, colours.values(), ("true label", "network's\nanswer"), strict=True):
        axes.plot(values, "o-", color=colour)
        axes.text(len(values) - 0.8, values[-1], f"{text}, {values[-1]:.0f}", color=colour, va="center", fontsize=7)
    axes.set_xticks(range(len(nearest)), [name.removeprefix("layer ") for name in names(nearest)])
    axes.set(ylim=(0, None), xlim=(-0.3, len(nearest) + 1.6), ylabel="of all errors' neighbours (%)")
    axes.set_xlabel("layer", x=0.36)
    axes.spines.bottom.set_bounds(-0.3, len(nearest) - 0.7)
    return figure


def main(options: argparse.Namespace) -> None:
    """Answer 4.1 to 4.4 in turn."""
    train_images, test_images = (load_data(train=split, data_dir=options.data_dir) for split in (True, False))
    check_enough(test_images.labels)
    train_data, test_data = convert_mnist_to_vectors(train_images), convert_mnist_to_vectors(test_images)
    model, settings = load_or_train(options, train_data, test_data, digest(train_images))
    labels, probabilities = test_data.labels, predict_probabilities(model, test_data.vectors)
    shifted = shifted_accuracy(model, test_images)
    print(f"accuracy of the network on these {len(labels):,} images {shifted[0]:.2f} %")
    print("network: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items()), flush=True)

    features = extract_features(model, test_data.vectors)  # 4.1
    with script.replacing(options.checkpoint.with_name(FEATURES)) as temporary, temporary.open("wb") as file:
        np.savez(file, **{f"layer{number}": array for number, array in enumerate(features, 1)})

    spaces = [test_data.vectors, *features]  # 4.2
    pcas = [do_pca(vectors) for vectors in spaces]
    planes, orders = [project(test_data.vectors, pcas[0])], [[0, 1]]
    for vectors, pca in zip(features, pcas[1:], strict=True):
        plane, order = orient(project(vectors, pca), planes[-1], labels)  # most like the one before
        planes.append(plane)
        orders.append(order)

    torch.manual_seed(settings.get("seed", 0))  # 4.3
    control = MultilayerPerceptron().to(next(model.parameters()).device)  # the network as it was before its training
    some = thin(train_data, FIT_IMAGES)
    fits = [some.vectors, *extract_features(model, some.vectors), *extract_features(control, some.vectors)]
    pairs = list(zip(fits, [*spaces, *extract_features(control, test_data.vectors)], strict=True))
    separations = [
        measure_separation(Vectors(fit, some.labels), Vectors(tested, labels))
        for fit, tested in tqdm(pairs, "separation", leave=False, disable=None)
    ]
    measures, untrained = separations[: len(spaces)], separations[len(spaces) :]
    rows = [Vectors(vectors, labels) for vectors in spaces]
    finished = [finished_accuracies(model, k, pca, data) for k, (pca, data) in enumerate(zip(pcas, rows, strict=True))]
    print(LEGEND)
    for name, measure in zip([*names(spaces), *["untrained"] * len(untrained)], separations, strict=True):
        line = "{:9}{between:8.1f} %{variance:8.1f} %{neighbours:10.2f} %{linear:8.2f} %{dead_units:12}"
        print(line.format(name, **measure))

    shown = np.random.default_rng(options.seed).permutation(len(labels))[:SHOWN_POINTS]
    figure = features_figure([plane[shown] for plane in planes], labels[shown], measures, untrained)
    plotting.save_figure(figure, options.figures, "task4_features")
    plotting.save_figure(components_figure(finished, measures), options.figures, "task4_components")
    page = options.figures / "task4_explorer.html"
    title = f"What the hidden layers make of {len(labels):,} test images"
    panels = [
        Space(name, plane, [number + 1 for number in order], pca.variance_shares[order])
        for name, plane, order, pca in zip(names(spaces), planes, orders, pcas, strict=True)
    ]
    save_page(page, panels, test_images.images, labels, probabilities, title, shown)
    cosines = np.linalg.svd(do_pca(train_data.vectors).eigenvectors[:, :2].T @ pcas[0].eigenvectors[:, :2])[1]
    results = {
        "data": {"test": digest(test_images)},
        "network": settings,
        "images": len(labels),
        "fit_images": len(some.labels),
        "shown_points": len(shown),
        "shapes": [list(array.shape) for array in features],
        "names": names(spaces),
        "separation": measures,
        "untrained": untrained,
        "finished": {"components": KEPT_COMPONENTS, "accuracy": finished},
        "errors": explain_errors(spaces, test_images, probabilities, options),
        "plane_cosines": cosines.tolist(),
        "shifted_accuracy": shifted,
    }
    script.save_results(options, "task4", results)
    print(f"written to {options.figures}: task4_*.png, task4_*.svg, task4.json; to explore in a browser: {page}")
    if options.show:
        os.startfile(page) if sys.platform == "win32" else webbrowser.open(page.resolve().as_uri())


if __name__ == "__main__":
    script.run(main, script.parse(script.script_parser(__doc__, data=True, model=True)))
