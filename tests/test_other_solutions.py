"""The check of other solutions: right ones are found right, what is wrong is named, and only definitions run."""

import re
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_right, run_script

from common.gradients import Check, check_file, report

SOLUTION = """
import torch

class Linear:
    def __init__(self, in_channels, out_channels):
        self.weight = torch.randn(in_channels, out_channels)
        self.bias = torch.zeros(out_channels)
    def forward(self, x, remember=False):
        self.x = x
        return x @ self.weight + self.bias
    def backward(self, gradient):
        self.grad_weight = self.x.T @ gradient
        self.grad_bias = gradient.sum(0)
        return gradient @ self.weight.T

class ReLU:
    def forward(self, x):
        self.x = x
        return x.clamp(min=0)
    def backward(self, gradient):
        return gradient * (self.x > 0)

class Softmax:
    def forward(self, x, remember=False):
        self.p = torch.softmax(x, 1)
        return self.p
    def backward(self, gradient):
        return self.p * (gradient - (gradient * self.p).sum(1, keepdim=True))

class CrossEntropyLoss:
    def forward(self, p, y):
        self.p, self.y = p, y
        return -p[range(len(y)), y].log().sum() / len(y)
    def backward(self):
        gradient = torch.zeros_like(self.p)
        gradient[range(len(self.y)), self.y] = -1 / self.p[range(len(self.y)), self.y]
        return gradient / len(self.y)
"""
HEAD, CLASS_LABELS = SOLUTION.split("class CrossEntropyLoss:")
ONE_HOT = f"""{HEAD}class CrossEntropyLoss:
    def forward(self, p, y):
        self.p, self.y = p, y
        return -(y * p.log()).sum() / len(y)
    def backward(self):
        return -self.y / self.p / len(self.y)
"""
DATACLASS = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
FIELDS = "    weight: object\n    bias: object\n"
MADE = "def Linear(inputs, outputs):\n    return Affine(torch.randn(inputs, outputs), torch.zeros(outputs))\n"
CONSTRUCTOR = """    def __init__(self, in_channels, out_channels):
        self.weight = torch.randn(in_channels, out_channels)
        self.bias = torch.zeros(out_channels)
"""
IN_PLACE = ("return x.clamp(min=0)", "x[x < 0] = 0\n        return x")
RIGHT = {
    "weights [in, out] in torch": SOLUTION,
    "weights [out, in]": SOLUTION.replace("randn(in_channels, out_channels)", "randn(out_channels, in_channels)")
    .replace("x @ self.weight", "x @ self.weight.T")
    .replace("self.x.T @ gradient", "gradient.T @ self.x")
    .replace("gradient @ self.weight.T", "gradient @ self.weight"),
    "a bias [1, out]": SOLUTION.replace("zeros(out_channels)", "zeros(1, out_channels)").replace(
        "gradient.sum(0)", "gradient.sum(0, keepdim=True)"
    ),
    "the bias before the weight": SOLUTION.replace(
        CONSTRUCTOR,
        CONSTRUCTOR.replace("self.weight", "self.bias = self.grad_bias = self.grad_weight = None\n        self.weight"),
    ),
    "a loss [1]": SOLUTION.replace("log().sum() / len(y)", "log().sum(0, keepdim=True) / len(y)"),
    "a ReLU in place": SOLUTION.replace(*IN_PLACE),
    "a ReLU in place, backward as well": SOLUTION.replace(*IN_PLACE).replace(
        "return gradient * (self.x > 0)", "gradient[self.x <= 0] = 0\n        return gradient"
    ),
    "a ReLU in place in NumPy": "from task1 import CrossEntropyLoss, Linear, Softmax\nimport numpy\n"
    + "class ReLU"
    + HEAD.split("class Softmax")[0].split("class ReLU")[1].replace(*IN_PLACE),
    "a bias [out, 1]": SOLUTION.replace("zeros(out_channels)", "zeros(out_channels, 1)")
    .replace("+ self.bias", "+ self.bias.T")
    .replace("gradient.sum(0)", "gradient.sum(0)[:, None]"),
    "a module with parameters": SOLUTION.replace("class Linear:", "class Linear(torch.nn.Module):")
    .replace("        self.weight", "        super().__init__()\n        self.weight")
    .replace("torch.randn(in_channels, out_channels)", "torch.nn.Parameter(torch.randn(in_channels, out_channels))")
    .replace("torch.zeros(out_channels)", "torch.nn.Parameter(torch.zeros(out_channels))"),
    "a base class of its own": SOLUTION.replace("class Linear:", "class Layer:\n    pass\nclass Linear(Layer):"),
    "names from a star import": "from torch.nn.functional import *\n" + SOLUTION.replace("torch.softmax", "softmax"),
    "one-hot labels": ONE_HOT,
    "an ε in the logarithm": ONE_HOT.replace("p.log()", "(p + 1e-8).log()").replace(
        "/ self.p /", "/ (self.p + 1e-8) /"
    ),
    "weights as torch parameters": SOLUTION.replace(
        "torch.randn(in_channels, out_channels)", "torch.nn.Parameter(torch.randn(in_channels, out_channels))"
    ),
    "arrays of torch's default type": SOLUTION.replace("torch.zeros_like(self.p)", "torch.zeros(self.p.shape)"),
    "a dataclass": DATACLASS
    + SOLUTION.replace("class Linear:", "@dataclass\nclass Affine:").replace(CONSTRUCTOR, FIELDS)
    + MADE,
}


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT)
def test_a_right_solution_is_found_right(text, tmp_path):
    checks = check_file(write(tmp_path / "other.py", text))
    assert len(checks) == 12
    assert [check for check in checks if not check.passed] == []


def test_the_layers_of_task_1_are_found_right_by_their_file():
    checks = check_file(ROOT / "task1.py")
    assert len(checks) == 12
    assert_right(checks, "x", "weight", "bias", "p")


def test_a_helper_module_beside_the_file_is_found(tmp_path):
    write(tmp_path / "helper_of_other.py", "def rectify(x):\n    return x.clamp(min=0)\n")
    text = SOLUTION.replace("x.clamp(min=0)", "rectify(x)")
    late = text.replace("        return rectify", "        from helper_of_other import rectify\n        return rectify")
    path_before = sys.path.copy()
    for each in (f"from helper_of_other import rectify\n{text}", late):
        checks = check_file(write(tmp_path / "other.py", each))
        assert_right(checks, "x", "weight", "bias", "p")
        sys.modules.pop("helper_of_other")
    assert sys.path == path_before
    assert torch.get_default_dtype() == torch.float32


# What a course's starter file looks like when it is filled in: it has no main guard.
TRAINS = """
from pathlib import Path
import sys

EPS = float("0")
device = torch.device("cpu")
print("training")
x = Path("x").write_text("a local variable of the classes has this name")
gradient: int = Path("gradient").write_text("and this")
class Trainer:
    EPS = Path("EPS").write_text("and this")
for p in range(3):
    loss = Path(f"epoch {p}").write_text("left behind")
model = Linear(2, 2), ReLU()
Path("results").mkdir()
sys.exit(Path("results", "curve").write_text("loss"))
"""


def test_only_the_definitions_of_a_file_without_a_main_guard_are_executed(tmp_path):
    text = SOLUTION.replace("zeros(out_channels)", "zeros(out_channels, device=device)").replace("/ len(y)", "/ n(y)")
    text = text.replace("import torch", f"import torch\n{TRAINS}", 1) + "def n(y):\n    return len(y) + EPS\n"
    path = write(tmp_path / "other.py", text)
    finished = run_script("task1.py", "--check-gradients", path, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert finished.returncode == 0, finished.stderr
    header, *rows = finished.stdout.splitlines()
    assert header.split() == ["layer", "gradient", "shape", "differences", "autograd", "verdict"]
    assert len(rows) == 12
    assert all(row.endswith("right") for row in rows)
    assert [file.name for file in tmp_path.iterdir()] == ["other.py"]


WRONG = {
    "a large ε in the logarithm": (
        ONE_HOT.replace("p.log()", "(p + 1e-4).log()").replace("/ self.p /", "/ (self.p + 1e-4) /"),
        r"CrossEntropyLoss .* WRONG  \n",
    ),
    "a batch of one squeezed": (
        SOLUTION.replace("gradient.sum(0)", "gradient.squeeze().sum(0, keepdim=len(gradient) == 1)"),
        r"Linear .*bias .*inf .*WRONG  \n",
    ),
    "class labels without 1/N": (
        SOLUTION.replace("gradient / len(self.y)", "gradient"),
        r"CrossEntropyLoss .* WRONG  N times too large, as without the 1/N of the mean",
    ),
    "one-hot labels without 1/N": (
        ONE_HOT.replace(" / len(self.y)", ""),
        r"CrossEntropyLoss .* WRONG  N times too large, as without the 1/N of the mean",
    ),
    "one-hot labels, loss and gradient without 1/N": (
        ONE_HOT.replace(" / len(self.y)", "").replace(" / len(y)", ""),
        r"CrossEntropyLoss .* WRONG  N times too large, as without the 1/N of the mean",
    ),
    "one-hot labels as a mask, loss and gradient without 1/N": (
        ONE_HOT.replace(" / len(self.y)", "").replace("(y * p.log()).sum() / len(y)", "p[y == 1].log().sum()"),
        r"CrossEntropyLoss .* WRONG  N times too large, as without the 1/N of the mean",
    ),
    "loss of the wrong sign": (SOLUTION.replace("return -p[", "return p["), r"CrossEntropyLoss .* WRONG  \n"),
    "weight transposed": (
        SOLUTION.replace("self.x.T @ gradient", "gradient.T @ self.x"),
        r"Linear .*weight .* WRONG  \n",
    ),
    "ReLU of the other side": (SOLUTION.replace("(self.x > 0)", "(self.x < 0)"), r"ReLU .* WRONG  \n"),
    "softmax without its sum": (
        SOLUTION.replace("(gradient - (gradient * self.p).sum(1, keepdim=True))", "gradient"),
        r"Softmax .* WRONG  \n",
    ),
    "no softmax": (SOLUTION.replace("class Softmax", "class Other"), r"other\.py has no Softmax; the check needs"),
    "import fails": (
        f"import no_such_module\n{SOLUTION}",
        r"correct this first: ModuleNotFoundError",
    ),
    "exit on import": (
        SOLUTION.replace("class ReLU:", "class ReLU:\n    raise SystemExit('two\\nlines')"),
        r"cannot be checked; correct this first: SystemExit: two lines",
    ),
    "no Python": ("class Linear(:", r"cannot be checked; correct this first: SyntaxError"),
    "no constructor": (
        SOLUTION.replace("def __init__", "def other"),
        r"cannot be checked; correct this first: TypeError: Linear\(\) takes no arguments",
    ),
    "no gradient of the bias": (
        SOLUTION.replace("        self.grad_bias = gradient.sum(0)\n", ""),
        r"Linear .* WRONG  AttributeError: .*grad_bias",
    ),
    "not done": (
        SOLUTION.replace("self.grad_bias = gradient.sum(0)", "raise NotImplementedError('later')"),
        r"Linear .* WRONG  NotImplementedError: later",
    ),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_another_solution_is_named(text, message, tmp_path, capsys):
    path = write(tmp_path / "other.py", text)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as failure:
        report(check_file(path))
    assert re.search(message, capsys.readouterr().out + str(failure.value))


def test_the_number_of_wrong_gradients_is_named_and_right_ones_stay_right(tmp_path, capsys):
    path = write(tmp_path / "other.py", SOLUTION.replace("(self.x > 0)", "(self.x < 0)"))
    with pytest.raises(ValueError, match="2 of 12 gradients are wrong"):
        report(check_file(path))
    assert capsys.readouterr().out.count("right\n") == 10


@pytest.mark.parametrize(
    ("differences", "autograd", "passed"),
    [(0.9e-7, 0.9e-9, True), (1.1e-7, 0, False), (0, 1.1e-9, False), (np.inf, np.inf, False)],
)
def test_a_gradient_passes_within_both_tolerances(differences, autograd, passed):
    assert Check("Linear", "∂L/∂x", (1, 1), differences, autograd).passed == passed


@pytest.mark.parametrize("name", ["none.py", "text.txt", "."])
def test_a_file_that_is_no_solution_is_refused(name, tmp_path):
    write(tmp_path / "text.txt", SOLUTION)
    with pytest.raises(ValueError, match="there is no Python file"):
        check_file(tmp_path / name)
