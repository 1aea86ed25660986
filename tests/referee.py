"""Calls the layers of a solution, on arrays or tensors, and says what is wrong."""

import _thread
import inspect
import threading
import traceback
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from solution import load

from common.gradients import central_differences

SECONDS = 60  # that a file may take
TOLERANCE = 1e-4  # of the largest entry: float32 and a small ε in a logarithm pass
FLAGS = {"remember", "train", "training"}  # of `forward`, passed as true
CONTRACT = {
    "Linear": ["forward", "backward", "update", "weight", "bias"],
    "ReLU": ["forward", "backward"],
    "Softmax": ["forward", "backward"],
    "CrossEntropyLoss": ["forward", "backward"],
}
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

    def stop():
        say(f"{path.name} cannot be checked: it takes more than {SECONDS} seconds")
        _thread.interrupt_main()

    timer = threading.Timer(SECONDS, stop)
    timer.daemon = True
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
            self.module = load(path, patch)
        for error in self.module.left_out:
            self.name += f" (left out: {error})"
        for name, parts in CONTRACT.items():
            layer = self.make(name, *[2, 3] if name == "Linear" else [])
            for part in parts:
                if not hasattr(layer, part):
                    self.refuse(f"{name} has no {part}")
            if name == "Linear":
                self.dtype = as_array(layer.weight).dtype
                is_torch = isinstance(layer.weight, torch.Tensor)
                self.copy = torch.tensor if is_torch else np.array

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

    def slopes(self, loss, array):
        """Return central differences, or None where float32 is too coarse for them."""
        return central_differences(loss, array) if self.dtype == float else None


class Chain:
    """Layers in a row; parameters and gradients are arrays by name."""

    def __init__(self, solution, names, width):
        self.call = solution.call
        self.layers = []
        self.linears = {}
        sizes = [width, 4]
        for name in names:
            if name != "Linear":
                self.layers.append(solution.make(name))
                continue
            layer = solution.make(name, *sizes)
            sizes.reverse()
            self.layers.append(layer)
            self.linears[f" of layer {len(self.layers)}" if len(names) > 1 else ""] = (
                layer
            )
        self.outputs = sizes[0]

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
        return self.attributes("")

    def gradients(self):
        """Return copies of the gradients that are named as the sheet's."""
        found = self.attributes("grad_")
        return {name: array.copy() for name, array in found.items()}

    def attributes(self, prefix):
        found = {}
        for place, layer in self.linears.items():
            for name in ("weight", "bias"):
                value = getattr(layer, prefix + name, None)
                if value is not None:
                    found[name + place] = as_array(value)
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
    right = right.squeeze()
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


def faults(batches):
    """Return a line for each wrong result of the first batch that has one."""
    earlier = {}
    count = 0
    try:
        for n, results in batches:
            count += "forward" in results
            lines = []
            for what, (found, *references) in results.items():
                references = [as_array(each) for each in references if each is not None]
                before = earlier.get(what, np.array(np.nan))
                for right in references:
                    words = difference(found, right, before, n)
                    if words:
                        lines.append(f"{what} {words}")
                        break
                earlier[what] = references[0].squeeze()
            if lines:
                return lines
    except pytest.exit.Exception as error:
        if count < 2:
            raise
        return [f"batch {count} ends in an error: {error}"]
    return []


def fewest_faults(attempts, may_fail=True):
    """Return the fewest faults of several attempts; raise where all end in an error."""
    found = []
    errors = []
    for batches in attempts:
        try:
            found.append(faults(batches))
        except pytest.exit.Exception as error:
            errors.append(error)
    if found:
        return min(found, key=len)
    if may_fail:
        raise errors[0]
    return [str(errors[0])]


def judge(solution, what, faults, remark=False):
    """Fail with a line for each fault; say it where it is only a remark."""
    text = "\n".join(f"{solution.name}: {what}: {fault}" for fault in faults)
    if faults and remark:
        pytest.xfail(text)
    if faults:
        pytest.fail(text, pytrace=False)
