"""Task 3 · A multilayer perceptron of five layers in PyTorch, trained and validated on
MNIST.

Answers 3.1 to 3.3 of the sheet: ten epochs reach about 97 % in half a minute on two
cores. Writes figures/task3_*, figures/task3.json and the checkpoint for task 4.
"""

import argparse
import io
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import nn
from tqdm import tqdm

from common import plotting, script
from common.cuda import recorded
from common.data import (
    Vectors,
    check_labels,
    convert_mnist_to_vectors,
    digest,
    load_data,
    thin,
)
from common.plotting import GUIDE, PAGE_WIDTH, SPLIT_COLOURS, Axes, Figure, plt, styled
from common.script import Failure, check_shape
from common.separation import confused_pairs, recall

EPOCHS = 10
BATCH_SIZE = 16
LEARNING_RATE = 1e-4
DEFAULTS = {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE}
History = dict[str, list[float]]


class MultilayerPerceptron(nn.Module):
    """Five linear layers, 784 → 100 → 100 → 100 → 100 → 10, with a ReLU after each of
    the four hidden ones (3.1).
    """

    def __init__(self, size_hidden: int = 100, size_out: int = 10) -> None:
        super().__init__()
        layers = [nn.Linear(784, size_hidden), nn.ReLU()]
        for _ in range(3):
            layers += [nn.Linear(size_hidden, size_hidden), nn.ReLU()]
        layers.append(nn.Linear(size_hidden, size_out))  # the fifth
        self.layers = nn.Sequential(*layers).float()  # whatever PyTorch's default is

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Map MNIST vectors [N, 784] to logits [N, size_out]."""
        return self.layers(vectors)


def class_label(prediction: torch.Tensor) -> torch.Tensor:
    """Return the most likely class [N] of each row of logits [N, C]."""
    check_shape(prediction, "N", "C")
    return prediction.argmax(dim=1)


def batch_accuracy(prediction: torch.Tensor, label: torch.Tensor) -> float:
    """Return the accuracy of logits [N, C] for labels [N] in per cent, 0 to 100 (3.2);
    raise ValueError if N is 0.
    """
    check_shape(label, len(prediction))
    correct = class_label(prediction) == label  # [N]
    return 100 * correct.sum().item() / len(label)


def train(
    model: nn.Module,
    train_data: Vectors,
    test_data: Vectors,
    epochs: int = EPOCHS,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    report: Callable[..., None] | None = None,
) -> History:
    """Train with Adam and cross-entropy on the model's device, and validate on the test
    split after every epoch (3.3).

    Returns, per epoch, `test_loss` and `test_accuracy` (per cent), `train_loss` and
    `train_accuracy` on as many train images, drawn at random, as there are test images,
    and the `seconds` of training and validation; `report(epoch, history, optimizer)` is
    called after every epoch. Raises `Failure` when a loss is not finite, ValueError for
    data other than vectors [N, 784] and labels [N].
    """
    device = next(model.parameters()).device
    vectors, labels = tensors(train_data, device)
    test_vectors, test_labels = tensors(test_data, device)
    measured = thin(Vectors(vectors, labels), len(test_labels))  # for the train values
    splits = {"train": measured, "test": Vectors(test_vectors, test_labels)}
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    criterion = nn.CrossEntropyLoss()
    generator = torch.Generator().manual_seed(seed)
    history: History = {
        "train_loss": [],
        "train_accuracy": [],
        "test_loss": [],
        "test_accuracy": [],
        "seconds": [],
    }

    def step(batch: torch.Tensor) -> torch.Tensor:
        """Learn from the images with these indices [B]; return their loss before."""
        loss = criterion(model(vectors[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    if device.type == "cuda":
        optimizer.param_groups[0]["capturable"] = True  # lets its step be recorded
        step = recorded(step)  # does the same with one launch instead of dozens
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        order = torch.randperm(len(labels), generator=generator).to(device)
        batches = order.split(batch_size)
        for batch in tqdm(batches, f"epoch {epoch}", leave=False, disable=None):
            step(batch)
        for split, (images, classes) in splits.items():
            with torch.no_grad():
                logits = model(images)
            history[f"{split}_loss"].append(criterion(logits, classes).item())
            history[f"{split}_accuracy"].append(batch_accuracy(logits, classes))
        history["seconds"].append(time.perf_counter() - start)
        if not math.isfinite(history["test_loss"][-1]):
            advice = "take a smaller --learning-rate"
            raise Failure(f"the loss is not finite after epoch {epoch}; {advice}")
        if report is not None:
            report(epoch, history, optimizer)
    return history


def tensors(data: Vectors, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return vectors [N, 784] and labels [N] as tensors on the device; raise ValueError
    for anything else.
    """
    vectors = np.asarray(data[0])
    labels = np.asarray(data[1])
    check_shape(vectors, "N", 784)
    check_labels(Vectors(vectors, labels))
    vectors = torch.as_tensor(vectors, dtype=torch.float32)
    labels = torch.as_tensor(labels, dtype=torch.int64)
    return vectors.to(device), labels.to(device)


@torch.no_grad()
def predict_probabilities(model: nn.Module, vectors: np.ndarray) -> np.ndarray:
    """Return the network's probability of each class, float32 [N, 10], for vectors [N,
    784] of any real dtype.
    """
    check_shape(vectors, "N", 784)
    device = next(model.parameters()).device
    inputs = torch.as_tensor(vectors, dtype=torch.float32).to(device)
    logits = model(inputs)  # [N, 10]
    return logits.softmax(dim=1).cpu().numpy()


def layer_sizes(model: MultilayerPerceptron) -> list[int]:
    """Return the number of inputs, and of the outputs of each linear layer."""
    sizes = [784]
    for layer in model.layers:
        if isinstance(layer, nn.Linear):
            sizes.append(layer.out_features)
    return sizes


def train_and_save(
    train_data: Vectors,
    test_data: Vectors,
    options: argparse.Namespace,
    settings: Mapping[str, Any],
    train_digest: str,
) -> tuple[MultilayerPerceptron, History, dict[str, Any]]:
    """Train a new network with the seed and on the device of the flags, and save it to
    their checkpoint.

    `settings` has the keys of `DEFAULTS`, `train_digest` identifies the train split.
    After every epoch a line is printed and the checkpoint saved, so that an
    interruption loses one epoch at most. Returns the network, its history and what the
    checkpoint tells of it.
    """
    script.make_writable(options.checkpoint.parent)
    device = script.choose_device(options.device)
    torch.manual_seed(options.seed)
    model = MultilayerPerceptron().to(device)
    network = dict(settings)
    network["layers"] = layer_sizes(model)
    network["seed"] = options.seed
    network["data"] = train_digest
    epochs = settings["epochs"]
    count = min(len(train_data.labels), len(test_data.labels))
    print(f"training on {device}; train values are those of {count:,} images")
    print(
        " epoch  train loss  train accuracy  test loss  test accuracy  seconds",
        flush=True,
    )

    def report(epoch: int, history: History, optimizer: torch.optim.Optimizer) -> None:
        last = {name: values[-1] for name, values in history.items()}
        number = f"{epoch}/{epochs}"
        tqdm.write(
            f"{number:>6}"
            f"{last['train_loss']:12.3f}{last['train_accuracy']:14.2f} %"
            f"{last['test_loss']:11.3f}{last['test_accuracy']:13.2f} %"
            f"{last['seconds']:9.2f}"
        )
        network["epochs"] = epoch
        network["optimizer"] = type(optimizer).__name__
        save_checkpoint(model, network, options.checkpoint)

    # Batches of 16 are too small to share: a second thread makes a step slower, and
    # hundreds of times slower where two programs share two cores.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        history = train(
            model,
            train_data,
            test_data,
            epochs=epochs,
            batch_size=settings["batch_size"],
            learning_rate=settings["learning_rate"],
            seed=options.seed,
            report=report,
        )
    finally:
        torch.set_num_threads(threads)
    return model, history, network


def save_checkpoint(
    model: MultilayerPerceptron, settings: Mapping[str, Any], path: Path
) -> None:
    """Write the weights and the settings that made them; the file at `path` is complete
    at any moment.
    """
    checkpoint = {"settings": dict(settings), "weights": model.state_dict()}
    content = io.BytesIO()
    torch.save(checkpoint, content)
    with script.replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())


def read_checkpoint(path: str | Path) -> tuple[MultilayerPerceptron, dict[str, Any]]:
    """Return the trained network of a checkpoint, on the CPU, in evaluation mode, and
    the settings that made it.

    The file is read without running any code from it. Raises `Failure`, a ValueError,
    when it is missing, damaged, no checkpoint or that of a network of other sizes.
    """
    model = MultilayerPerceptron()
    layers = layer_sizes(model)
    stored_layers = layers
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        settings = checkpoint["settings"]
        stored_layers = settings.get("layers", layers)
        model.load_state_dict(checkpoint["weights"])
    except Exception as error:  # PyTorch raises errors of many types
        reason = f"is missing, damaged or no checkpoint ({type(error).__name__})"
        if stored_layers != layers:
            reason = f"was trained with {stored_layers}, this file defines {layers}"
        advice = f"python task3.py --checkpoint {path} trains another"
        advice += " (in a notebook, restart the kernel to import what has changed)"
        raise Failure(f"{path} {reason}; {advice}") from error
    return model.eval(), settings


def load_checkpoint(path: str | Path) -> MultilayerPerceptron:
    """Return the trained network of a checkpoint, as `read_checkpoint` does."""
    return read_checkpoint(path)[0]


def most_confused(matrix: np.ndarray) -> list[dict[str, Any]]:
    """Return the two pairs of classes that a confusion matrix [10, 10] confuses most,
    and those that have as many errors as the second; none without errors.
    """
    pairs = confused_pairs(matrix)
    least = max(pairs[1]["images"], 1)
    return [pair for pair in pairs if pair["images"] >= least]


@styled
def training_figure(
    history: Mapping[str, Sequence[float]], matrix: np.ndarray
) -> Figure:
    """Draw loss and accuracy over the epochs, and a confusion matrix [10, 10] (3.3)."""
    figure, panels = plt.subplot_mosaic(
        [["loss", "matrix"], ["accuracy", "matrix"]],
        figsize=(PAGE_WIDTH, 2.9),
        width_ratios=(1, 1.5),
    )
    figure.get_layout_engine().set(wspace=0.05)
    loss = panels["loss"]
    accuracy = panels["accuracy"]
    plotting.draw_history(loss, history, "loss", digits=3)
    plotting.draw_history(accuracy, history, "accuracy", digits=1)
    loss.set(ylabel="loss (nats)", ylim=(0, 1.05 * loss.get_ylim()[1]))
    accuracy.set_ylabel("accuracy (%)")
    accuracy.margins(y=0.15)
    loss.sharex(accuracy)
    loss.label_outer()
    if len(history["test_accuracy"]) >= 5:
        loss.axvline(5, **GUIDE)
        accuracy.axvline(5, **GUIDE)
        accuracy.annotate(
            f"epoch 5:\n{history['test_accuracy'][4]:.1f} %",
            (5, 0),
            xycoords=("data", "axes fraction"),
            xytext=(3, 3),
            textcoords="offset points",
            color=SPLIT_COLOURS["test"],
        )
    draw_confusion(panels["matrix"], matrix)
    return figure


def draw_confusion(axes: Axes, matrix: np.ndarray) -> None:
    """Draw a confusion matrix [10, 10]: the more errors, the darker; the recall of each
    class at the right.
    """
    errors = np.where(np.eye(10), 0, matrix)
    colours = plt.get_cmap("Greys")(0.9 * errors / max(errors.max(), 1))  # [10, 10, 4]
    axes.imshow(colours)
    for (row, column), count in np.ndenumerate(matrix):
        colour = plotting.text_colour(colours[row, column])
        text = str(count) if count else ""
        axes.text(column, row, text, color=colour, fontsize=6, ha="center", va="center")
    axes.set_title("darker: more errors", loc="left", fontsize=7)
    axes.text(9.8, -0.8, "recall (%)", fontsize=7, va="center")
    for row, share in enumerate(recall(matrix)):
        text = "" if share is None else f"{share:.1f}"
        axes.text(9.8, row, text, fontsize=7, va="center")
    axes.set(xticks=range(10), yticks=range(10))
    axes.set(xlabel="predicted digit", ylabel="true digit")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


@styled
def errors_figure(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray
) -> Figure:
    """Draw wrongly classified images [N, 28, 28] with their labels [N], the network's
    answers and their probabilities [N, 10] (3.3).
    """
    titles = []
    for label, row in zip(labels, probabilities, strict=True):
        titles.append(f"{label} → {row.argmax()}\n{100 * row.max():.1f} %")
    return plotting.image_grid(
        [images], titles, heading="label → answer\nprobability", size=(PAGE_WIDTH, 0.9)
    )


def main(options: argparse.Namespace) -> None:
    """Answer 3.3 with the network of 3.1 and the accuracy of 3.2."""
    train_images = load_data(train=True, data_dir=options.data_dir)
    test_images = load_data(train=False, data_dir=options.data_dir)
    train_data = convert_mnist_to_vectors(train_images)
    test_data = convert_mnist_to_vectors(test_images)
    data = {"train": digest(train_images), "test": digest(test_images)}
    settings = {
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "learning_rate": options.learning_rate,
    }
    model, history, network = train_and_save(
        train_data, test_data, options, settings, data["train"]
    )
    seconds = history.pop("seconds")
    device = next(model.parameters()).device

    probabilities = predict_probabilities(model, test_data.vectors)
    predicted = probabilities.argmax(axis=1)
    matrix = confusion_matrix(test_data.labels, predicted, labels=range(10))
    wrong = np.flatnonzero(predicted != test_data.labels)
    confidence = probabilities[wrong].max(axis=1)
    surest = wrong[np.argsort(-confidence, kind="stable")[:10]]

    figure = training_figure(history, matrix)
    plotting.save_figure(figure, options.figures, "task3_training")
    figure = errors_figure(
        test_images.images[surest], test_images.labels[surest], probabilities[surest]
    )
    plotting.save_figure(figure, options.figures, "task3_errors")
    results = {
        "data": data,
        "network": network,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "history": history,
        "confused_pairs": most_confused(matrix),
        "shown_errors": len(surest),
        "timing": {
            "seconds_per_epoch": float(np.median(seconds)),
            "device": str(device),
        },
    }
    script.save_results(options, "task3", results)
    print(f"network stored in {options.checkpoint}")
    print(f"written to {options.figures}: task3_*.png, task3_*.svg, task3.json")
    print(script.finding(history["test_accuracy"][-1], test_data.labels))


if __name__ == "__main__":
    parser = script.script_parser(__doc__, data=True, model=True)
    script.add_training_flags(parser, EPOCHS, BATCH_SIZE, LEARNING_RATE)
    script.run(main, script.parse(parser))
