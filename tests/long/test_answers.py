"""Every claim of the answers holds, also for other seeds (pytest -m long), and other
results can contradict it.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import reduce
from operator import getitem

import pytest
from conftest import ROOT

from common.studies import STUDIES
from common.submission import ANSWERS, typeset

SOURCES = [
    path.read_text(encoding="utf-8") for path in sorted(ANSWERS.glob("*.typ"))
]  # in the order of the document
CLAIMS = re.findall(r'claim\(\s*"([^"]+)"', "".join(SOURCES))


@pytest.mark.long
def test_two_seeds_to_which_nothing_was_tuned_contradict_no_claim(tmp_path):
    command = [sys.executable, "-m", "common.submission", "--seed"]
    settings = {
        "cwd": ROOT,
        "env": os.environ | {"OMP_NUM_THREADS": "1"},
        "stderr": subprocess.PIPE,
        "text": True,
    }
    runs = [
        subprocess.Popen([*command, seed, "--figures", tmp_path / seed], **settings)
        for seed in ("1009", "2003")
    ]
    for process in runs:
        _, errors = process.communicate(timeout=1200)
        assert process.returncode == 0, errors


@pytest.fixture
def contradicted(tmp_path):
    """Change results, each to a value or by a function of the old one, and return the
    claims that this contradicts.
    """
    shutil.copytree(
        ROOT / "figures",
        tmp_path,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("*.png", "answers"),
    )

    def change(changes):
        for path, value in changes.items():
            name, *keys = path.split(".")
            file = tmp_path / f"{name}.json"
            results = json.loads(file.read_bytes())
            *outer, last = (
                int(key) if key.lstrip("-").isdigit() else key for key in keys
            )
            inner = reduce(getitem, outer, results)
            if isinstance(inner[last], list) and isinstance(value, int | float):
                value = [value] * len(inner[last])  # of every run
            inner[last] = value(inner[last]) if callable(value) else value
            file.write_text(json.dumps(results), encoding="utf-8")
        return typeset(tmp_path)

    return change


def claims(starts):
    """Return, in the order of the document, the claims that begin like one of `starts`,
    each like one alone.
    """
    found = [
        [name for name in CLAIMS if name.startswith(start)]
        for start in filter(None, starts.split("; "))
    ]
    assert all(len(names) == 1 for names in found), found
    return [name for name in CLAIMS if [name] in found]


FALSE = """
results of tasks 2: task2.plane.accuracy=51 | 1.1 the gradients: task1.gradient_check.3.error=1.01e-9
1.1 without: task1.without_shift.difference=2e-12 | 1.2 without: task1_studies.no_mean.1.learned=1
1.2 nearly: task1.test_accuracy=98.9 | 1.2 all: task2.seed=7 | 1.3; results of task 1: task1.history.test_loss.4=0.05
1.4 under; 1.4 a linear: task1_studies.sheet.0.train.2=0.05 | 1.4 it takes: task1_studies.controls.2.test=0.2
1.4 with many: task1_studies.sheet.2.test=0.02
1.4 with few: task1_studies.scarce.1.train=0.12 | 1.4 the test: task1_studies.scarce.3.error=14
1.4 weight: task1_studies.controls.3.test=0.6 | 1.4 the initial: task1_studies.small_weights.0.learned=1
1.4 the first: task1_studies.gradient_norms_f_and_w.small.1=1 | 5 with layer: task1_studies.normalization.5.test=0.01
5 with batch: task1_studies.normalization.3.test=0.05
1.4 gradients: task1_studies.gradient_norms_f_and_w.He.0.0=2 | 2.1; 3.3 data: task2.data.train="other"
2.3 the spectrum: task2.components.easy_first_nine=0.79 | 2.3 only: task2.components.between_classes.components.8=0.11
2.3 the first: task2.components.closest_differences.0.cosine=0.9 | 2.4 MNIST: task2.classifiers.linear.5=91
2.3 the second: task2.components.closest_differences.1.cosine=0.8 | 2.4 more: task2.classifiers.neighbours.7=95.5
2.4 4, 7 and 9: task2.plane.pairs.2.classes=[2,3] | 3.1: task3.parameters=1 | 4.1 the network: task4.data.test="other"
3.3 the test loss: task3.history.train_loss.-1=0.2 | 4.1 the features: task4.shapes.0=[1,1]
2.2: task2.vectors.mean=0.1 | 4.2 two: task4.untrained.-1.variance=18 | 4.2 training: task4.separation.2.between=42
4.3 training separates: task4.untrained.-1.neighbours=50 | 4.3 training makes: task4.separation.-1.linear=94
4.3 two: task4.finished.accuracy.2.1=70 | 4.3 the network: task4.finished.accuracy.-1=0
4.4 the classes: task4.separation.-1.neighbours=91 | 4.4 the plane: task4.plane_cosines.1=0.9
4.4 training: task4.separation.-1.four_nine=60 | 4.4 errors: task4.errors.true.-1=59
4.4 shifted: task4.shifted_accuracy.2=94 | 5 without: task1_studies.normalization.0.learned=1
"""
ONLY_TOGETHER = """
results of task 4; 4.3 training separates: task4.untrained.-1.neighbours=65
1.4 it takes; 1.4 fewer layers: task1_studies.controls.1.test=0.5
1.4 fewer very; 1.4 under: task1_studies.very_deep.2.learned=5 | 2.4 ones; 2.4 MNI: task2.plane.accuracy_per_class.3=61
3.3 the network; 3.3 the test loss: task3.history.test_loss=0.2
"""


def read(table):
    """Return the changes of a table and the beginnings of the claims that they make
    false.
    """
    edits = [
        edit.split(": ")
        for line in table.strip().splitlines()
        for edit in line.split(" | ")
    ]
    changes = dict(edit.split("=") for _, edit in edits)
    return {path: json.loads(value) for path, value in changes.items()}, "; ".join(
        starts for starts, _ in edits
    )


def each(task, keys, value):
    return {f"{task}.{key}": value for key in keys.split()}


def with_runs(change):  # of every row of every study
    def changed(row):
        row = row | {
            name: change(values)
            for name, values in row.items()
            if isinstance(values, list)
        }
        learned = sum(loss is not None and loss < 0.6 for loss in row["train"])
        return row | {"diverged": row["train"].count(None), "learned": learned}

    return each(
        "task1_studies", " ".join(STUDIES), lambda rows: [changed(row) for row in rows]
    )


LAYERS = "names separation untrained finished.accuracy errors.true errors.taken errors.shown.true errors.shown.taken"
ONE_LAYER = each("task4", LAYERS, lambda values: values[:-4] + values[-1:]) | {
    "task4.shapes": [[10_000, 50]]
}
ONE_LAYER |= {f"{task}.network.layers": [784, 50, 10] for task in ("task3", "task4")}
ONE_EPOCH = {
    "task3.history": lambda lists: {name: values[:1] for name, values in lists.items()}
}
TEN = "variance_shares closest_differences between_classes.components"
ABSENT = each(
    "task4.separation", "0.four_nine 0.recall.9 -1.four_nine -1.recall.9", None
)
# a sentence of all runs, or of the first
ONE_LOST = "1.2 without; 1.4 under; 1.4 a linear; 5 without"
CASES = {
    "the committed results": ({}, ""),
    "one edit a claim": read(FALSE),
    "claims that only fall together": read(ONLY_TOGETHER),
    "two depths": (
        each("task1_studies", "sheet scarce", lambda rows: rows[1::2]),
        "1.4 under",
    ),
    "one seed": (
        with_runs(lambda runs: runs[:1]) | {"task1_studies.settings.seeds": 1},
        "",
    ),
    "more seeds": (with_runs(lambda runs: runs * 3), ""),
    "the first run diverges": (with_runs(lambda runs: [None, *runs[1:]]), ONE_LOST),
    "one hidden layer": (ONE_LAYER, "3.1; 4.1 the features"),
    "SGD": (
        {f"{task}.network.optimizer": "SGD" for task in ("task3", "task4")},
        "3.3 data",
    ),
    "one epoch": (
        ONE_EPOCH,
        "3.3 the network; 3.3 data; 3.3 the test loss; 4.1 the network; 4.4 the classes",
    ),
    "five components": (
        each("task2.components", TEN, lambda values: values[:5]),
        "2.3 only",
    ),
    "a class that does not occur": (
        ABSENT | {"task2.plane.accuracy_per_class.9": None},
        "4.4 training",
    ),
    "no errors and no controls": (
        {"task4.errors": {"count": 0}, "task1_studies.controls": []},
        "",
    ),
}


@pytest.mark.parametrize(("changes", "starts"), CASES.values(), ids=CASES)
def test_other_results_contradict_exactly_what_is_no_longer_true(
    changes, starts, contradicted
):
    assert contradicted(changes) == claims(starts)


def test_every_claim_can_be_contradicted():
    assert claims("; ".join(starts for _, starts in CASES.values() if starts)) == CLAIMS
