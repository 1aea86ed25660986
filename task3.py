"""Task 3 · A multilayer perceptron of five layers in PyTorch, trained and validated on MNIST.

Answers 3.1 to 3.3 of the sheet; writes figures/task3_*, figures/task3.json and the checkpoint for task 4.
"""

import argparse
import io
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.metrics import confusion_matrix
from torch import nn
from tqdm import tqdm

from common import runtime
from common.checks import Failure, check_labels, check_shape
from common.data import Images, Vectors, convert_mnist_to_vectors, digest, load_data
from common.plotting import GUIDE, PAGE_WIDTH, SPLIT_COLOURS, draw_cells, draw_history, image_grid, save_figure, styled
from common.separation import accuracy_per_class, confused_pairs

EPOCHS = 10
BATCH_SIZE = 16
LEARNING_RATE = 1e-4
DEFAULTS = {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE}
LARGE_BATCH = 256  # shows where the time of a step goes
CHECKPOINT_VERSION = 2
# What torch.load raises for files that are not what they should be
DAMAGE = (pickle.UnpicklingError, RuntimeError, OSError, EOFError, AttributeError, LookupError, TypeError, ValueError)
History = dict[str, list[float]]

# 3.1 The network


class MultilayerPerceptron(nn.Module):
    """Five linear layers, 784 → 100 → 100 → 100 → 100 → 10, with a ReLU after each of the four hidden ones (3.1)."""

    def __init__(self, size_hidden: int = 100, size_out: int = 10) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {}  # how it was trained
        layers = [nn.Linear(784, size_hidden), nn.ReLU()]
        for _ in range(3):
            layers += [nn.Linear(size_hidden, size_hidden), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(size_hidden, size_out))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Map MNIST vectors [N, 784] to logits [N, size_out]."""
        return self.layers(vectors)


# 3.2 The accuracy


def class_label(prediction: torch.Tensor) -> torch.Tensor:
    """Return the most likely class [N] of each row of logits [N, C]."""
    check_shape(prediction, "N", "C")
    return prediction.argmax(1)


def batch_accuracy(prediction: torch.Tensor, label: torch.Tensor) -> float:
    """Return the percentage, 0 to 100, of logits [N, C] whose largest entry is at the label [N] (3.2)."""
    predicted = class_label(prediction)
    check_shape(label, len(predicted))
    return 100 * (predicted == label).sum().item() / len(label)


# 3.3 Training and validation


def train(
    model: nn.Module,
    train_data: Vectors,
    test_data: Vectors,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    report: Callable[[int, History], None] = lambda epoch, history: None,
) -> History:
    """Train with Adam and cross-entropy on the model's device, validating on the full test split after every epoch.

    Returns, per epoch, `test_loss` and `test_accuracy`, `train_loss` and `train_accuracy` of as many training images,
    taken at the same moment, and the `seconds` of training and validation; `report` is called after every epoch.
    Raises `Failure` when a loss is no longer finite.
    """
    device = next(model.parameters()).device
    vectors, labels = tensors(train_data, device)
    test = tensors(test_data, device)
    sample = vectors[: len(test[0])], labels[: len(test[0])]
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    criterion = nn.CrossEntropyLoss()
    history: History = {name: [] for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds")}
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        order = torch.randperm(len(labels), generator=generator).to(device)
        losses = []
        for batch in tqdm(order.split(batch_size), f"epoch {epoch}", leave=False, disable=None):
            loss = criterion(model(vectors.index_select(0, batch)), labels.index_select(0, batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        for split, (images, classes) in (("train", sample), ("test", test)):
            with torch.no_grad():
                logits = model(images)
            losses.append(criterion(logits, classes))
            history[f"{split}_loss"].append(losses[-1].item())
            history[f"{split}_accuracy"].append(batch_accuracy(logits, classes))
        finite = torch.stack(losses).isfinite()  # one look per epoch: one per step would wait for the device
        if not finite.all():
            step = min(finite.tolist().index(False) + 1, len(losses) - 2)
            raise Failure(f"the loss is not finite in epoch {epoch}, step {step}; take a smaller --learning-rate")
        history["seconds"].append(time.perf_counter() - start)
        report(epoch, history)
    return history


def tensors(data: Vectors, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return vectors [N, 784] and labels [N] as tensors on the device; raise ValueError when they are not that."""
    check_shape(data.vectors, "N", 784)
    check_labels(data.labels, len(data.vectors), 10)
    return torch.as_tensor(data.vectors).to(device), torch.as_tensor(data.labels).to(device)


@torch.no_grad()
def predict_probabilities(model: nn.Module, vectors: np.ndarray) -> np.ndarray:
    """Return the network's probability of each class, float32 [N, 10], for vectors [N, 784] of any real dtype."""
    check_shape(vectors, "N", 784)
    device = next(model.parameters()).device
    return model(torch.as_tensor(vectors, dtype=torch.float32).to(device)).softmax(dim=1).cpu().numpy()


def train_and_save(
    images: Images, test_data: Vectors, options: argparse.Namespace, settings: Mapping[str, Any] = DEFAULTS
) -> tuple[MultilayerPerceptron, History]:
    """Train a new network with the seed, on the device and to the checkpoint that the flags name.

    `settings` has the keys of `DEFAULTS`. After every epoch a line is printed and the checkpoint saved, so that an
    interruption loses one epoch at most.
    """
    # Batches of 16 are too small to share: a second thread makes a step slower, and where two programs share two cores
    # and wait for each other's threads, slower by hundreds of times.
    torch.set_num_threads(1)
    runtime.make_writable(options.checkpoint.parent)
    device = runtime.choose_device(options.device)
    torch.manual_seed(options.seed)
    model = MultilayerPerceptron().to(device)
    known = {**settings, "seed": options.seed, "data": digest(images)}
    count = min(len(images.labels), len(test_data.labels))
    print(f"device {device}; train loss and accuracy are of the first {count:,} train images, test of all", flush=True)

    def report(epoch: int, history: History) -> None:
        last = {name: values[-1] for name, values in history.items()}
        line = "train loss {train_loss:.4f}, {train_accuracy:.2f} %  test loss {test_loss:.4f}, {test_accuracy:.2f} %"
        tqdm.write(f"epoch {epoch:2}/{settings['epochs']}  {line.format(**last)}  {last['seconds']:.2f} s")
        model.settings = known | {"epochs": epoch}
        save_checkpoint(model, options.checkpoint)

    train_data = convert_mnist_to_vectors(images)
    return model, train(model, train_data, test_data, **settings, seed=options.seed, report=report)


def save_checkpoint(model: MultilayerPerceptron, path: Path) -> None:
    """Write the weights and the settings that made them; the file at `path` is complete at any moment."""
    checkpoint = {"version": CHECKPOINT_VERSION, "settings": model.settings, "weights": model.state_dict()}
    content = io.BytesIO()
    torch.save(checkpoint, content)
    with runtime.replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())


def load_checkpoint(path: str | Path) -> MultilayerPerceptron:
    """Return the trained network from a checkpoint of task 3, on the CPU, in evaluation mode.

    The file is read without running any code from it. Raises `Failure`, a ValueError, when it is not a checkpoint of
    this network, and PermissionError when it cannot be opened.
    """
    model = MultilayerPerceptron()
    again = "make a new one with python task3.py"
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if checkpoint["version"] != CHECKPOINT_VERSION:
            raise Failure(f"{path} is of version {checkpoint['version']}, not {CHECKPOINT_VERSION}; {again}")
        model.load_state_dict(checkpoint["weights"])
        model.settings = dict(checkpoint["settings"])
    except FileNotFoundError as error:
        raise Failure(f"there is no checkpoint {path}; run python task3.py first") from error
    except (Failure, PermissionError):
        raise
    except DAMAGE as error:
        raise Failure(f"{path} is not a checkpoint of this network; {again}") from error
    if not all(weights.isfinite().all() for weights in model.parameters()):
        raise Failure(f"{path} holds weights that are not finite; {again}")
    return model.eval()


def time_large_batches(device: torch.device, train_data: Vectors, test_data: Vectors) -> float:
    """Return the seconds of an epoch of a new network with batches of 256, validation included, on the device."""
    return train(MultilayerPerceptron().to(device), train_data, test_data, 1, LARGE_BATCH)["seconds"][0]


@styled
def training_figure(
    history: Mapping[str, Sequence[float]], matrix: np.ndarray, pairs: Sequence[Mapping[str, Any]]
) -> Figure:
    """Draw loss and accuracy over the epochs, and the confusion matrix with its three most confused pairs (3.3)."""
    figure = plt.figure(figsize=(PAGE_WIDTH, 2.9))
    figure.get_layout_engine().set(wspace=0.05)
    panels = figure.subplot_mosaic([["loss", "matrix"], ["accuracy", "matrix"]], width_ratios=(1, 1.5))
    loss, accuracy = panels["loss"], panels["accuracy"]
    draw_history(loss, history, "loss", digits=3)
    draw_history(accuracy, history, "accuracy", digits=1)
    loss.set(ylabel="loss", ylim=(0, 1.05 * loss.get_ylim()[1]))
    accuracy.set_ylabel("accuracy (%)")
    accuracy.margins(y=0.15)
    loss.sharex(accuracy)
    loss.label_outer()
    if len(history["test_accuracy"]) >= 5:
        loss.axvline(5, **GUIDE)
        accuracy.axvline(5, **GUIDE)
        place = {"xycoords": ("data", "axes fraction"), "xytext": (3, 3), "textcoords": "offset points"}
        text = f"epoch 5:\n{history['test_accuracy'][4]:.1f} %"
        accuracy.annotate(text, (5, 0), color=SPLIT_COLOURS["test"], **place)
    draw_confusion(panels["matrix"], matrix, [pair["classes"] for pair in pairs[:3]])
    return figure


def draw_confusion(axes: Axes, matrix: np.ndarray, pairs: Sequence[tuple[int, int]]) -> None:
    """Draw a confusion matrix [10, 10]: errors tinted, the named pairs boxed, the recall of each class at the right."""
    diagonal = np.eye(10, dtype=bool)
    errors = np.where(diagonal, 0, matrix)
    colours = mpl.colormaps["Oranges"](0.1 + 0.85 * errors / errors.max(initial=1))  # [10, 10, 4]
    colours[matrix == 0], colours[diagonal] = 1, mpl.colors.to_rgba("0.9")
    draw_cells(axes, colours, np.where(matrix > 0, matrix.astype(str), ""), fontsize=6.5)
    for text in axes.texts[::11]:  # the diagonal
        text.set_color("0.4")
    for corner in [corner for pair in pairs for corner in (pair, pair[::-1])]:
        axes.add_patch(Rectangle(np.subtract(corner, 0.5), 1, 1, fill=False, linewidth=1.2, clip_on=False))
    for row, size in enumerate(matrix.sum(axis=1)):
        axes.text(9.8, row, f"{100 * matrix[row, row] / size:.1f}" if size else "", fontsize=7, va="center")
    axes.text(9.8, -0.8, "recall (%)", fontsize=7, va="center")
    axes.set(yticks=range(10), xlabel="predicted digit", ylabel="true digit", aspect="equal")


def main(options: argparse.Namespace) -> None:
    """Answer 3.3 with the pieces of 3.1 and 3.2."""
    train_images, test_images = (load_data(train=split, data_dir=options.data_dir) for split in (True, False))
    test_data = convert_mnist_to_vectors(test_images)
    settings = {name: getattr(options, name) for name in DEFAULTS}
    model, history = train_and_save(train_images, test_data, options, settings)
    seconds, device = history.pop("seconds"), next(model.parameters()).device

    probabilities = predict_probabilities(model, test_data.vectors)
    predicted = probabilities.argmax(axis=1)
    matrix = confusion_matrix(test_data.labels, predicted, labels=range(10))
    pairs = confused_pairs(matrix)
    wrong = np.flatnonzero(predicted != test_data.labels)
    surest = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")[:10]]
    titles = [f"{test_data.labels[k]} → {predicted[k]}" for k in surest]

    save_figure(training_figure(history, matrix, pairs), options.figures, "task3_training")
    figure = image_grid([test_images.images[surest]], titles, size=(PAGE_WIDTH, 0.8))
    save_figure(figure, options.figures, "task3_errors")
    results = {
        "data": {"train": model.settings["data"], "test": digest(test_images)},
        "network": model.settings,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "history": history,
        "confusion": matrix.tolist(),
        "accuracy_per_class": accuracy_per_class(matrix),
        "confused_pairs": pairs,
        "shown_errors": len(surest),
        "timing": {
            "seconds_per_epoch": float(np.median(seconds)),
            "seconds_large_batches": time_large_batches(device, convert_mnist_to_vectors(train_images), test_data),
            "large_batch": LARGE_BATCH,
            "device": str(device),
        },
    }
    runtime.save_results(options, "task3", results)
    print(f"left in {options.figures}: task3_*.png, task3_*.svg, task3.json; the network: {options.checkpoint}")


if __name__ == "__main__":
    parser = runtime.script_parser(__doc__, data=True, model=True)
    runtime.add_training_flags(parser, **DEFAULTS)
    runtime.run(main, runtime.parse(parser))
