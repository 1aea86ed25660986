"""The PyTorch network: its shape, the accuracy, training and the checkpoint."""

import numpy as np
import pytest
import torch

from common.data import Vectors
from common.runtime import choose_device
from task3 import MultilayerPerceptron, batch_accuracy, class_label, load_checkpoint, save_checkpoint, train
from task4 import extract_features


def test_the_network_has_five_linear_layers_and_four_relus():
    model = MultilayerPerceptron()
    shapes = [tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    assert shapes == [(100, 784), (100, 100), (100, 100), (100, 100), (10, 100)]
    assert sum(isinstance(layer, torch.nn.ReLU) for layer in model.modules()) == 4
    assert sum(parameter.numel() for parameter in model.parameters()) == 109_810
    logits = model(torch.randn(7, 784))
    assert logits.shape == (7, 10)
    assert (logits < 0).any()


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 3), (3, 3), (17, 40)])
def test_accuracy_is_the_percentage_of_right_labels(right, count):
    labels = torch.arange(count) % 10
    predicted = torch.where(torch.arange(count) < right, labels, (labels + 1) % 10)
    logits = torch.nn.functional.one_hot(predicted, 10).float()
    assert torch.equal(class_label(logits), predicted)
    accuracy = batch_accuracy(logits, labels)
    assert isinstance(accuracy, float)
    assert accuracy == pytest.approx(100 * right / count)


@pytest.mark.parametrize(("rows", "labels"), [(0, 0), (3, 2)])
def test_accuracy_refuses_empty_and_unequal_batches(rows, labels):
    with pytest.raises(ValueError, match="expected"):
        batch_accuracy(torch.zeros(rows, 10), torch.zeros(labels, dtype=torch.long))


def blobs(count, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    centres = np.random.default_rng(99).normal(size=(10, 784))
    return Vectors((centres[labels] + rng.normal(size=(count, 784))).astype(np.float32), labels)


def test_training_learns_and_repeats_itself():
    histories = []
    for _ in range(2):
        torch.manual_seed(0)
        history = train(MultilayerPerceptron(), blobs(640), blobs(200, 1), epochs=3, learning_rate=1e-3)
        assert history.pop("seconds")
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
            torch.nn.CrossEntropyLoss()(model(vectors[batch]), labels[batch]).backward()
            optimizer.step()


@pytest.mark.parametrize(("count", "batch_size"), [(64, 16), (70, 16), (9, 100)])
def test_training_gives_what_the_plain_loop_gives(count, batch_size):
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(MultilayerPerceptron())
    data = blobs(count)
    train(models[0], data, blobs(20, 1), 3, batch_size, learning_rate=1e-3, seed=5)
    plain_loop(models[1], data, 3, batch_size, learning_rate=1e-3, seed=5)
    for ours, plain in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


def test_divergence_is_named_with_epoch_and_step():
    data = blobs(64)
    data.vectors[40] = np.inf
    with pytest.raises(ValueError, match=r"epoch 1, step [1-4];"):
        train(MultilayerPerceptron(), data, blobs(20, 1), epochs=2)


def test_a_checkpoint_restores_the_network(tmp_path):
    model = MultilayerPerceptron()
    save_checkpoint(model, {"epochs": 1}, tmp_path / "mlp.pt")
    vectors = torch.randn(5, 784)
    assert torch.equal(load_checkpoint(tmp_path / "mlp.pt")(vectors), model(vectors))
    assert [path.name for path in tmp_path.iterdir()] == ["mlp.pt"]


class RunsCode:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from the checkpoint was run')",))


@pytest.mark.parametrize("content", ["missing", "empty", "random", "code", "shapes", "version", "other"])
def test_what_is_no_checkpoint_of_the_network_is_refused(content, tmp_path):
    path = tmp_path / "mlp.pt"
    match content:
        case "empty":
            path.write_bytes(b"")
        case "random":
            path.write_bytes(np.random.default_rng(0).bytes(5000))
        case "code":
            torch.save(RunsCode(), path)
        case "shapes":
            save_checkpoint(MultilayerPerceptron(size_hidden=50), {}, path)
        case "version":
            torch.save({"version": 99, "weights": {}}, path)
        case "other":
            torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"task3\.py"):
        load_checkpoint(path)


@pytest.mark.parametrize(("cuda", "expected"), [(True, "cuda"), (False, "cpu")])
def test_the_device_is_cuda_when_available(cuda, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert choose_device("auto").type == expected
    assert choose_device("cpu").type == "cpu"


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--device cuda"):
        choose_device("cuda")


def test_features_are_what_stands_after_each_relu():
    model = MultilayerPerceptron()
    vectors = blobs(6).vectors
    features = extract_features(model, vectors)
    assert [array.shape for array in features] == [(6, 100)] * 4
    assert all((array >= 0).all() and (array == 0).any() for array in features)
    logits = model.layers[-1](torch.from_numpy(features[-1]))
    assert torch.allclose(logits, model(torch.from_numpy(vectors)))
