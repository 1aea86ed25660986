"""The PyTorch network: its shape, the accuracy, training, the checkpoint, and the results that describe them."""

import argparse
import json
import math
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import task3
from common.checks import Failure
from common.data import Images, Vectors, convert_mnist_to_vectors, digest, load_data
from common.runtime import choose_device
from task3 import (
    DEFAULTS,
    MultilayerPerceptron,
    batch_accuracy,
    class_label,
    load_checkpoint,
    predict_probabilities,
    save_checkpoint,
    time_large_batches,
    train,
    train_and_save,
)

CPU, CUDA = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"  # the place of a tensor, pickled
CLOSE = {"rtol": 1e-4, "atol": 1e-6}  # of single precision, over a few steps


@pytest.fixture(autouse=True)
def same_threads():
    """Give back the number of threads, which training from the command line sets."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


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


# The checkpoint


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return Images(rng.integers(0, 256, (40, 28, 28), np.uint8), np.arange(40) % 10)


@pytest.fixture
def options(tmp_path):
    return argparse.Namespace(seed=7, device="cpu", checkpoint=tmp_path / "mlp.pt")


def test_a_checkpoint_restores_the_network_and_its_settings(tmp_path):
    model = new_network()
    model.settings = {"epochs": 3, "learning_rate": 0.1, "data": "abc"}
    save_checkpoint(model, tmp_path / "mlp.pt")
    restored = load_checkpoint(tmp_path / "mlp.pt")
    vectors = torch.randn(5, 784)
    assert torch.equal(restored(vectors), model(vectors))
    assert restored.settings == model.settings
    assert not restored.training
    assert [path.name for path in tmp_path.iterdir()] == ["mlp.pt"]


def test_the_checkpoint_says_how_and_on_what_its_network_was_trained(images, options, capsys):
    model, history = train_and_save(images, blobs(30), options, {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3})
    saved = load_checkpoint(options.checkpoint)
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "seed": 7, "data": digest(images)}
    assert saved.settings == model.settings == settings
    for ours, kept in zip(model.parameters(), saved.parameters(), strict=True):
        assert torch.equal(ours, kept)
    first, *epochs = capsys.readouterr().out.splitlines()
    assert first.startswith("device cpu; train loss and accuracy are of the first 30 train images")
    for line, number in zip(epochs, (1, 2), strict=True):
        assert line.startswith(f"epoch  {number}/2  train loss {history['train_loss'][number - 1]:.4f}")
        assert f"test loss {history['test_loss'][number - 1]:.4f}" in line


def test_of_fewer_train_images_than_test_images_all_are_named(images, options, capsys):
    train_and_save(images, blobs(50), options, DEFAULTS | {"epochs": 1})
    assert "of the first 40 train images" in capsys.readouterr().out


def test_training_from_the_command_line_follows_the_flags(images, options):
    model, _ = train_and_save(images, blobs(30), options, {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3})
    plain = new_network(options.seed)
    plain_loop(plain, convert_mnist_to_vectors(images), 2, 8, 1e-3, options.seed)
    for ours, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, **CLOSE)


def test_an_interruption_leaves_the_network_of_the_last_full_epoch(images, options, monkeypatch):
    def interrupt(epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        return permutation

    permutation, epochs = torch.arange(40), iter((1, 2))
    monkeypatch.setattr(torch, "randperm", lambda count, generator: interrupt(next(epochs)))
    with pytest.raises(KeyboardInterrupt):
        train_and_save(images, blobs(30), options, DEFAULTS | {"epochs": 3})
    assert load_checkpoint(options.checkpoint).settings["epochs"] == 1


@pytest.mark.parametrize("cause", ["one step that is far too large", "a test split that is not finite"])
def test_a_network_that_validates_to_no_number_never_replaces_a_checkpoint(cause, images, options):
    options.checkpoint.write_bytes(b"earlier")
    test_data, learning_rate = blobs(30), 1e-4
    if cause == "one step that is far too large":
        learning_rate = 1e30  # the loss of the only step is still finite
    else:
        test_data.vectors[29] = np.inf
    with pytest.raises(Failure, match="epoch 1, step 1; take a smaller"):
        train_and_save(images, test_data, options, DEFAULTS | {"batch_size": 40, "learning_rate": learning_rate})
    assert options.checkpoint.read_bytes() == b"earlier"


def test_a_checkpoint_made_on_cuda_is_loaded_without_it(tmp_path):
    model = new_network()
    save_checkpoint(model, tmp_path / "cpu.pt")
    with zipfile.ZipFile(tmp_path / "cpu.pt") as cpu, zipfile.ZipFile(tmp_path / "mlp.pt", "w") as cuda:
        for name in cpu.namelist():
            content = cpu.read(name)
            if name.endswith("data.pkl"):
                assert content.count(CPU) == 1
                content = content.replace(CPU, CUDA)
            cuda.writestr(name, content)
    restored = load_checkpoint(tmp_path / "mlp.pt")
    for ours, expected in zip(restored.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, expected)


class RunsCode:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from the checkpoint was run')",))


def checkpoint(drop=None, **changes):
    """The content of a checkpoint, with other weights or without an entry."""
    weights = {**MultilayerPerceptron().state_dict(), **changes}
    content = {"version": task3.CHECKPOINT_VERSION, "settings": {}, "weights": weights}
    for entries in (content, weights):
        entries.pop(drop, None)
    return content


NO_CHECKPOINT = "is not a checkpoint of this network"
CHECKPOINTS = {
    "missing": (None, "there is no checkpoint"),
    "empty": (b"", NO_CHECKPOINT),
    "random": (np.random.default_rng(0).bytes(5000), NO_CHECKPOINT),
    "code": (RunsCode(), NO_CHECKPOINT),
    "another object": ([1, 2], NO_CHECKPOINT),
    "another size": (checkpoint(**{"layers.0.weight": torch.ones(50, 784)}), NO_CHECKPOINT),
    "a layer missing": (checkpoint(drop="layers.8.bias"), NO_CHECKPOINT),
    "no settings": (checkpoint(drop="settings"), NO_CHECKPOINT),
    "another version": ({"version": 99, "weights": {}}, "is of version 99"),
    "not finite": (checkpoint(**{"layers.8.bias": torch.full((10,), math.nan)}), "are not finite"),
}


@pytest.mark.parametrize(("content", "message"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_what_is_no_checkpoint_of_the_network_is_refused(content, message, tmp_path):
    path = tmp_path / "mlp.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(Failure, match=rf"{message}.*python task3\.py"):
        load_checkpoint(path)


def test_a_checkpoint_that_may_not_be_read_is_not_called_something_else(tmp_path, monkeypatch):
    def refuse(path, **settings):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(PermissionError):
        load_checkpoint(tmp_path / "mlp.pt")


# The device


@pytest.fixture
def machine(monkeypatch):
    """Pretend that CUDA is not there, works, or fails in its first operation, as on cards that are too old."""

    def pretend(cuda):
        def ones(count, device):
            if device == "cuda" and cuda == "fails":
                raise RuntimeError("no kernel image is available\nFor debugging consider …")
            return torch.zeros(count) + 1

        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda != "missing")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        monkeypatch.setattr(torch, "ones", ones)

    return pretend


@pytest.mark.parametrize(
    ("cuda", "name", "expected"),
    [("works", "auto", "cuda"), ("works", "cuda", "cuda"), ("works", "cpu", "cpu"), ("missing", "auto", "cpu")],
)
def test_the_device_is_the_named_one_or_cuda_when_available(cuda, name, expected, machine, capsys):
    machine(cuda)
    assert choose_device(name).type == expected
    assert capsys.readouterr() == ("", "")


def test_where_cuda_fails_the_cpu_is_taken_and_one_line_says_so(machine, capsys):
    machine("fails")
    assert choose_device("auto").type == "cpu"
    output = capsys.readouterr()
    assert output == ("", "cuda does not work (no kernel image is available); computing on the CPU\n")


@pytest.mark.parametrize(
    ("cuda", "name", "message"),
    [
        ("missing", "cuda", "--device cuda: this machine or this PyTorch has none; use --device auto"),
        ("missing", "mps", "--device mps: this machine or this PyTorch has none; use --device auto"),
        ("fails", "cuda", r"--device cuda does not work \(no kernel image is available\); use --device cpu"),
    ],
)
def test_a_named_device_that_does_not_work_is_refused(cuda, name, message, machine):
    machine(cuda)
    with pytest.raises(Failure, match=f"^{message}$"):
        choose_device(name)


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


def test_after_the_fallback_the_network_trains_on_the_cpu(machine):
    machine("fails")
    model = MultilayerPerceptron().to(choose_device())
    train(model, blobs(32), blobs(8, 1), epochs=1)
    assert not torch.cuda.is_available()
