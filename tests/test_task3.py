"""The PyTorch network: its shape, the accuracy, training, and the results that describe them."""

import argparse
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import task3
from common.checks import Failure
from common.data import Vectors, convert_mnist_to_vectors, digest, load_data
from task3 import (
    MultilayerPerceptron,
    batch_accuracy,
    class_label,
    load_checkpoint,
    predict_probabilities,
    time_large_batches,
    train,
)

pytestmark = pytest.mark.usefixtures("same_threads")
CLOSE = {"rtol": 1e-4, "atol": 1e-6}  # of single precision, over a few steps


def new_network(seed=3):
    torch.manual_seed(seed)
    return MultilayerPerceptron()


def blobs(count, seed=0, spread=1.0):
    """Ten classes around centres of their own, as vectors."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    centres = np.random.default_rng(99).normal(size=(10, 784))
    return Vectors((centres[labels] + spread * rng.normal(size=(count, 784))).astype(np.float32), labels)


# 3.1 The network


def test_the_network_has_five_linear_layers_and_four_relus():
    model = MultilayerPerceptron()
    shapes = [tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert shapes == [(100, 784), (100, 100), (100, 100), (100, 100), (10, 100)]
    assert sum(isinstance(layer, nn.ReLU) for layer in model.modules()) == 4
    assert sum(parameter.numel() for parameter in model.parameters()) == 109_810


def test_the_network_gives_logits_of_either_sign():
    logits = new_network()(torch.randn(7, 784))
    assert logits.shape == (7, 10)
    assert (logits < 0).any()
    assert (logits > 0).any()


# 3.2 The accuracy


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 3), (3, 3), (17, 40)])
def test_accuracy_is_the_percentage_of_right_labels(right, count):
    labels = torch.arange(count) % 10
    predicted = torch.where(torch.arange(count) < right, labels, (labels + 1) % 10)
    logits = nn.functional.one_hot(predicted, 10).float()
    assert torch.equal(class_label(logits), predicted)
    accuracy = batch_accuracy(logits, labels)
    assert isinstance(accuracy, float)
    assert accuracy == pytest.approx(100 * right / count)


@pytest.mark.parametrize(("rows", "labels"), [(0, 0), (3, 2)])
def test_accuracy_refuses_empty_and_unequal_batches(rows, labels):
    with pytest.raises(ValueError, match="expected"):
        batch_accuracy(torch.zeros(rows, 10), torch.zeros(labels, dtype=torch.long))


def test_predictions_are_the_largest_logits_for_any_real_dtype():
    model = new_network()
    vectors = np.random.default_rng(0).integers(-1, 2, (40, 784)) * 50
    expected = model(torch.tensor(vectors, dtype=torch.float32)).argmax(1).numpy()
    assert len(set(expected)) > 1
    for dtype in (np.float32, np.float64, np.int64, np.int8):
        predicted = predict_probabilities(model, vectors.astype(dtype)).argmax(axis=1)
        assert predicted.dtype == np.int64
        assert np.array_equal(predicted, expected)


def test_probabilities_are_the_softmax_of_the_logits():
    model, vectors = new_network(), blobs(30).vectors
    probabilities = predict_probabilities(model, vectors)
    logits = model(torch.from_numpy(vectors)).detach().numpy()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, **CLOSE)
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), **CLOSE)


# 3.3 Training


def test_training_learns_and_repeats_itself():
    histories = []
    for _ in range(2):
        history = train(new_network(), blobs(320), blobs(100, 1), epochs=3, learning_rate=1e-3)
        assert min(history.pop("seconds")) > 0
        histories.append(history)
    assert histories[0] == histories[1]
    assert {len(values) for values in histories[0].values()} == {3}
    assert histories[0]["test_accuracy"][-1] > 95


def plain_loop(model, data, epochs, batch_size, learning_rate, seed):
    """The training that the sheet asks for, written without regard to speed."""
    vectors, labels = torch.from_numpy(data.vectors), torch.from_numpy(data.labels)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=False, foreach=False)
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=generator)
        for start in range(0, len(labels), batch_size):
            batch = order[start : start + batch_size]
            optimizer.zero_grad()
            nn.CrossEntropyLoss()(model(vectors[batch]), labels[batch]).backward()
            optimizer.step()


@pytest.mark.parametrize(("count", "batch_size"), [(64, 16), (70, 16), (9, 100)])
def test_training_gives_what_the_plain_loop_gives(count, batch_size):
    models = [new_network(), new_network()]
    data = blobs(count)
    train(models[0], data, blobs(20, 1), 3, batch_size, learning_rate=1e-3, seed=5)
    plain_loop(models[1], data, 3, batch_size, learning_rate=1e-3, seed=5)
    for ours, plain in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, plain, **CLOSE)


@pytest.mark.parametrize("test_count", [30, 100], ids=["fewer test images", "more test images"])
def test_the_history_is_of_all_test_images_and_of_as_many_train_images(test_count):
    splits = {"train": blobs(64, spread=4), "test": blobs(test_count, 1, spread=4)}
    sizes = {"train": min(64, test_count), "test": test_count}
    model, reported = new_network(), []

    def compare(epoch, history):
        for split, data in splits.items():
            vectors, labels = (torch.from_numpy(array[: sizes[split]]) for array in data)
            logits = model(vectors).detach()
            log_probabilities = logits - logits.logsumexp(1, keepdim=True)
            loss = -log_probabilities[torch.arange(len(labels)), labels].mean().item()
            assert history[f"{split}_loss"][epoch - 1] == pytest.approx(loss, rel=CLOSE["rtol"])
            right = (logits.argmax(1) == labels).float().mean().item()
            assert history[f"{split}_accuracy"][epoch - 1] == pytest.approx(100 * right, rel=CLOSE["rtol"])
        reported.append(epoch)

    train(model, *splits.values(), epochs=2, learning_rate=1e-3, report=compare)
    assert reported == [1, 2]


def test_training_leaves_the_number_of_threads_alone():
    torch.set_num_threads(2)
    train(new_network(), blobs(20), blobs(20), epochs=1)
    assert torch.get_num_threads() == 2


class Breaks(nn.Module):
    """A network whose output is not finite when it is called for the `broken`-th time."""

    def __init__(self, broken):
        super().__init__()
        self.layer, self.broken, self.calls = nn.Linear(784, 10), broken, 0

    def forward(self, vectors):
        self.calls += 1
        return self.layer(vectors) * (math.nan if self.calls == self.broken else 1)


# An epoch of 50 images in batches of 16 has four steps, and then validates on the train images and on the test images.
@pytest.mark.parametrize(
    ("broken", "epoch", "step"), [(1, 1, 1), (3, 1, 3), (4, 1, 4), (5, 1, 4), (6, 1, 4), (7, 2, 1), (9, 2, 3)]
)
def test_divergence_is_named_by_its_epoch_and_step(broken, epoch, step):
    with pytest.raises(Failure, match=rf"epoch {epoch}, step {step};.*--learning-rate"):
        train(Breaks(broken), blobs(50), blobs(20, 1), epochs=3)


def test_large_batches_are_timed_for_one_epoch_of_a_new_network(monkeypatch):
    def record(model, train_data, test_data, epochs, batch_size):
        timed.append((model, train_data, test_data, epochs, batch_size))
        return {"seconds": [2.5]}

    timed, splits = [], (blobs(20), blobs(10, 1))
    monkeypatch.setattr(task3, "train", record)
    assert time_large_batches(torch.device("cpu"), *splits) == 2.5
    ((model, *arguments),) = timed
    assert isinstance(model, MultilayerPerceptron)
    assert arguments == [*splits, 1, 256]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_training_on_cuda_gives_what_the_cpu_gives():
    models, histories = [], []
    for device in ("cpu", "cuda"):
        models.append(new_network().to(device))
        histories.append(train(models[-1], blobs(70), blobs(40, 1), epochs=2, learning_rate=1e-3))
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, theirs.cpu(), rtol=1e-2, atol=1e-4)
    assert histories[0]["test_loss"] == pytest.approx(histories[1]["test_loss"], rel=1e-3)
    vectors = blobs(40, 2).vectors
    np.testing.assert_allclose(*(predict_probabilities(model, vectors) for model in models), atol=1e-3)


# The results


@pytest.fixture(scope="module")
def answered(small_mnist, tmp_path_factory):
    """The results of task 3 on small data, its network, and the wrong images with the titles that it shows."""
    folder, shown = tmp_path_factory.mktemp("task3"), []
    settings = {"epochs": 3, "batch_size": 16, "learning_rate": 1e-3}
    paths = {"data_dir": small_mnist, "figures": folder, "checkpoint": folder / "mlp.pt"}
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task3, "train", lambda *data, **flags: {**train(*data, **flags), "seconds": [9.0, 1.0, 2.5]})
        patch.setattr(task3, "time_large_batches", lambda device, train_data, test_data: 0.125)
        patch.setattr(task3, "training_figure", lambda history, matrix, pairs: None)
        patch.setattr(task3, "image_grid", lambda rows, titles, size: shown.extend((rows[0], titles)))
        patch.setattr(task3, "save_figure", lambda figure, folder, name: None)
        task3.main(argparse.Namespace(seed=1, device="cpu", **paths, **settings))
    torch.set_num_threads(threads)
    results = json.loads((folder / "task3.json").read_text(encoding="utf-8"))
    return results, load_checkpoint(folder / "mlp.pt"), *shown


def test_the_results_name_the_network_of_the_checkpoint_and_both_data_sets(answered, small_mnist):
    results, network, *_ = answered
    train_digest, test_digest = (digest(load_data(split, small_mnist)) for split in (True, False))
    settings = {"epochs": 3, "batch_size": 16, "learning_rate": 1e-3, "seed": 1, "data": train_digest}
    assert results["network"] == network.settings == settings
    assert results["data"] == {"train": train_digest, "test": test_digest}
    assert results["parameters"] == 109_810


def test_the_timing_is_the_median_epoch_beside_one_of_large_batches(answered):
    timing = {"seconds_per_epoch": 2.5, "seconds_large_batches": 0.125, "large_batch": 256, "device": "cpu"}
    assert answered[0]["timing"] == timing
    assert "seconds" not in answered[0]["history"]


def test_the_results_confuse_what_the_network_of_the_checkpoint_confuses(answered, small_mnist):
    results, network, *_ = answered
    vectors, labels = convert_mnist_to_vectors(load_data(False, small_mnist))
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, (labels, predict_probabilities(network, vectors).argmax(axis=1)), 1)
    assert results["confusion"] == matrix.tolist()
    assert results["history"]["test_accuracy"][-1] == pytest.approx(100 * np.trace(matrix) / 300)
    assert results["accuracy_per_class"][4] == pytest.approx(100 * matrix[4, 4] / (labels == 4).sum())
    first, second = results["confused_pairs"][0]["classes"]
    assert results["confused_pairs"][0]["images"] == matrix[first, second] + matrix[second, first]


def test_the_surest_errors_are_shown_surest_first(answered, small_mnist):
    _, network, shown, titles = answered
    data = load_data(False, small_mnist)
    probabilities = predict_probabilities(network, convert_mnist_to_vectors(data).vectors)
    errors = sorted(
        (-row.max(), f"{label} → {row.argmax()}", image.tobytes())
        for row, label, image in zip(probabilities, data.labels, data.images, strict=True)
        if row.argmax() != label
    )
    assert len(errors) > 10
    assert list(titles) == [title for _, title, _ in errors[:10]]
    assert [image.tobytes() for image in shown] == [image for _, _, image in errors[:10]]


def test_the_figure_of_the_training_names_accuracies_recalls_and_the_three_first_pairs():
    history = {name: [0.5, 0.4, 0.3, 0.2, 0.1] for name in ("train_loss", "test_loss", "train_accuracy")}
    matrix = np.diag([8] * 9 + [0])
    matrix[3, 5] = 2
    pairs = [{"classes": list(pair)} for pair in ((3, 5), (1, 2), (0, 9), (6, 7))]
    figure = task3.training_figure({**history, "test_accuracy": [10, 20, 30, 40.4, 55.5]}, matrix, pairs)
    panels = {axes.get_ylabel(): axes for axes in figure.axes}
    assert "epoch 5:\n55.5 %" in {text.get_text() for text in panels["accuracy (%)"].texts}
    cells = {text.get_position(): text.get_text() for text in panels["true digit"].texts}
    assert (cells[5, 3], cells[3, 3], cells[3, 5]) == ("2", "8", "")  # column, row
    assert (cells[9.8, 3], cells[9.8, 0], cells[9.8, 9]) == ("80.0", "100.0", "")
    boxes = {tuple(np.add(box.get_xy(), 0.5)) for box in panels["true digit"].patches}
    assert boxes == {(3, 5), (5, 3), (1, 2), (2, 1), (0, 9), (9, 0)}
