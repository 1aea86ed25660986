"""The answers hold for other seeds, name what contradicts them, and are set as pages should be: pytest -m long."""

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor

import pytest
import typst
from conftest import ROOT

from common.submission import collect, typeset

pytestmark = pytest.mark.long
SEEDS = (1009, 2003)
SOURCES = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "figures").glob("task*.typ"))]
CLAIMS = [name for source in SOURCES for name in re.findall(r'#claim\(\s*"([^"]+)"', source)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The submissions of two seeds that nothing was tuned to, as folders and finished processes."""

    folders = [tmp_path_factory.mktemp(f"seed{seed}") for seed in SEEDS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # two share the cores

    def submit(seed, folder):
        words = [sys.executable, "-m", "common.submission", "--seed", str(seed), "--figures", str(folder)]
        return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)

    with ThreadPoolExecutor(2) as pool:
        return list(zip(folders, pool.map(submit, SEEDS, folders), strict=True))


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the results of one seed."""
    return shutil.copytree(finished[0][0], tmp_path / "results")


def change(folder, *changes):
    """Replace results, each given as the file, a path of keys and a value."""
    for (name, *keys, last), value in changes:
        path = folder / f"{name}.json"
        results = json.loads(path.read_text(encoding="utf-8"))
        inner = results
        for key in keys:
            inner = inner[key]
        inner[last] = value
        path.write_text(json.dumps(results), encoding="utf-8")


def test_other_seeds_contradict_no_claim(finished):
    for folder, process in finished:
        assert process.returncode == 0, process.stderr
        assert (folder / "submission.pdf").stat().st_size < 3_000_000
        assert (folder / "mlp.pt").exists()


FALSE = [
    (("task1", "gradient_check", 0, "error"), 1e-8),
    (("task1", "history", "test_loss", 0), 0.01),
    (("task1", "history", "train_loss", -1), 1e-9),
    (("task1_studies", "sheet", 1, "train"), [0.2] * 5),
    (("task1_studies", "sheet", 3, "test"), [0.1] * 5),
    (("task1_studies", "sheet", 3, "wrong_points"), [100] * 5),
    (("task1_studies", "scarce", 3, "test"), [0.01] * 5),
    (("task1_studies", "scarce", 3, "least_epoch"), [200] * 5),
    (("task1_studies", "more_points", 0, "test"), [0.9] * 5),
    (("task1_studies", "large_weights", 0, "diverged"), 5),
    (("task1_studies", "small_weights", 0, "train"), [0.1] * 5),
    (("task1_studies", "gradient_norms_f_and_w", "He", 0, 0), 1e9),
    (("task1_studies", "gradient_norms_f_and_w", "small", 1), [1e9] * 13),
    (("task1_studies", "normalization", 0, "diverged"), 0),
    (("task1_studies", "normalization", 2, "test"), [0.5] * 5),
    (("task1_studies", "normalization", 5, "test"), [0.001] * 5),
    (("task2", "data", "train"), "another"),
    (("task2", "components", "closest_differences", 0, "cosine"), 0),
    (("task2", "components", "closest_differences", 1, "cosine"), 0),
    (("task2", "components", "between_classes", "components", 8), 0.99),
    (("task2", "components", "between_classes", "all"), 0.9),
    (("task2", "plane", "accuracy_per_class", 5), 100),
    (("task2", "plane", "pairs", 0, "classes"), [0, 1]),
    (("task2", "neighbours", "accuracy", 5), 50),
    (("task3", "parameters"), 1),
    (("task3", "history", "test_accuracy", 4), 0),
    (("task3", "history", "train_loss", -1), 9),
    (("task3", "timing", "seconds_large_batches"), 1e6),
    (("task4", "network", "epochs"), 3),
    (("task4", "shapes", 0), [1, 1]),
    (("task4", "separation", 4, "variance"), 0),
    (("task4", "separation", 2, "components_for_90"), 99),
    (("task4", "separation", 4, "silhouette"), -1),
    (("task4", "resemblance", 1), 0),
    (("task4", "separation", 0, "pairs", 0, "classes"), [0, 1]),
    (("task4", "separation", 4, "linear"), 10),
    (("task4", "shifted_accuracy", 2), 99),
]


def test_every_claim_can_be_contradicted(folder):
    change(folder, *FALSE)
    assert typeset(folder) == CLAIMS


@pytest.mark.parametrize(
    ("changes", "contradicted"),
    [
        ([FALSE[0]], {"1.1 the gradients agree with central differences"}),
        ([(("task3", "history", "test_accuracy", 4), 93.9)], {"3.3 five epochs pass 94 %"}),
        ([(("task4", "network", "seed"), 77)], {"4.1 the network and the images are those of task 3"}),
        ([(("task4", "data", "test"), "other")], {"4.1 the network and the images are those of task 3"}),
        ([(("task4", "shifted_accuracy", 0), 90)], {"4.1 the network and the images are those of task 3"}),
        ([(("task2", "data", "train"), "other")], {"2.1 the data set is MNIST", "3.3 the data are those of task 2"}),
    ],
)
def test_changed_results_name_the_claims_that_they_contradict(changes, contradicted, folder):
    change(folder, *changes)
    assert set(typeset(folder)) >= contradicted


def test_diverged_runs_are_named_in_the_text_and_stop_nothing(folder):
    runs = [0.2, None, 0.3, None, None]
    rows = json.loads((folder / "task1_studies.json").read_text(encoding="utf-8"))["scarce"]
    lost = dict.fromkeys(("train", "test", "least_test", "least_epoch", "wrong_points", "wrong_share"), [None] * 5)
    change(
        folder,
        (("task1_studies", "scarce", 3), {**rows[3], **lost, "diverged": 5}),
        (("task1_studies", "sheet", 3, "test"), runs),
        (("task1_studies", "sheet", 3, "diverged"), 3),
        (("task1_studies", "normalization", 4, "test"), [None] * 5),
        (("task1_studies", "more_points", 0, "test"), [None] * 5),
        (("task1_studies", "small_weights", 0, "train"), [None] * 5),
    )
    assert "1.4 with scarce data the test loss of deep networks turns around" in typeset(folder)


def test_a_class_that_does_not_occur_and_few_epochs_stop_nothing(folder):
    per_class = [99.0] * 9 + [None]
    changes = [(("task4", "separation", k, "neighbours_per_class"), per_class) for k in range(5)]
    changes.append((("task2", "plane", "accuracy_per_class"), per_class))
    for split in ("train", "test"):
        changes += [(("task3", "history", f"{split}_loss"), [0.5]), (("task3", "history", f"{split}_accuracy"), [90.0])]
    change(folder, *changes)
    assert "3.3 five epochs pass 94 %" in typeset(folder)


def places(folder, tmp_path):
    """Every figure's label, its place and the place where the text first names it, each as page and height."""
    target = tmp_path / "source"
    target.mkdir()
    source = collect(folder, target)
    return json.loads(typst.query(source, "<places>", field="value", ignore_system_fonts=True))[0]


def test_figures_stand_in_the_order_of_their_numbers_near_their_text(folder, tmp_path):
    found = places(folder, tmp_path)
    assert len(found) >= 12
    assert [place for _, place, _ in found] == sorted(place for _, place, _ in found)
    for label, (page, _), (named, _) in found:
        assert page - named in (0, 1), label


def test_every_figure_exists_as_vectors_and_as_pixels_with_text_large_enough(folder):
    named = set(re.findall(r'"(task\d_\w+)\.svg"', "".join(SOURCES)))
    assert {path.stem for path in folder.glob("task*.svg")} == named == {path.stem for path in folder.glob("task*.png")}
    for name in named:
        tree = ElementTree.parse(folder / f"{name}.svg")
        sizes = {
            float(scale) * 100
            for element in tree.iter("{http://www.w3.org/2000/svg}g")
            for scale in re.findall(r"scale\(([\d.]+) -", element.get("transform", ""))
        }
        assert sizes, name
        assert min(sizes) >= 6.5, (name, sizes)
