"""The check of another solution names the file and what is wrong with it."""

import json
import re

import pytest
from conftest import ROOT

TEST = str(ROOT / "tests" / "test_gradients.py")
STEP = "self.weight -= learning_rate * self.grad_weight"
BACK = "return gradient @ self.weight"
SUM = "gradient.sum(axis=0)"
CASES = [  # a text of task1.py, what takes its place, the status, words of the report
    ("import argparse", "import missing", 0, ""),
    ("(len(self.y) * self.p)", "self.p", 0, "p is N times too large"),
    (STEP, STEP.replace("-=", "+="), 1, "step of weight has the wrong sign"),
    (STEP, STEP.replace("-=", "-= 2 *"), 1, "step of weight is twice too large"),
    (SUM, "gradient.mean(axis=0)", 1, "bias is N times too small"),
    (SUM, "gradient", 1, "bias is not summed"),
    (SUM, f"vars(self).setdefault('first', {SUM})", 1, "bias is stale"),
    (BACK, f"self.grad_weight = self.grad_weight.T; {BACK}", 1, "weight is transposed"),
    ("np.maximum(x, 0)", "np.clip(x, 0, 6)", 1, "ReLU: forward is wrong"),
    ("class Softmax", "class Softmin", 2, "no class Softmax"),
    (BACK, "raise NotImplementedError", 2, r"line \d+: NotImplementedError"),
    (BACK, "return (", 2, r"'\(' was never closed"),
]


@pytest.mark.parametrize(("old", "new", "status", "words"), CASES)
def test_what_is_wrong_is_named(old, new, status, words, checkout, capfd):
    source = (ROOT / "task1.py").read_text(encoding="utf-8")
    assert old in source
    path = checkout / "other.py"
    path.write_text(source.replace(old, new), encoding="utf-8")
    assert pytest.main([TEST, f"--solution={path}"]) == status
    assert re.search(rf"other\.py.*{words}", capfd.readouterr().out)


def test_a_notebook_is_read_without_what_only_ipython_understands(checkout, capfd):
    source = (ROOT / "task1.py").read_text(encoding="utf-8")
    layers = source[: source.index("\nclass MLP")]
    cells = [
        "%matplotlib inline\nfiles = !ls",
        "np.dot?",
        "!pip install \\\n  numpy\n" + layers,
        "%%writefile notes.txt\na text of no use",
        "await later()",
        "train(1 / 0)",
        "unfinished = (",
        "open('left behind', 'w')",
    ]
    cells = [{"cell_type": "code", "source": [cell]} for cell in cells]
    path = checkout / "other.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert pytest.main([TEST, f"--solution={path}"]) == 0
    assert re.search("other.ipynb.*cell 4.*cell 7", capfd.readouterr().out)
    assert not (checkout / "left behind").exists()
