"""The answers' claims hold, for other seeds too, and other results contradict them."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from common.submission import ANSWERS, typeset

SOURCES = sorted(ANSWERS.glob("task*.typ"))
TEXT = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
CLAIMS = re.findall(r'claim\(\s*"([^"]+)"', TEXT)  # in the order of the document


@pytest.mark.long
def test_two_seeds_to_which_nothing_was_tuned_contradict_no_claim(tmp_path):
    for seed in ("1009", "2003"):
        command = [sys.executable, "-m", "common.submission", "--seed", seed]
        finished = subprocess.run(
            [*command, "--figures", tmp_path / seed],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            encoding="utf-8",
        )
        assert finished.returncode == 0, finished.stderr


@pytest.fixture
def contradicted(tmp_path):
    """Change results by {"file.key.key": value}; return the contradicted claims."""
    for path in (ROOT / "figures").glob("task*.*"):
        if path.suffix in (".json", ".svg"):
            shutil.copy(path, tmp_path)

    def change(changes):
        for path, value in changes.items():
            name, *keys = path.split(".")
            file = tmp_path / f"{name}.json"
            results = json.loads(file.read_bytes())
            inner = results
            *outer, last = [int(key) if key.isdigit() else key for key in keys]
            for key in outer:
                inner = inner[key]
            inner[last] = value
            file.write_text(json.dumps(results), encoding="utf-8")
        return typeset(tmp_path)

    return change


def named(starts):
    """The claims that begin so, in the order of the document."""
    starts = tuple(start for start in starts.split("; ") if start)
    return [name for name in CLAIMS if name.startswith(starts)]


FALSE = {  # an edit for each claim, so small that the claim has only just become false
    "1.1 the gradients": {"task1.gradient_check.3.error": 1.01e-9},
    "1.1 without": {"task1.without_shift.difference": 1.01e-12},
    "1.2 all": {"task2.seed": 7},
    "1.3 ": {"task1.history.test_loss.4": 0.0305},
    "1.4 in the default setting more": {
        "task1_studies.default.3.train_end": [0.005] * 5
    },
    "1.4 with few": {"task1_studies.scarce.1.rises_again": 1},
    "1.4 in the default setting the": {"task1_studies.default.2.rises_again": 6},
    "1.4 without": {"task1_studies.default.0.test_end.2": 0.06},
    "1.4 deep": {"task1_studies.settings.bayes_train": [0.1] * 5},
    "1.4 four": {"task1_studies.controls.1.test_end": [0.35] * 5},
    "1.4 two": {"task1_studies.scarce.1.least_epoch": [101] * 5},
    "1.4 fifty": {"task1_studies.limit.0.learned": 4},
    "2.2": {"task2.vectors.mean": 0.7},
    "2.3 easy": {"task2.components.easy_in_class_span.4": 0.94},
    "2.3 nine": {"task2.components.easy_first_nine": 0.79},
    "2.3 the first": {"task2.components.closest_differences.0.cosine": 0.89},
    "2.3 the second": {"task2.components.closest_differences.1.classes": [2, 9]},
    "2.4 MNIST": {"task2.plane.accuracy": 60.1},
    "2.4 ones": {"task2.plane.precision.0": 96},
    "2.4 4, 7": {"task2.plane.pairs.3.images": 1000},
    "2.4 in more": {"task2.classifiers.linear.5": 92.5},
    "3.1": {"task3.parameters": 109_811},
    "3.3 the loss": {"task3.history.train_loss.9": 0.1},
    "4.1 the features": {"task4.shapes.0": [10_000, 99]},
    "4.1 the network": {"task4.shifted.network.0": 96.0},
    "4.2 training moves": {"task4.separation.2.between": 44},
    "4.2 training makes": {"task4.untrained.3.linear": 88},
    "4.3 training": {"task4.untrained.3.neighbours": 40},
    "4.3 the network": {"task4.finished.accuracy.4": [20] * 7 + [97]},
    "4.4 the classes": {"task4.separation.4.neighbours": 49},
    "4.4 the plane": {"task4.plane_cosines.1": 0.94},
    "4.4 an MLP; 4.4 shifted": {"task4.shifted.network.4": 51},
}
FASHION = {"task2.data.train": "another", "task4.data.test": "another"}
SGD = {"task3.network.optimizer": "SGD", "task4.network.optimizer": "SGD"}
ONE_EPOCH = {
    "task3.history.train_loss": [0.36],
    "task3.history.train_accuracy": [89.6],
    "task3.history.test_loss": [0.36],
    "task3.history.test_accuracy": [88.9],
}
CASES = {
    "the committed results": ({}, ""),
    "another data set": (
        FASHION,
        "2.1; 2.3 the; 2.3 easy; 2.4 MNIST; 2.4 ones; 2.4 4; 3.3 data; "
        "4.1 the network; 4.4 an MLP; 4.4 shifted",
    ),
    "another optimizer": (SGD, "3.3 data"),
    "one epoch": (ONE_EPOCH, "3.3; 4.1 the network; 4.4 an MLP"),
}


@pytest.mark.parametrize(("changes", "starts"), CASES.values(), ids=CASES)
def test_other_results_contradict_what_is_no_longer_true(changes, starts, contradicted):
    assert contradicted(changes) == named(starts)


def test_an_edit_for_each_claim_contradicts_it(contradicted):
    changes = {}
    for edit in FALSE.values():
        changes |= edit
    assert contradicted(changes) == named("; ".join(FALSE))


def test_every_claim_is_among_them():
    starts = [*FALSE, *(starts for _, starts in CASES.values())]
    assert named("; ".join(starts)) == CLAIMS
