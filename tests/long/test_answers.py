"""The answers hold for other seeds (pytest -m long), and name what other results and settings contradict."""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import reduce
from itertools import pairwise
from operator import getitem

import pytest
from conftest import ROOT

from common.studies import STUDIES
from common.submission import typeset

SEEDS = ("1009", "2003")  # nothing was tuned to them
SOURCES = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "figures" / "answers").glob("task*.typ"))]
CLAIMS = [name for source in SOURCES for name in re.findall(r'#claim\(\s*"([^"]+)"', source)]


@pytest.mark.long
def test_other_seeds_contradict_no_claim(tmp_path):
    command = [sys.executable, "-m", "common.submission", "--seed"]
    settings = {"cwd": ROOT, "env": os.environ | {"OMP_NUM_THREADS": "1"}, "stderr": subprocess.PIPE, "text": True}
    folders = [tmp_path / seed for seed in SEEDS]
    runs = [subprocess.Popen([*command, folder.name, "--figures", folder], **settings) for folder in folders]
    for folder, process in zip(folders, runs, strict=True):
        _, errors = process.communicate(timeout=1200)
        assert process.returncode == 0, errors
        assert (folder / "submission.pdf").stat().st_size < 3_000_000
        assert (folder / "mlp.pt").exists()


@pytest.fixture
def contradicted(tmp_path):
    """Change results, each to a value or by a function of the old one, and return the claims that this contradicts."""
    shutil.copytree(ROOT / "figures", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.png"))
    before = typeset(tmp_path)

    def change(changes):
        for path, value in changes.items():
            name, *keys = path.split(".")
            file = tmp_path / f"{name}.json"
            results = json.loads(file.read_bytes())
            *outer, last = (int(key) if key.lstrip("-").isdigit() else key for key in keys)
            inner = reduce(getitem, outer, results)
            if isinstance(inner[last], list) and not (callable(value) or isinstance(value, list)):
                value = [value] * len(inner[last])  # of every run
            inner[last] = value(inner[last]) if callable(value) else value
            file.write_text(json.dumps(results), encoding="utf-8")
        return [claim for claim in typeset(tmp_path) if claim not in before]

    return change


FALSE = """
task1.gradient_check.0.error=1e-8 task2.seed=7 task1.history.test_loss.0=0.01 task1.history.train_loss.-1=1e-9
task1_studies.sheet.1.train=0.2 task1_studies.sheet.3.test=0.1 task1_studies.scarce.3.test=0.01
task1_studies.scarce.3.least_epoch=200 task1_studies.more_points.0.test=0.9 task1_studies.large_weights.0.diverged=5
task1_studies.small_weights.0.train=0.1 task1_studies.gradient_norms_f_and_w.He.0.0=1e9
task1_studies.gradient_norms_f_and_w.small.1=1e9 task2.data.train="other"
task2.components.closest_differences.0.cosine=0 task2.components.closest_differences.1.cosine=0
task2.components.between_classes.components.8=0.99 task2.components.between_classes.all=0.9
task2.plane.accuracy_per_class.5=100 task2.plane.pairs.0.classes=[0,1] task2.neighbours.accuracy.5=50
task3.parameters=1 task3.network.epochs=3 task3.history.test_accuracy.4=0 task3.history.train_loss.-1=9
task3.timing.seconds_large_batches=1e6 task4.network.epochs=4 task4.shapes.0=[1,1] task4.separation.4.variance=0
task4.separation.2.components_for_90=99 task4.separation.4.silhouette=-1 task4.separation.0.pairs.0.classes=[0,1]
task4.separation.4.linear=10 task4.shifted_accuracy.2=99 task1_studies.normalization.0.diverged=0
task1_studies.normalization.2.test=0.5 task1_studies.normalization.5.test=0.001
"""


def test_every_claim_can_be_contradicted(contradicted):
    pairs = (pair.partition("=") for pair in FALSE.split())
    assert contradicted({path: json.loads(value) for path, _, value in pairs}) == CLAIMS


def hidden(*widths):
    """The changes that other hidden layers make to the results."""
    sizes = [784, *widths, 10]
    return {f"{task}.network.layers": sizes for task in ("task3", "task4")} | {
        "task3.parameters": sum((inputs + 1) * outputs for inputs, outputs in pairwise(sizes)),
        "task4.shapes": [[10_000, width] for width in widths],
        "task4.names": ["pixels", *(f"layer {number}" for number, _ in enumerate(widths, 1))],
        "task4.separation": lambda rows: rows[:1] + rows[-1:] * len(widths),
    }


def first_run(rows):
    """The rows of a study with one seed."""
    lists = [{name: values[:1] for name, values in row.items() if isinstance(values, list)} for row in rows]
    return [{**row, **first, "diverged": first["test"].count(None)} for row, first in zip(rows, lists, strict=True)]


def each(task, keys, value):
    """The same change of several results of a task."""
    return {f"{task}.{key}": value for key in keys.split()}


SHARES = "variance_shares closest_differences between_classes.components"
RUNS = each("task1_studies.scarce.3", "train test least_test least_epoch", None)
RUNS |= each("task1_studies", "sheet.3.test.0 normalization.4.test more_points.0.test small_weights.0.train", None)
EPOCHS = each("task3.history", "train_loss train_accuracy test_loss test_accuracy", lambda values: values[:1])
CLASS = {f"task4.separation.{space}.neighbours_per_class.-1": None for space in range(5)}
CASES = {
    "five components": (each("task2.components", SHARES, lambda values: values[:5]), "2.3"),
    "two depths": (each("task1_studies", "sheet scarce", lambda rows: rows[1::2]), ""),
    "five depths": (each("task1_studies", "sheet scarce", lambda rows: [*rows, {**rows[-1], "depth": 20}]), ""),
    "one seed": ({"task1_studies.settings.seeds": 1} | each("task1_studies", " ".join(STUDIES), first_run), ""),
    "runs that diverge": (RUNS | {"task1_studies.scarce.3.diverged": 5}, "1.4 1.4 1.4 1.4 5 5"),
    "three layers": (hidden(100, 100, 100), "3.1 4.1"),
    "five layers": (hidden(100, 100, 100, 100, 100), "3.1 4.1"),
    "other widths": (hidden(200, 100, 50, 25), "3.1 4.1"),
    "another optimizer": ({f"{task}.network.optimizer": "SGD" for task in ("task3", "task4")}, "3.3"),
    "one epoch": (EPOCHS, "3.3 4.1"),
    "another seed": ({"task2.seed": 7}, "1.2"),
    "another network": ({"task4.network.seed": 77}, "4.1"),
    "other images": ({"task2.data.train": "other"}, "2.1 3.3"),
    "a class that does not occur": (CLASS | {"task2.plane.accuracy_per_class.-1": None}, ""),
}


@pytest.mark.parametrize(("changes", "numbers"), CASES.values(), ids=CASES)
def test_other_settings_and_results_contradict_what_is_no_longer_true(changes, numbers, contradicted):
    assert [claim.split()[0] for claim in contradicted(changes)] == numbers.split()
