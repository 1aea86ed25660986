"""The four scripts on small real digits: what they leave behind, and what they say about it."""

import fnmatch
import json
import re
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from conftest import run_script, write_quick_task1

FIGURES = {
    "task1": ("loss", "depth", "gradients", "normalization"),
    "task2": ("examples", "components", "spectrum", "projection"),
    "task3": ("training", "errors"),
    "task4": ("features", "classes"),
}
FILES = {
    task: {f"{task}_{figure}.{suffix}" for figure in figures for suffix in ("png", "svg")} | {f"{task}.json"}
    for task, figures in FIGURES.items()
}
FILES["task1"].add("task1_studies.json")
FILES["task4"].add("task4_explorer.html")
TASKS = tuple(FIGURES)


@pytest.fixture(scope="module")
def ran(tmp_path_factory, small_mnist):
    """A folder in which the four scripts have run from the shell, task 1 with small studies, and the processes."""
    folder = tmp_path_factory.mktemp("ran")
    figures, data = ("--figures", folder / "figures"), ("--data-dir", small_mnist)
    model = ("--checkpoint", folder / "artifacts" / "mlp.pt")
    quick_task1 = write_quick_task1(tmp_path_factory.mktemp("driver"))
    commands = {
        "task1": (quick_task1, "--epochs", 2, "--hidden_channels", 7, 5, "--lr", 0.125, "--batch_size", 64),
        "task2": ("task2.py", *data, "--seed", 3),
        "task3": ("task3.py", *data, *model, "--epochs", 6, "--learning_rate", 0.001, "--batch-size", 32),
        "task4": ("task4.py", *data, *model),
    }
    return folder, {task: run_script(*words, *figures, cwd=folder) for task, words in commands.items()}


def left_by(task, folder):
    """The names of the files that a task has left among the figures."""
    return {path.name for path in (folder / "figures").iterdir() if path.name.startswith(task)}


@pytest.mark.parametrize("task", TASKS)
def test_a_script_ends_with_status_0_and_says_nothing_on_stderr(task, ran):
    _, processes = ran
    assert (processes[task].returncode, processes[task].stderr) == (0, "")


@pytest.mark.parametrize("task", TASKS)
def test_a_script_leaves_exactly_its_figures_and_results(task, ran):
    folder, _ = ran
    left = left_by(task, folder)
    assert left == FILES[task]
    for path in map((folder / "figures").joinpath, left):
        content = path.read_bytes()
        if path.suffix == ".png":
            assert content.startswith(b"\x89PNG")
            assert content.endswith(b"IEND\xaeB`\x82")
        elif path.suffix == ".svg":
            assert ElementTree.fromstring(content).tag.endswith("}svg")
        elif path.suffix == ".json":
            assert json.loads(content)["seed"] == (3 if task == "task2" else 0)
        else:
            assert content.rstrip().endswith(b"</html>")


@pytest.mark.parametrize("task", TASKS)
def test_the_last_line_names_the_folder_and_all_files_that_a_script_has_left(task, ran):
    folder, processes = ran
    last = processes[task].stdout.splitlines()[-1]
    assert str(folder / "figures") in last
    patterns = re.findall(r"task\d[\w*]*\.\w+", last)
    assert [name for name in left_by(task, folder) if not any(fnmatch.fnmatch(name, each) for each in patterns)] == []
    assert (str(folder / "artifacts" / "mlp.pt") in last) == (task == "task3")


def test_the_scripts_leave_nothing_but_figures_results_network_and_features(ran):
    folder, _ = ran
    assert {path.name for path in (folder / "figures").iterdir()} == set().union(*FILES.values())
    assert {path.name for path in folder.iterdir()} == {"figures", "artifacts"}
    assert {path.name for path in (folder / "artifacts").iterdir()} == {"mlp.pt", "features.npz"}


def test_the_sheets_spelling_of_the_flags_is_accepted_and_reaches_the_results(ran):
    folder, _ = ran
    settings = json.loads((folder / "figures" / "task1.json").read_text())["settings"]
    assert settings == {"hidden_channels": [7, 5], "epochs": 2, "batch_size": 64, "learning_rate": 0.125}
    network = json.loads((folder / "figures" / "task3.json").read_text())["network"]
    assert (network["epochs"], network["batch_size"], network["learning_rate"]) == (6, 32, 0.001)


@pytest.mark.parametrize("earlier", [{}, {"task1_studies.json": "earlier"}], ids=["none", "earlier"])
def test_without_studies_task_1_neither_needs_nor_touches_their_results(earlier, run_here, tmp_path):
    for name, content in earlier.items():
        (tmp_path / name).write_text(content)
    assert run_here("task1.py", "--no-studies", "--epochs", 1, "--figures", tmp_path) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"task1.json", "task1_loss.png", "task1_loss.svg", *earlier}
    for name, content in earlier.items():
        assert (tmp_path / name).read_text() == content


class Console:
    """The output of IDLE and of notebooks: it takes text and no more."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.mark.parametrize("task", TASKS)
def test_a_script_runs_where_the_console_has_no_reconfigure(task, run_here, small_mnist, tmp_path, monkeypatch):
    console = Console()
    monkeypatch.setattr(sys, "stdout", console)
    monkeypatch.setattr(sys, "stderr", Console())
    assert run_here(f"{task}.py", *flags_for(task, small_mnist, tmp_path)) == 0
    assert console.text.splitlines()[-1].startswith("left in ")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_script_with_a_progress_bar_runs_where_a_stream_is_closed(
    stream, run_here, small_mnist, tmp_path, monkeypatch
):
    monkeypatch.setattr(sys, stream, None)  # as under pythonw, or after 2>&-
    assert run_here("task3.py", *flags_for("task3", small_mnist, tmp_path)) == 0
    assert (tmp_path / "task3.json").exists()
    if getattr(sys, stream):  # what took its place
        getattr(sys, stream).close()


def flags_for(task, data, folder):
    """The flags for a short run of a task into a folder."""
    if task == "task1":
        return "--figures", folder, "--no-studies", "--epochs", 1
    flags = ["--figures", folder, "--data-dir", data]
    if task == "task3":
        flags += ["--epochs", 1, "--checkpoint", folder / "mlp.pt"]
    if task == "task4":
        from task3 import MultilayerPerceptron, save_checkpoint

        save_checkpoint(MultilayerPerceptron(), folder / "mlp.pt")
        flags += ["--checkpoint", folder / "mlp.pt"]
    return flags
