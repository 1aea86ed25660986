"""Task 3 · A multilayer perceptron of five layers in PyTorch, trained and validated on
MNIST.

Answers 3.1 to 3.3 of the sheet: ten epochs reach about 97 % in half a minute on two
cores. Writes figures/task3_*, figures/task3.json and the checkpoint for task 4.
"""

import argparse
import inspect
import io
import json
import sys
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import confusion_matrix
from torch import nn
from tqdm import tqdm

from common import plotting, script
from common.data import Vectors, convert_mnist_to_vectors, digest, load_data
from common.plotting import GUIDE, PAGE_WIDTH, SPLIT_COLOURS, Axes, Figure, plt, styled
from common.script import Failure, check_labels, check_shape
from common.separation import accuracy_per_class, confused_pairs

EPOCHS = 10
BATCH_SIZE = 16
LEARNING_RATE = 1e-4
OPTIMIZER = torch.optim.Adam
DEFAULTS = {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "learning_rate": LEARNING_RATE}
WARM_UP = 3  # steps before one is recorded on CUDA
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
        self.layers = nn.Sequential(*layers, nn.Linear(size_hidden, size_out))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Map MNIST vectors [N, 784] to logits [N, size_out]."""
        return self.layers(vectors)

    def sizes(self) -> list[int]:
        """Return the number of inputs, and of the outputs of each linear layer."""
        return [
            784,
            *(
                layer.out_features
                for layer in self.layers
                if isinstance(layer, nn.Linear)
            ),
        ]


def class_label(prediction: torch.Tensor) -> torch.Tensor:
    """Return the most likely class [N] of each row of logits [N, C]."""
    check_shape(prediction, "N", "C")
    return prediction.argmax(1)


def batch_accuracy(prediction: torch.Tensor, label: torch.Tensor) -> float:
    """Return the accuracy of logits [N, C] for labels [N] in per cent, 0 to 100 (3.2);
    raise ValueError if N is 0.
    """
    predicted = class_label(prediction)
    check_shape(label, len(predicted))
    return 100 * (predicted == label).sum().item() / len(label)


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
    """Train with Adam and cross-entropy on the model's device, and validate on the test
    split after every epoch (3.3).

    Returns, per epoch, `test_loss` and `test_accuracy` (per cent), `train_loss` and
    `train_accuracy` on as many train images as there are test images, and the `seconds`
    of training and validation; `report` is called after every epoch. Raises `Failure`
    when a loss is not finite, ValueError for data other than vectors [N, 784] and
    labels [N].
    """
    device = next(model.parameters()).device
    vectors, labels = tensors(train_data, device)
    test = tensors(test_data, device)
    splits = {"train": (vectors[: len(test[1])], labels[: len(test[1])]), "test": test}
    generator = torch.Generator().manual_seed(seed)
    on_gpu = device.type == "cuda"
    flags = {
        "fused": True,
        "capturable": on_gpu,
    }  # the latter counts the steps on the GPU, as recording needs
    known = flags.keys() & inspect.signature(OPTIMIZER).parameters
    optimizer = OPTIMIZER(
        model.parameters(), lr=learning_rate, **{name: flags[name] for name in known}
    )
    criterion = nn.CrossEntropyLoss()

    def step(batch: torch.Tensor) -> torch.Tensor:
        """Learn from the images with these indices [B]; return their loss before the
        step.
        """
        images = (
            vectors[batch] if on_gpu else vectors.index_select(0, batch)
        )  # the faster way on each device
        loss = criterion(model(images), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    take_step = recorded(step) if on_gpu else step
    history: History = {
        name: []
        for name in (
            "train_loss",
            "train_accuracy",
            "test_loss",
            "test_accuracy",
            "seconds",
        )
    }
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        order = torch.randperm(len(labels), generator=generator).to(device)
        batches = tqdm(
            order.split(batch_size), f"epoch {epoch}", leave=False, disable=None
        )
        losses = [take_step(batch) for batch in batches]
        for split, (images, classes) in splits.items():
            with torch.no_grad():
                logits = model(images)
            losses.append(criterion(logits, classes))
            history[f"{split}_loss"].append(losses[-1].item())
            history[f"{split}_accuracy"].append(batch_accuracy(logits, classes))
        finite = torch.stack(
            losses
        ).isfinite()  # checked once per epoch: each check waits for the GPU
        if not finite.all():
            number = min(finite.tolist().index(False) + 1, len(losses) - 2)
            raise Failure(
                f"the loss is not finite in epoch {epoch}, step {number}; take a smaller --learning-rate"
            )
        history["seconds"].append(time.perf_counter() - start)
        report(epoch, history)
    return history


def tensors(data: Vectors, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return vectors [N, 784] and labels [N] as tensors on the device; raise ValueError
    for anything else.
    """
    vectors, labels = map(np.asarray, data)
    check_shape(vectors, "N", 784)
    check_labels(labels, len(vectors), 10)
    return torch.as_tensor(
        vectors, dtype=torch.float32, device=device
    ), torch.as_tensor(labels).long().to(device)


def recorded(
    step: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return `step`, which maps the indices of a batch [B] to its loss, replayed as a
    CUDA graph after a few calls.

    A step is some 45 kernels of microseconds, which Python launches one by one and a
    graph all at once. A graph uses the same memory every time, so the batch is copied
    to where it was recorded. The first steps and batches of another size run without
    the graph, and so do all steps if recording fails.
    """
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    calls, buffer, loss = 0, torch.empty(0), torch.empty(0)

    def run(batch: torch.Tensor) -> torch.Tensor:
        usual = torch.backends.cuda.preferred_blas_library()
        torch.backends.cuda.preferred_blas_library(
            "cublaslt"
        )  # its float32 products are the fastest for few rows
        try:
            return step(batch)
        finally:
            torch.backends.cuda.preferred_blas_library(usual)

    def call(batch: torch.Tensor) -> torch.Tensor:
        nonlocal calls, buffer, loss
        calls += 1
        if calls <= WARM_UP:  # on a separate stream, as CUDA requires
            buffer = buffer if calls > 1 else batch.clone()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                result = run(batch)
            torch.cuda.current_stream().wait_stream(stream)
            return result
        if not loss.numel() and batch.shape == buffer.shape:
            try:
                with torch.cuda.graph(
                    graph
                ):  # this runs nothing: the replay below is the step
                    loss = run(buffer)
            except RuntimeError as error:
                buffer, reason = (
                    torch.empty(0),
                    str(error).partition("\n")[0],
                )  # no batch has this shape
                print(
                    f"CUDA cannot record a training step ({reason}); training continues without it",
                    file=sys.stderr,
                )
        if batch.shape != buffer.shape:
            return run(batch)
        buffer.copy_(batch)
        graph.replay()
        return loss.clone()

    return call


@torch.no_grad()
def predict_probabilities(model: nn.Module, vectors: np.ndarray) -> np.ndarray:
    """Return the network's probability of each class, float32 [N, 10], for vectors [N,
    784] of any real dtype.
    """
    check_shape(vectors, "N", 784)
    device = next(model.parameters()).device
    return (
        model(torch.as_tensor(vectors, dtype=torch.float32).to(device))
        .softmax(dim=1)
        .cpu()
        .numpy()
    )


def train_and_save(
    train_data: Vectors,
    test_data: Vectors,
    options: argparse.Namespace,
    settings: Mapping[str, Any],
    data: str,
) -> tuple[MultilayerPerceptron, History, dict[str, Any]]:
    """Train a new network with the seed and on the device of the flags, and save it to
    their checkpoint.

    `settings` has the keys of `DEFAULTS`, `data` is the digest of the train split.
    After every epoch a line is printed and the checkpoint saved, so that an
    interruption loses one epoch at most. Returns also what the checkpoint tells of the
    network.
    """
    # Batches of 16 are too small to share: a second thread makes a step slower, and
    # hundreds of times slower where two
    # programs share two cores and wait for each other's threads.
    torch.set_num_threads(1)
    script.make_writable(options.checkpoint.parent)
    device = script.choose_device(options.device)
    torch.manual_seed(options.seed)
    model = MultilayerPerceptron().to(device)
    network = {
        **settings,
        "optimizer": OPTIMIZER.__name__,
        "layers": model.sizes(),
        "seed": options.seed,
        "data": data,
    }
    count = min(len(train_data.labels), len(test_data.labels))
    print(f"training on {device}; train values are those of the first {count:,} images")
    print(" epoch  train loss  accuracy  test loss  accuracy  seconds", flush=True)

    def report(epoch: int, history: History) -> None:
        row = "{train_loss:12.3f}{train_accuracy:8.2f} %{test_loss:11.3f}{test_accuracy:8.2f} %{seconds:9.2f}"
        number = f"{epoch}/{settings['epochs']}"
        tqdm.write(
            f"{number:>6}"
            + row.format(**{name: values[-1] for name, values in history.items()})
        )
        save_checkpoint(model, {**network, "epochs": epoch}, options.checkpoint)

    history = train(
        model, train_data, test_data, **settings, seed=options.seed, report=report
    )
    return model, history, network


def save_checkpoint(
    model: MultilayerPerceptron, settings: Mapping[str, Any], path: Path
) -> None:
    """Write the weights and the settings that made them; the file at `path` is complete
    at any moment.
    """
    content = io.BytesIO()
    torch.save({"settings": dict(settings), "weights": model.state_dict()}, content)
    with script.replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())


def read_checkpoint(path: str | Path) -> tuple[MultilayerPerceptron, dict[str, Any]]:
    """Return the trained network of a checkpoint, on the CPU, in evaluation mode, and
    the settings that made it.

    The file is read without running any code from it. Raises `Failure`, a ValueError,
    when it is missing, damaged or not a checkpoint of this network, and PermissionError
    when it may not be read.
    """
    model = MultilayerPerceptron()
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip():
                raise ValueError("wrong checksum")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(checkpoint["weights"])
        settings = json.loads(json.dumps(dict(checkpoint["settings"]), allow_nan=False))
        if not all(weights.isfinite().all() for weights in model.parameters()):
            raise ValueError("weights that are not finite")
    except FileNotFoundError as error:
        raise Failure(
            f"there is no checkpoint {path}; run python task3.py --checkpoint {path} first"
        ) from error
    except PermissionError:
        raise
    except Exception as error:  # zipfile, torch and json raise errors of many types
        advice = f"make a new one with python task3.py --checkpoint {path}"
        raise Failure(
            f"{path} is damaged or not a checkpoint of this network; {advice}"
        ) from error
    return model.eval(), settings


def load_checkpoint(path: str | Path) -> MultilayerPerceptron:
    """Return the trained network of a checkpoint, as `read_checkpoint` does."""
    return read_checkpoint(path)[0]


@styled
def training_figure(
    history: Mapping[str, Sequence[float]],
    matrix: np.ndarray,
    pairs: Sequence[Mapping[str, Any]],
) -> Figure:
    """Draw loss and accuracy over the epochs, and the confusion matrix with its three
    most confused pairs (3.3).
    """
    places = [["loss", "matrix"], ["accuracy", "matrix"]]
    figure, panels = plt.subplot_mosaic(
        places, figsize=(PAGE_WIDTH, 2.9), width_ratios=(1, 1.5)
    )
    figure.get_layout_engine().set(wspace=0.05)
    loss, accuracy = panels["loss"], panels["accuracy"]
    plotting.draw_history(loss, history, "loss", digits=3)
    plotting.draw_history(accuracy, history, "accuracy", digits=1)
    loss.set(ylabel="loss", ylim=(0, 1.05 * loss.get_ylim()[1]))
    accuracy.set_ylabel("accuracy (%)")
    accuracy.margins(y=0.15)
    loss.sharex(accuracy)
    loss.label_outer()
    if len(history["test_accuracy"]) >= 5:
        for axes in (loss, accuracy):
            axes.axvline(5, **GUIDE)
        place = {
            "xycoords": ("data", "axes fraction"),
            "xytext": (3, 3),
            "textcoords": "offset points",
        }
        text = f"epoch 5:\n{history['test_accuracy'][4]:.1f} %"
        accuracy.annotate(text, (5, 0), color=SPLIT_COLOURS["test"], **place)
    draw_confusion(panels["matrix"], matrix, [pair["classes"] for pair in pairs[:3]])
    return figure


def draw_confusion(
    axes: Axes, matrix: np.ndarray, pairs: Sequence[tuple[int, int]]
) -> None:
    """Draw a confusion matrix [10, 10]: errors tinted, the named pairs boxed, the
    recall of each class at the right.
    """
    errors = np.where(np.eye(10), 0, matrix)
    colours = plt.get_cmap("Oranges")(
        0.1 + 0.85 * errors / errors.max(initial=1)
    )  # [10, 10, 4]
    colours[matrix == 0], colours[np.eye(10, dtype=bool)] = 1, (0.9, 0.9, 0.9, 1)
    axes.imshow(colours)
    for (row, column), count in np.ndenumerate(matrix):
        colour = "0.4" if row == column else plotting.text_colour(colours[row, column])
        axes.text(
            column,
            row,
            str(count or ""),
            color=colour,
            fontsize=6.5,
            ha="center",
            va="center",
        )
    for corner in [corner for pair in pairs for corner in (pair, pair[::-1])]:
        axes.add_patch(
            plt.Rectangle(
                np.subtract(corner, 0.5), 1, 1, fill=False, linewidth=1.2, clip_on=False
            )
        )
    for row, recall in enumerate(accuracy_per_class(matrix)):
        axes.text(
            9.8, row, "" if recall is None else f"{recall:.1f}", fontsize=7, va="center"
        )
    axes.text(9.8, -0.8, "recall (%)", fontsize=7, va="center")
    axes.set(
        xticks=range(10),
        yticks=range(10),
        xlabel="predicted digit",
        ylabel="true digit",
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def main(options: argparse.Namespace) -> None:
    """Answer 3.3 with the network of 3.1 and the accuracy of 3.2."""
    train_images, test_images = (
        load_data(train=split, data_dir=options.data_dir) for split in (True, False)
    )
    train_data, test_data = (
        convert_mnist_to_vectors(train_images),
        convert_mnist_to_vectors(test_images),
    )
    settings = {name: getattr(options, name) for name in DEFAULTS}
    data = {"train": digest(train_images), "test": digest(test_images)}
    model, history, network = train_and_save(
        train_data, test_data, options, settings, data["train"]
    )
    seconds, device = history.pop("seconds"), next(model.parameters()).device

    probabilities = predict_probabilities(model, test_data.vectors)
    predicted = probabilities.argmax(axis=1)
    matrix = confusion_matrix(test_data.labels, predicted, labels=range(10))
    pairs = confused_pairs(matrix)
    wrong = np.flatnonzero(predicted != test_data.labels)
    surest = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")[:10]]
    titles = [
        f"{test_data.labels[k]} → {predicted[k]}\n{100 * probabilities[k].max():.1f} %"
        for k in surest
    ]

    plotting.save_figure(
        training_figure(history, matrix, pairs), options.figures, "task3_training"
    )
    heading = "label → answer\nprobability"
    figure = plotting.image_grid(
        [test_images.images[surest]], titles, heading=heading, size=(PAGE_WIDTH, 0.9)
    )
    plotting.save_figure(figure, options.figures, "task3_errors")
    results = {
        "data": data,
        "network": network,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "history": history,
        "confused_pairs": pairs,
        "shown_errors": len(surest),
        "timing": {
            "seconds_per_epoch": float(np.median(seconds)),
            "device": str(device),
        },
    }
    script.save_results(options, "task3", results)
    print(f"network stored in {options.checkpoint}")
    print(f"written to {options.figures}: task3_*.png, task3_*.svg, task3.json")


if __name__ == "__main__":
    parser = script.script_parser(__doc__, data=True, model=True)
    script.add_training_flags(parser, **DEFAULTS)
    script.run(main, script.parse(parser))
