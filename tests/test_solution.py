"""The check of other solutions: right ones pass, what is wrong is named, and only
definitions are executed.
"""

import json
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from gradient_check import check
from solution import Refused

SOLUTION = """import torch
class Linear:
    def __init__(self, in_channels, out_channels):
        self.weight, self.bias = torch.randn(in_channels, out_channels), torch.zeros(out_channels)
    def forward(self, x, remember=False):
        self.x = x
        return x @ self.weight + self.bias
    def backward(self, gradient):
        self.grad_weight, self.grad_bias = self.x.T @ gradient, gradient.sum(0)
        return gradient @ self.weight.T
class ReLU:
    def forward(self, x):
        self.x = x
        return x.clamp(min=0)
    def backward(self, gradient): return gradient * (self.x > 0)
class Softmax:
    def forward(self, x, remember=False):
        self.p = torch.exp(x) / torch.exp(x).sum(1, keepdim=True)
        return self.p
    def backward(self, gradient): return self.p * (gradient - (gradient * self.p).sum(1, keepdim=True))
class CrossEntropyLoss:
    def forward(self, p, y):
        self.p, self.y = p, torch.eye(p.shape[1])[y]
        return -(self.y * p.log()).sum() / len(y)
    def backward(self): return -self.y / self.p / len(self.y)
"""
WEIGHT, BIAS = "torch.randn(in_channels, out_channels)", "torch.zeros(out_channels)"
STEP, BACK = "self.weight -= 0.1 * self.grad_weight", "return gradient @ self.weight.T"
TRANSPOSED = ("self.x.T @ gradient", "gradient.T @ self.x")
STARTER = ("self.y / self.p / len(self.y)", "self.y / self.p")
FACTOR = (
    "self.x.T @ gradient",
    "self.x.T @ gradient / len(self.x)",
    "gradient.sum(0)",
    "gradient.mean(0)",
)
IN_ONE = (
    "-self.y / self.p",
    "(self.p - self.y)",
    "return self.p * (gradient - (",
    "return gradient  # (",
)
MODULE = (
    "Linear:",
    "Linear(torch.nn.Module):",
    "self.weight,",
    "super().__init__(); self.weight,",
)
RIGHT = {  # pairs of a part of SOLUTION and what takes its place
    "as it is": (),
    "weights [out, in]": (
        WEIGHT,
        f"{WEIGHT}.T",
        "x @ self.weight",
        "x @ self.weight.T",
        *TRANSPOSED,
        BACK,
        BACK[:-2],
    ),
    "a bias [1, out]": (BIAS, f"{BIAS}[None]"),
    "parameters": (
        *MODULE,
        WEIGHT,
        f"torch.nn.Parameter({WEIGHT})",
        BIAS,
        f"torch.nn.Parameter({BIAS})",
    ),
    "a ReLU in place": ("return x.clamp(min=0)", "x[x < 0] = 0; return x"),
    "one-hot labels": ("torch.eye(p.shape[1])[y]", "y"),
    "a loss [1, 1]": ("sum() / len(y)", "sum().reshape(1, 1) / len(y)"),
    "logits": (
        "= p, t",
        "= p.softmax(1), t",
        "p.log()",
        "p.log_softmax(1)",
        "-self.y / self.p",
        "(self.p - self.y)",
    ),
    "an ε in the loss": ("p.log()", "(p + 1e-7).log()"),
    "float32 inside": ("self.x = x\n", "self.x = x = x.float().double()\n"),
    "float32 only": (
        "weight +",
        "weight.float() +",
        "self.x = x\n",
        "self.x = x; x.view(torch.int32)\n",
    ),
    "a step after ∂L/∂x": (
        BACK,
        f"result = gradient @ self.weight.T; {STEP}; return result",
    ),
}
WRONG = {  # the same, the gradients that do not pass, and what is said of them
    "a transposed gradient": (
        TRANSPOSED,
        "weight",
        r"fail .* wrong; shape \[out, in\], expected \[in, out\]$",
    ),
    "a step before ∂L/∂x": (
        (BACK, f"{STEP}; {BACK}"),
        "x",
        r"fail .* wrong; the parameters change.*(\n  N=.: .*){2}$",
    ),
    "another slope": (
        ("self.x > 0", "self.x < 0"),
        "ReLU",
        "fail ∂L/∂x of ReLU is wrong\n",
    ),
    "another shape": (
        ("x @ self.weight", "x[None] @ self.weight"),
        "x",
        r"fail Linear: .* shape \[1, 1, 4\], ",
    ),
    "another function": (
        ("x.clamp(min=0)", "x"),
        "ReLU",
        "fail .* wrong; forward differs",
    ),
    "no gradient": (
        ("self.grad_bias", "self.db"),
        "bias",
        "fail .*backward gives no grad_bias$",
    ),
    "no numbers": (
        ("-self.y / self.p", "-self.y / (0 * self.p)"),
        "loss",
        "fail .* not finite$",
    ),
    "dropout": (
        ("x.clamp(min=0)", "torch.dropout(x.relu(), 0.5, True)"),
        "ReLU",
        "fail .* not repeatable",
    ),
    "the starter's loss": (
        STARTER,
        "loss chain",
        "xfail .* N times too large by the sheet: .* starter file$",
    ),
    "a sum": (
        (*STARTER, " / len(y)", ""),
        "loss chain",
        "fail .* N times too large; the loss as well",
    ),
    "1/N in Linear": (
        (*STARTER, *FACTOR),
        "weight bias loss",
        "xfail .* N times too .*; but the chain .* is right$",
    ),
    "1/N twice": (FACTOR, "weight bias chain", "fail .* N times too small\n"),
    "two layers in one": (
        IN_ONE,
        "Softmax loss",
        "xfail .* wrong; but the chain .* is right$",
    ),
    "no Softmax": (("class Softmax", "class S"), "Softmax", "skip .*no class Softmax$"),
    "no ReLU": (
        ("class ReLU", "class R"),
        "ReLU",
        "fail ReLU: there is no class ReLU$",
    ),
    "a constructor": (
        ("U:", "U:\n    def __init__(self, size): pass"),
        "ReLU",
        "fail ReLU: TypeError: .*'size'$",
    ),
    "other weights": (
        (WEIGHT, "torch.ones(7, 4)"),
        "x",
        r"fail Linear: weight has shape \[7, 4\], expected",
    ),
    "not done": (
        (BACK, "raise NotImplementedError('later')"),
        "x",
        "fail Linear: other.py:10: NotImplemen.*: later$",
    ),
    "no module": (
        ("min=0", "min=no.ZERO", "torch\n", "torch, no\n"),
        "ReLU",
        "fail ReLU: other.py:1: Module.* 'no'$",
    ),
}
CASES = {name: (edits, "", "") for name, edits in RIGHT.items()} | WRONG
KEYS = ["x", "weight", "bias", "ReLU", "Softmax", "loss", "chain"]


def write(path, text, edits=()):
    for old, new in zip(edits[::2], edits[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def results(path):
    return {
        key: " ".join(result)
        for key, result in zip(KEYS, check(path).values(), strict=True)
    }


def all_pass(path):
    return {result.partition(" ")[0] for result in results(path).values()} == {"pass"}


@pytest.mark.parametrize(("edits", "wrong", "pattern"), CASES.values(), ids=CASES)
def test_what_is_right_passes_and_what_is_wrong_is_named(
    edits, wrong, pattern, tmp_path
):
    found = results(write(tmp_path / "other.py", SOLUTION, edits))
    expected = dict.fromkeys(KEYS, "pass") | {
        "chain": "fail|skip" if re.match("fail|skip", pattern) else "pass"
    }
    expected |= (
        dict.fromkeys(("weight", "bias"), "skip")
        if "fail Linear: " in found["x"]
        else {}
    )
    expected |= dict.fromkeys(wrong.split(), pattern)
    assert [found[key] for key in KEYS if not re.match(expected[key], found[key])] == []


def test_only_definitions_are_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "parts" / "least.py", "LEAST = 0\n")
    head = """from __future__ import annotations
import argparse, sys, unused; from pathlib import Path
sys.path.append(str(Path(__file__).parent / "parts"))
from least import *
parser = argparse.ArgumentParser()
flags = parser.parse_args("--unknown")
x = Path("x").write_text("a local variable of the classes has this name")
CONFIG, LIST = {}, []; LIST.append(0)
CONFIG["k"]: Unknown = 0
try: from unused import SHIFT
except ImportError: SHIFT = 0; Path("handler").write_text("left behind")
if parser.parse_args():
    for k in range(3): Path(f"epoch {k}").write_text("left behind")
    SCALE = 1
with Path("log").open("w") as log: sys.exit(Path("curve").write_text("loss"))
"""
    tail = """
def method_of(owner): return lambda method: setattr(owner, method.__name__, method)
@method_of(ReLU)
def forward(self, x): self.x = x; return x.clamp(min=LEAST + CONFIG["k"] + LIST[0] + SHIFT) * SCALE
ReLU.backward = None; setattr(ReLU, "backward", lambda self, gradient: gradient * (self.x > 0))
"""
    assert all_pass(write(tmp_path / "other.py", head + SOLUTION + tail))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.py", "parts"]


@pytest.mark.parametrize("marker", ["__init__.py", "no_package.py"])
def test_modules_beside_the_file_come_before_ours_and_leave_no_trace(marker, tmp_path):
    ours, text = (
        sys.modules["common"],
        "import torch\ntorch.set_grad_enabled(False)\nslope = ",
    )
    for slope in (1, 2):
        write(tmp_path / f"{slope}" / "common" / marker, "")
        write(tmp_path / f"{slope}" / "common" / "gradients.py", f"{text}{slope}")
        edits = (
            "return gradient * (",
            "from common.gradients import slope; return slope * gradient * (",
        )
        assert all_pass(write(tmp_path / f"{slope}" / "other.py", SOLUTION, edits)) == (
            slope == 1
        )
    assert (sys.modules["common"] is ours, torch.is_grad_enabled()) == (True, True)


def test_a_notebook_is_checked_without_its_magics(tmp_path):
    first, *rest = SOLUTION.replace("min=0", "min=LEAST").split("class ")
    texts = [
        f"%matplotlib inline\nfiles = !ls\n{first}",
        "%%bash\nls -l",
        *(f"class {each}" for each in rest),
    ]
    cells = [
        {"cell_type": "code", "source": text.splitlines(keepends=True)}
        for text in texts
    ]
    text = json.dumps(
        {"cells": [{"cell_type": "markdown", "source": "# Task"}, *cells]}
    )
    path = write(tmp_path / "other.ipynb", text)
    assert results(path)["ReLU"].startswith(
        "fail ReLU: other.ipynb, cell 5:4: NameError: name 'LEAST' is not defined"
    )
    assert all_pass(write(path, text, ("LEAST", "0")))


REFUSED = [
    ("none.py", None, "there is no file .*none.py"),
    ("text.txt", b"", "text.txt is neither a Python file"),
    ("utf.py", SOLUTION.encode("utf-16"), "utf.py is not UTF-8"),
    ("two.py", b"x = 1\nprint 'x'", "two.py:2: SyntaxError: Missing parentheses"),
    ("none.ipynb", b"{}", "none.ipynb is no notebook"),
]


@pytest.mark.parametrize(("name", "content", "message"), REFUSED)
def test_a_file_that_is_no_solution_is_refused_in_one_line(
    name, content, message, tmp_path
):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=rf"^.*{message}.*\Z"):
        check(tmp_path / name)


RUNS = [
    (TRANSPOSED, 1, "2 failed, 5 passed"),
    (STARTER, 0, "5 passed, 2 xfailed"),
    (None, 4, "there is no file"),
]


@pytest.mark.parametrize(("edits", "status", "message"), RUNS)
def test_the_gradient_tests_say_in_a_few_lines_how_a_solution_is(
    edits, status, message, tmp_path
):
    path = (
        tmp_path / "other.py"
        if edits is None
        else write(tmp_path / "other.py", SOLUTION, edits)
    )
    words = [
        sys.executable,
        "-m",
        "pytest",
        ROOT / "tests" / "test_gradients.py",
        "-rx",
        "--solution",
        path,
    ]
    finished = subprocess.run(
        words, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=300
    )
    assert (finished.returncode, message in finished.stdout) == (status, True), (
        finished.stdout
    )
    assert finished.stdout.count("\n") < 25
