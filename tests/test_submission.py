"""The PDF of the answers: its claims hold for the results beside it, and a changed result names the sentence."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from common.submission import typeset

CLAIMS = re.findall(r'#claim\(\s*"([^"]+)"', (ROOT / "figures" / "answers.typ").read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path):
    """A copy of the figures and results."""
    return shutil.copytree(ROOT / "figures", tmp_path / "figures")


def change(folder, *changes):
    """Replace results, each given as a path of keys that starts with the task, and a value."""
    for (task, *keys, last), value in changes:
        path = folder / f"{task}.json"
        results = json.loads(path.read_text(encoding="utf-8"))
        inner = results
        for key in keys:
            inner = inner[key]
        inner[last] = value
        path.write_text(json.dumps(results), encoding="utf-8")


def test_the_results_contradict_no_claim_and_the_pdf_repeats_itself(folder):
    assert typeset(folder, "Ada Lovelace", "4711") == []
    first = (folder / "submission.pdf").read_bytes()
    assert first.startswith(b"%PDF")
    assert b"Ada Lovelace" in first
    typeset(folder, "Ada Lovelace", "4711")
    assert (folder / "submission.pdf").read_bytes() == first


@pytest.mark.parametrize(
    ("path", "value", "contradicted"),
    [
        (("task1", "gradient_check", 2, "error"), 1e-3, "1.1 the gradients agree with central differences"),
        (("task1", "normalization", 3, "mean"), None, "5 ten times the rate does not diverge but ends higher"),
        (("task2", "confusion", "pairs", 1, "classes"), [2, 3], "2.4 4, 7 and 9 overlap most"),
        (("task3", "history", "test_accuracy", 4), 94.9, "3.3 five epochs pass 95 %"),
        (("task4", "separation", 3, "silhouette"), 0.01, "4.3 separation grows with every layer"),
    ],
)
def test_a_changed_result_names_the_claim_that_it_contradicts(path, value, contradicted, folder):
    change(folder, (path, value))
    assert typeset(folder) == [contradicted]


def test_every_claim_can_be_contradicted(folder):
    change(
        folder,
        (("task1", "gradient_check", 0, "error"), 1),
        (("task1", "history", "test_loss", -1), 9),
        (("task1", "depth", "sheet", 3, "test_mean"), 9),
        (("task1", "studies", "regimes", "sheet", "points"), 10**6),
        (("task1", "depth", "scarce", 3, "train_mean"), 9),
        (("task1", "depth", "scarce", 5, "test_mean"), 0.01),
        (("task1", "depth", "scarce", 5, "least_test_epoch"), 199),
        (("task1", "unstable", 0, "diverged"), 3),
        (("task1", "gradient_norms", "He", "output", 0), 1e9),
        (("task1", "gradient_norms", "He", "weight", 0), 1e9),
        (("task1", "normalization", 0, "diverged"), 0),
        (("task1", "normalization", 2, "mean"), 1e-9),
        (("task1", "normalization", 5, "mean"), 1e-9),
        (("task2", "components", "likeness", 0, "cosine"), 0),
        (("task2", "components", "likeness", 1, "cosine"), 0),
        (("task2", "components", "likeness", 8, "cosine"), 1),
        (("task2", "components", "variance_shares", 0), 0.9),
        (("task2", "confusion", "accuracy_per_class", 5), 100),
        (("task2", "confusion", "pairs", 0, "classes"), [0, 1]),
        (("task2", "confusion", "accuracy"), 90),
        (("task3", "parameters"), 1),
        (("task3", "history", "test_accuracy", 4), 0),
        (("task3", "history", "test_loss", -1), 9),
        (("task3", "history", "train_loss", -1), 9),
        (("task3", "confused_pairs", 0, "classes"), [0, 1]),
        (("task4", "shapes", 0), [1, 1]),
        (("task4", "separation", 4, "variance"), 0),
        (("task4", "separation", 4, "neighbours"), 0),
        (("task4", "separation", 0, "pairs", 0, "classes"), [0, 1]),
        (("task4", "shifted_accuracy", 2), 99),
    )
    assert typeset(folder) == CLAIMS


@pytest.fixture
def checkout(folder):
    """A checkout with only what the typesetting needs."""
    shutil.copytree(ROOT / "common", folder.parent / "common", ignore=shutil.ignore_patterns("mnist", "__pycache__"))
    return folder.parent


def reuse(checkout):
    command = [sys.executable, "-m", "common.submission", "--reuse"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, encoding="utf-8", timeout=60)


def test_a_contradicted_claim_is_named_with_status_1_and_the_pdf_is_written(checkout):
    (checkout / "figures" / "submission.pdf").unlink()
    change(checkout / "figures", (("task4", "separation", 4, "variance"), 1))
    finished = reuse(checkout)
    assert finished.returncode == 1
    assert "4.2 two components hold more of the variance with every layer" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert (checkout / "figures" / "submission.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("task3.json", None, "task3.json is missing; run python task3.py"),
        ("task2.json", b"{half", "task2.json cannot be read; run python task2.py"),
        ("task1.json", b"\xff\xfe", "task1.json cannot be read; run python task1.py"),
        ("task1.json", b"[]", "task1.json cannot be read; run python task1.py"),
        ("task4.json", b'{"seed": 0}', "run python -m common.submission anew"),
        ("task4_features.png", None, "task4_features.png is missing; run python task4.py"),
        ("task4_features.png", b"no image", "run python -m common.submission anew"),
    ],
)
def test_missing_and_unreadable_results_are_one_line_and_keep_the_old_pdf(name, content, message, checkout):
    path = checkout / "figures" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    before = (checkout / "figures" / "submission.pdf").read_bytes()
    finished = reuse(checkout)
    assert finished.returncode == 1
    assert message in finished.stderr
    assert len(finished.stderr.splitlines()) == 1
    assert (checkout / "figures" / "submission.pdf").read_bytes() == before
