"""The checkpoint of task 3, on which device it is trained, and files that are not what they should be."""

import argparse
import math
import textwrap
import zipfile

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_task3 import CLOSE, blobs, new_network, plain_loop

import task3
from common.checks import Failure
from common.data import Images, convert_mnist_to_vectors, digest
from common.runtime import choose_device
from task3 import (
    DEFAULTS,
    MultilayerPerceptron,
    load_checkpoint,
    predict_probabilities,
    save_checkpoint,
    train,
    train_and_save,
)

CPU, CUDA = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"  # the place of a tensor, pickled
pytestmark = pytest.mark.usefixtures("same_threads")


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


def test_the_readme_recognizes_digits_with_the_stored_network(images, tmp_path, monkeypatch, capsys):
    model, x = new_network(), images.images.reshape(-1, 784)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (snippet,) = (part for part in readme.split("\n\n") if "load_checkpoint" in part)
    (tmp_path / "artifacts").mkdir()
    save_checkpoint(model, tmp_path / "artifacts" / "mlp.pt")
    monkeypatch.chdir(tmp_path)
    exec(textwrap.dedent(snippet), {"x": x})
    assert capsys.readouterr().out == f"{predict_probabilities(model, x / 127.5 - 1).argmax(axis=1)}\n"


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


def test_after_the_fallback_the_network_trains_on_the_cpu(machine):
    machine("fails")
    model = MultilayerPerceptron().to(choose_device())
    train(model, blobs(32), blobs(8, 1), epochs=1)
    assert not torch.cuda.is_available()
