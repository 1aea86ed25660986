"""The checkpoint: what it restores, what is refused and what a stopped run leaves."""

import argparse
import zipfile

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

import task3
from common.data import Vectors
from common.script import Failure

SETTINGS = {"epochs": 3, "learning_rate": 0.1, "data": "abc"}
DATA = Vectors(np.eye(40, 784), np.arange(40) % 10)


@pytest.fixture
def stored(tmp_path):
    """A network and the path of its checkpoint, which is alone in its folder."""
    model = task3.MultilayerPerceptron()
    path = tmp_path / "artifacts" / "mlp.pt"
    task3.save_checkpoint(model, SETTINGS, path)
    return model, path


def assert_same(ours, theirs):
    parameters = parameters_to_vector(ours.parameters())
    assert torch.equal(parameters, parameters_to_vector(theirs.parameters()))


def test_a_checkpoint_restores_the_network_and_its_settings(stored):
    model, path = stored
    restored, settings = task3.read_checkpoint(path)
    assert_same(restored, model)
    assert_same(task3.load_checkpoint(str(path)), model)
    assert settings == SETTINGS
    assert not restored.training


def test_a_checkpoint_made_on_cuda_is_read_without_it(stored, tmp_path):
    model, path = stored
    cpu = b"X\x03\x00\x00\x00cpu"  # the place of a tensor, pickled
    cuda = b"X\x06\x00\x00\x00cuda:0"
    copy = tmp_path / "cuda.pt"
    with zipfile.ZipFile(path) as ours, zipfile.ZipFile(copy, "w") as theirs:
        for name in ours.namelist():
            theirs.writestr(name, ours.read(name).replace(cpu, cuda))
    assert cuda in copy.read_bytes()
    assert_same(task3.load_checkpoint(copy), model)


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('was run')",)


def refusal(path):
    """The line with which a file is refused."""
    with pytest.raises(Failure) as caught:
        task3.read_checkpoint(path)
    (line,) = str(caught.value).splitlines()
    return line


def test_what_is_no_checkpoint_is_refused_in_a_line_that_names_the_file(stored):
    _, path = stored
    for size in (-1, 5000, 0):
        path.write_bytes(path.read_bytes()[:size])
        assert str(path) in refusal(path)
    for foreign in (Code(), [1], {"settings": SETTINGS}):
        torch.save(foreign, path)
        assert str(path) in refusal(path)


def test_a_network_of_other_sizes_is_refused_in_a_line_that_names_both(stored):
    model, path = stored
    narrow = task3.MultilayerPerceptron(7)
    task3.save_checkpoint(narrow, {"layers": task3.layer_sizes(narrow)}, path)
    line = refusal(path)
    assert str(task3.layer_sizes(narrow)) in line
    assert str(task3.layer_sizes(model)) in line


@pytest.mark.parametrize(("epochs", "rate", "left"), [(1, 1e-4, 1), (2, 1e30, 3)])
def test_a_stopped_run_leaves_the_last_complete_network(
    epochs, rate, left, stored, monkeypatch
):
    orders = iter([torch.arange(40)] * epochs)  # then it is stopped
    monkeypatch.setattr(torch, "randperm", lambda count, generator: next(orders))
    options = argparse.Namespace(seed=7, device="cpu", checkpoint=stored[1])
    settings = {"epochs": 5, "batch_size": 40, "learning_rate": rate}
    with pytest.raises((Failure, StopIteration)):
        task3.train_and_save(DATA, DATA, options, settings, "abc")
    assert task3.read_checkpoint(stored[1])[1]["epochs"] == left
