"""Calls the layers of a solution, on arrays or tensors, and says what is wrong."""

import inspect
import os
import threading
import traceback
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from solution import load

SECONDS = 60  # that a file may take
TOLERANCE = 1e-4  # of the largest entry: float32 and a small ε in a logarithm pass
FLAGS = {"remember", "train", "training"}  # of `forward`, passed as true
CONTRACT = {
    "Linear": "forward backward update weight bias",
    "ReLU": "forward backward",
    "Softmax": "forward backward",
    "CrossEntropyLoss": "forward backward",
}
NOTHING = np.array(np.nan)
TOO_LARGE = "is N times too large"
TOO_SMALL = "is N times too small"
NO_MEAN = [f"the gradient of p {TOO_LARGE}"]  # as in the course's starter file


@contextmanager
def opened(config):
    """Load task1.py or the file of --solution; stop what takes more than a minute."""
    path = config.getoption("--solution") or ROOT / "task1.py"
    capture = config.pluginmanager.get_plugin("capturemanager")
    terminal = config.pluginmanager.get_plugin("terminalreporter")

    def say(text):
        with capture.global_and_fixture_disabled():
            terminal.write_line(f"\n{text}")
            terminal.flush()

    def stop():
        say(f"{path.name} cannot be checked: it takes more than {SECONDS} seconds")
        os._exit(2)  # nothing else ends a call that waits

    timer = threading.Timer(SECONDS, stop)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    timer.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            solution = Solution(path.resolve(), patch)
            say(solution.name)
            yield solution
    finally:
        timer.cancel()
        torch.set_default_dtype(dtype)


class Solution:
    """The classes of a file. Pytest ends with status 2 where they cannot be checked."""

    def __init__(self, path, patch):
        self.name = path.name
        self.folder = path.parent
        with self.errors():
            self.module = load(path, CONTRACT, patch)
        for error in self.module.left_out:
            self.name += f" (left out: {error})"
        for name, parts in CONTRACT.items():
            layer = self.make(name, *[2, 3] if name == "Linear" else [])
            for part in parts.split():
                if not hasattr(layer, part):
                    self.refuse(f"{name} has no {part}")
        weight = self.make("Linear", 2, 3).weight
        if sorted(weight.shape) != [2, 3]:
            self.refuse(f"the weight of Linear(2, 3) has shape {list(weight.shape)}")
        self.dtype = as_array(weight).dtype
        self.copy = torch.tensor if isinstance(weight, torch.Tensor) else np.array

    @contextmanager
    def errors(self):
        """Turn an error of the file into one line, with the line where it arose."""
        try:
            yield
        except (Exception, SystemExit) as error:
            place = ""
            for frame in traceback.extract_tb(error.__traceback__):
                file = Path(frame.filename)
                if file.parent == self.folder:
                    place = f"{file.name}, line {frame.lineno}: "
            self.refuse(f"{place}{type(error).__name__}: {error}")

    def refuse(self, reason):
        text = f"{self.name} cannot be checked: {reason}"
        pytest.exit(" ".join(text.split()), returncode=2)

    def make(self, name, *sizes):
        if not hasattr(self.module, name):
            self.refuse(f"it has no class {name}")
        with self.errors():
            return getattr(self.module, name)(*sizes)

    def call(self, layer, name, *arguments):
        """Call a method with numbers and copies of arrays; return an array."""
        with self.errors():
            method = getattr(layer, name)
            flags = FLAGS & inspect.signature(method).parameters.keys()
            arguments = [self.convert(each) for each in arguments]
            return as_array(method(*arguments, **dict.fromkeys(flags, True)))

    def convert(self, value):
        if not isinstance(value, np.ndarray):
            return value
        if value.dtype == float:
            value = value.astype(self.dtype)
        return self.copy(value)


class Chain:
    """Layers in a row, with the arrays of their parameters by name."""

    def __init__(self, solution, names, width):
        self.call = solution.call
        self.layers = []
        self.owners = {}
        sizes = [width, 4]
        for number, name in enumerate(names, 1):
            is_linear = name == "Linear"
            layer = solution.make(name, *sizes if is_linear else [])
            self.layers.append(layer)
            if is_linear:
                place = f" of layer {number}" if number > 1 else ""
                self.owners[f"weight{place}"] = layer, "weight"
                self.owners[f"bias{place}"] = layer, "bias"
                sizes.reverse()
        self.outputs = sizes[0]
        rng = np.random.default_rng(1)  # so that every run checks the same numbers
        for array in self.parameters().values():
            array[...] = rng.normal(0, 0.7, array.shape)

    def forward(self, x):
        for layer in self.layers:
            x = self.call(layer, "forward", x)
        return x

    def backward(self, gradient):
        for layer in reversed(self.layers):
            gradient = self.call(layer, "backward", gradient)
        return gradient

    def update(self, learning_rate):
        for layer in self.layers:
            if hasattr(layer, "update"):
                self.call(layer, "update", learning_rate)

    def parameters(self):
        """Return views: what is written there is written in the layer."""
        pairs = self.owners.items()
        return {name: as_array(getattr(layer, part)) for name, (layer, part) in pairs}

    def gradients(self):
        """Return copies of those gradients that have the sheet's names."""
        found = {}
        for name, (layer, part) in self.owners.items():
            gradient = getattr(layer, f"grad_{part}", None)
            if gradient is not None:
                found[name] = as_array(gradient).copy()
        return found


def as_array(value):
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    return np.asarray(value)


def difference(found, right, earlier, n):
    """Say how an array differs from the right one, or return None."""
    if found.dtype == object:
        return "is missing"
    found = found.squeeze()
    guesses = {
        None: right,
        "has the wrong sign": -right,
        TOO_LARGE: n * right,
        TOO_SMALL: right / n,
        "is twice too large, as if moved twice": 2 * right,
        "is zero": 0 * right,
        "is transposed": right.T,
        "is stale, that of the batch before": earlier,
    }
    if earlier.shape == right.shape:
        guesses["is added to that of the batch before"] = earlier + right
    margin = 1e-7 + TOLERANCE * np.abs(right).max()
    for words, guess in guesses.items():
        if found.shape == guess.shape and np.abs(found - guess).max() <= margin:
            return words
    if found.ndim > right.ndim and found.shape[1:] == right.shape:
        return "is not summed over the batch"
    if found.shape != right.shape:
        return f"has shape {list(found.shape)}, not {list(right.shape)}"
    return "is wrong"


def faults(batches, refuses):
    """Return a line for each wrong result of the first batch that has one. An error in
    the first batch ends pytest if `refuses`.
    """
    earlier = {}
    count = 0
    try:
        for n, results in batches:
            count += "forward" in results
            lines = []
            for what, (found, right) in results.items():
                right = as_array(right).squeeze()
                words = difference(found, right, earlier.get(what, NOTHING), n)
                if words:
                    lines.append(f"{what} {words}")
                earlier[what] = right
            if lines:
                return lines
    except pytest.exit.Exception as error:
        if refuses and count < 2:
            raise
        return [f"it ends in an error: {str(error).rpartition('checked: ')[2]}"]
    return []


def fewest_faults(attempts, refuses=True):
    """Return the fewest faults of several attempts; end pytest if none is possible."""
    found = []
    for batches in attempts:
        try:
            found.append(faults(batches, refuses))
        except pytest.exit.Exception as error:
            refusal = error
    if not found:
        raise refusal
    return min(found, key=len)


def judge(solution, what, faults, remark=False):
    """Fail with a line for each fault, or remark on the starter file's missing 1/N."""
    text = "\n".join(f"{solution.name}: {what}: {fault}" for fault in faults)
    if faults and remark and solution.folder != ROOT:
        pytest.xfail(f"{text}, as the course's starter file has no 1/N")
    if faults:
        pytest.fail(text, pytrace=False)
