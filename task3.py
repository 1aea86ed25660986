"""Task 3 · A multilayer perceptron of five layers in PyTorch, trained and validated on MNIST.

Answers 3.1 to 3.3 of the sheet; writes figures/task3_*.png, figures/task3.json and the checkpoint for task 4.
"""

from __future__ import annotations

import argparse
import io
import pickle
import time
from collections.abc import Callable
from pathlib import Path

from common.runtime import (
    Failure,
    choose_device,
    make_writable,
    parse,
    positive_float,
    positive_int,
    replacing,
    run,
    save_results,
    script_parser,
)


def parse_options() -> argparse.Namespace:
    """Parse the flags of task 3."""
    parser = script_parser(__doc__, data=True, model=True)
    parser.add_argument("--epochs", type=positive_int, default=10, help="passes over the training images")
    parser.add_argument("--batch-size", type=positive_int, default=16, help="images per step")
    parser.add_argument("--learning-rate", type=positive_float, default=1e-4, help="Adam's step size")
    return parse(parser)


options = parse_options() if __name__ == "__main__" else None  # --help does not wait for the slow imports below

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from common.checks import check_labels, check_shape
from common.confusion import confused_pairs, confusion_matrix
from common.data import Vectors, convert_mnist_to_vectors, load_data
from common.plotting import confusion_figure, loss_curves, save_figure

SPLITS = ("train", "test")
CHECKPOINT_VERSION = 1
# What torch.load raises for files that are not what they should be
DAMAGE = (pickle.UnpicklingError, RuntimeError, OSError, EOFError, AttributeError, LookupError, TypeError, ValueError)
History = dict[str, list[float]]

# 3.1 The network


class MultilayerPerceptron(nn.Module):
    """Five linear layers, 784 → 100 → 100 → 100 → 100 → 10, with a ReLU after each of the four hidden ones (3.1)."""

    def __init__(self, size_hidden: int = 100, size_out: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(784, size_hidden),
            nn.ReLU(),
            nn.Linear(size_hidden, size_hidden),
            nn.ReLU(),
            nn.Linear(size_hidden, size_hidden),
            nn.ReLU(),
            nn.Linear(size_hidden, size_hidden),
            nn.ReLU(),
            nn.Linear(size_hidden, size_out),
        )

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Map MNIST vectors [N, 784] to logits [N, size_out]."""
        return self.layers(vectors)


# 3.2 The accuracy


def class_label(prediction: torch.Tensor) -> torch.Tensor:
    """Return the most likely class [N] of each row of logits [N, C]."""
    check_shape(prediction, None, None)
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
    epochs: int = 10,
    batch_size: int = 16,
    learning_rate: float = 1e-4,
    seed: int = 0,
    report: Callable[[int, History], None] = lambda epoch, history: None,
) -> History:
    """Train with Adam and cross-entropy on the model's device, validating on the whole test split after every epoch.

    Returns, per epoch, `test_loss` and `test_accuracy`, `train_loss` and `train_accuracy` of as many training images,
    taken at the same moment, and the `seconds` of training and validation; `report` is called after every epoch.
    PyTorch is left with one thread. Raises `Failure` when the loss is no longer finite.
    """
    # Batches of 16 are too small to share: a second thread makes a step slower, and where two programs share two cores
    # and wait for each other's threads, slower by hundreds of times.
    torch.set_num_threads(1)
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
        check_finite(torch.stack(losses), epoch)
        for split, data in (("train", sample), ("test", test)):
            split_loss, accuracy = evaluate(model, *data)
            history[f"{split}_loss"].append(split_loss)
            history[f"{split}_accuracy"].append(accuracy)
        history["seconds"].append(time.perf_counter() - start)
        report(epoch, history)
    return history


def tensors(data: Vectors, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return vectors [N, 784] and labels [N] as tensors on the device; raise ValueError when they are not that."""
    check_shape(data.vectors, None, 784)
    check_labels(data.labels, len(data.vectors), 10)
    return torch.as_tensor(data.vectors).to(device), torch.as_tensor(data.labels).to(device)


def check_finite(losses: torch.Tensor, epoch: int) -> None:
    """Raise `Failure` with the first step of the epoch whose loss is not finite; one look per epoch, none per step."""
    broken = (~torch.isfinite(losses)).nonzero()
    if len(broken):
        step = broken[0].item() + 1
        raise Failure(f"the loss is not finite in epoch {epoch}, step {step}; take a smaller --learning-rate")


@torch.no_grad()
def evaluate(model: nn.Module, vectors: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Return the averaged cross-entropy and the accuracy in per cent on a whole split."""
    logits = model(vectors)
    return nn.functional.cross_entropy(logits, labels).item(), batch_accuracy(logits, labels)


@torch.no_grad()
def predict(model: nn.Module, vectors: np.ndarray) -> np.ndarray:
    """Return the classes int64 [N] that the network gives to vectors [N, 784]."""
    check_shape(vectors, None, 784)
    device = next(model.parameters()).device
    return class_label(model(torch.as_tensor(vectors).to(device))).cpu().numpy()


def train_and_save(
    train_data: Vectors,
    test_data: Vectors,
    options: argparse.Namespace,
    epochs: int = 10,
    batch_size: int = 16,
    learning_rate: float = 1e-4,
) -> tuple[MultilayerPerceptron, History]:
    """Train a new network with the seed, on the device and to the checkpoint that the flags name.

    After every epoch a line is printed and the checkpoint saved, so that an interruption loses one epoch at most.
    """
    make_writable(options.checkpoint.parent)
    torch.manual_seed(options.seed)
    model = MultilayerPerceptron().to(choose_device(options.device))

    def report(epoch: int, history: History) -> None:
        last = {name: values[-1] for name, values in history.items()}
        scores = (f"{split} loss {last[f'{split}_loss']:.4f}, {last[f'{split}_accuracy']:.2f} %" for split in SPLITS)
        tqdm.write(f"epoch {epoch:2}/{epochs}  {'  '.join(scores)}  {last['seconds']:.2f} s")
        settings = {"epochs": epoch, "batch_size": batch_size, "learning_rate": learning_rate, "seed": options.seed}
        save_checkpoint(model, settings, options.checkpoint)

    history = train(model, train_data, test_data, epochs, batch_size, learning_rate, options.seed, report)
    return model, history


def save_checkpoint(model: MultilayerPerceptron, settings: dict[str, float], path: Path) -> None:
    """Write the weights and the settings that made them; the file at `path` is whole at any moment."""
    checkpoint = {"version": CHECKPOINT_VERSION, "settings": settings, "weights": model.state_dict()}
    content = io.BytesIO()
    torch.save(checkpoint, content)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())


def load_checkpoint(path: str | Path) -> MultilayerPerceptron:
    """Return the trained network from a checkpoint of task 3, on the CPU, in evaluation mode.

    The file is read without running any code from it. Raises `Failure`, a ValueError, when it is not a checkpoint of
    this network.
    """
    model = MultilayerPerceptron()
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        version = checkpoint["version"]
        if version == CHECKPOINT_VERSION:
            model.load_state_dict(checkpoint["weights"])
    except FileNotFoundError as error:
        raise Failure(f"there is no checkpoint {path}; run python task3.py first") from error
    except DAMAGE as error:
        raise Failure(f"{path} is no checkpoint of this network; make a new one with python task3.py") from error
    if version != CHECKPOINT_VERSION:
        raise Failure(f"{path} is of version {version}, not {CHECKPOINT_VERSION}; make a new one with python task3.py")
    if not all(weights.isfinite().all() for weights in model.parameters()):
        raise Failure(f"{path} holds weights that are not finite; make a new one with python task3.py")
    return model.eval()


def main(options: argparse.Namespace) -> None:
    """Answer 3.3 with the pieces of 3.1 and 3.2."""
    train_data, test_data = (
        convert_mnist_to_vectors(load_data(train=split == "train", data_dir=options.data_dir)) for split in SPLITS
    )
    settings = {name: getattr(options, name) for name in ("epochs", "batch_size", "learning_rate")}
    model, history = train_and_save(train_data, test_data, options, **settings)
    matrix = confusion_matrix(test_data.labels, predict(model, test_data.vectors))
    seconds = history.pop("seconds")

    save_figure(loss_curves(history), options.figures / "task3_training.png")
    save_figure(confusion_figure(matrix), options.figures / "task3_confusion.png")
    results = {
        "settings": settings,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "history": history,
        "confusion": matrix.tolist(),
        "confused_pairs": confused_pairs(matrix),
        "timing": {"seconds_per_epoch": float(np.median(seconds)), "device": str(choose_device(options.device))},
    }
    save_results(options, "task3", results)


if __name__ == "__main__":
    run(main, options)
