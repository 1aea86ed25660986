"""The checkpoint: what it restores, what is refused and what a stopped run leaves."""

import argparse
import zipfile

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import task3
from common.data import Vectors
from common.script import Failure

CPU, CUDA = (
    b"X\x03\x00\x00\x00cpu",
    b"X\x06\x00\x00\x00cuda:0",
)  # the place of a tensor, pickled
SETTINGS = {"epochs": 3, "learning_rate": 0.1, "layers": [784, 10], "data": "abc"}
WEIGHTS = task3.MultilayerPerceptron().state_dict()


@pytest.fixture
def stored(tmp_path):
    """A network and the path of its checkpoint, which is alone in its folder."""
    model, path = task3.MultilayerPerceptron(), tmp_path / "artifacts" / "mlp.pt"
    task3.save_checkpoint(model, SETTINGS, path)
    return model, path


def assert_same(ours, theirs):
    assert all(
        torch.equal(one, other)
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True)
    )


def test_a_checkpoint_restores_the_network_and_its_settings(stored):
    (model, path), (restored, settings) = stored, task3.read_checkpoint(stored[1])
    assert_same(restored, model)
    assert_same(task3.load_checkpoint(str(path)), model)
    assert (settings, restored.training) == (SETTINGS, False)
    assert list(path.parent.iterdir()) == [path]


def test_a_checkpoint_made_on_cuda_is_read_without_it(stored, tmp_path):
    with (
        zipfile.ZipFile(stored[1]) as cpu,
        zipfile.ZipFile(tmp_path / "cuda.pt", "w") as cuda,
    ):
        for name in cpu.namelist():
            assert cpu.read(name).count(CPU) == name.endswith("data.pkl")
            cuda.writestr(name, cpu.read(name).replace(CPU, CUDA))
    assert_same(task3.load_checkpoint(tmp_path / "cuda.pt"), stored[0])


def test_the_readme_recognizes_a_digit_with_the_stored_network(
    stored, tmp_path, monkeypatch, capsys
):
    parts = (ROOT / "README.md").read_text(encoding="utf-8").split("\n\n")
    (snippet,) = (
        part for part in parts if part.startswith("    ") and "load_checkpoint" in part
    )
    picture = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    Image.fromarray(picture).save(tmp_path / "digit.png")
    monkeypatch.chdir(tmp_path)
    exec(f"if True:\n{snippet}", {})
    expected = task3.predict_probabilities(
        stored[0], 1 - picture.reshape(1, 784) / 127.5
    ).argmax(axis=1)
    assert capsys.readouterr().out == f"{expected}\n"


DAMAGED = {
    "code": type(
        "Code",
        (),
        {"__reduce__": lambda self: (exec, ("raise SystemExit('was run')",))},
    )(),
    "another network": {
        "settings": {},
        "weights": task3.MultilayerPerceptron(7).state_dict(),
    },
    "a layer missing": {
        "settings": {},
        "weights": {name: WEIGHTS[name] for name in list(WEIGHTS)[1:]},
    },
    "an infinite bias": {
        "settings": {},
        "weights": {**WEIGHTS, "layers.0.bias": WEIGHTS["layers.0.bias"] / 0},
    },
    "no settings": {"weights": WEIGHTS},
    "NaN among the settings": {
        "settings": {"learning_rate": np.nan},
        "weights": WEIGHTS,
    },
    "a tensor among the settings": {
        "settings": {"epochs": torch.ones(1)},
        "weights": WEIGHTS,
    },
    "a flipped bit": lambda content: (
        content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
    ),
    "a file cut short": lambda content: content[:-1],
    "an empty file": lambda content: b"",
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_no_checkpoint_of_the_network_is_refused_in_one_line(
    kind, tmp_path, stored
):
    if callable(DAMAGED[kind]):
        stored[1].write_bytes(DAMAGED[kind](stored[1].read_bytes()))
    else:
        torch.save(DAMAGED[kind], stored[1])
    with pytest.raises(
        Failure,
        match=r"mlp\.pt is damaged or not a checkpoint .*task3\.py --checkpoint .*mlp\.pt$",
    ):
        task3.read_checkpoint(stored[1])


STOPS = {
    "Ctrl-C in epoch 2": (1, 1e-4, 0, 1),
    "a step too far": (2, 1e30, 0, 3),
    "a test image": (2, 1e-4, np.inf, 3),
}


@pytest.mark.parametrize(("orders", "rate", "value", "left"), STOPS.values(), ids=STOPS)
def test_a_stopped_run_leaves_the_last_complete_network(
    orders, rate, value, left, stored, monkeypatch
):
    orders, data = (
        iter(orders * [torch.arange(40)]),
        Vectors(np.ones((40, 784)), np.arange(40) % 10),
    )
    monkeypatch.setattr(
        torch, "randperm", lambda count, generator: next(orders)
    )  # ends with StopIteration
    options = argparse.Namespace(seed=7, device="cpu", checkpoint=stored[1])
    settings = {"epochs": 2, "batch_size": 40, "learning_rate": rate}
    with pytest.raises((Failure, StopIteration)):
        task3.train_and_save(
            data, Vectors(data.vectors + value, data.labels), options, settings, "abc"
        )
    assert task3.read_checkpoint(stored[1])[1]["epochs"] == left
