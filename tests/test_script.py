"""What every script does around its work: flags, complete files, one line for every
error.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, run_script

from common import script
from common.script import Failure, replacing


def test_an_array_is_refused_unless_it_has_the_shape():
    script.check_shape(np.ones((4, 3)), "N", 3)
    for shape in [(4,), (4, 3, 1), (4, 2), (0, 3)]:
        with pytest.raises(ValueError, match="shape"):
            script.check_shape(np.ones(shape), "N", 3)


def test_labels_are_refused_unless_they_are_integers_from_zero_to_the_last_class():
    script.check_labels(np.array([0, 2, 1], np.uint8), 3, 3)
    for labels in ([0, 1, 3], [0, -1, 0], [0, 1], [[0, 1, 2]], [0.0, 1.0, 2.0]):
        with pytest.raises(ValueError, match="labels"):
            script.check_labels(np.array(labels), 3, 3)


@pytest.fixture
def path(tmp_path):
    """A file with old content, alone in its folder."""
    path = tmp_path / "mlp [1].pt"
    path.write_text("old")
    return path


def test_of_two_that_write_one_file_the_last_replaces_it_once_it_is_complete(path):
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert path.read_text() == "old"
    assert path.read_text() == "first"
    assert os.listdir(path.parent) == [path.name]


def write_half(path, problem):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise problem


@pytest.mark.parametrize("problem", [OSError(28, "full"), KeyboardInterrupt()])
def test_what_breaks_the_writing_leaves_the_old_file_alone(problem, path):
    with pytest.raises((Failure, KeyboardInterrupt)) as raised:
        write_half(path, problem)
    assert raised.value is problem or str(path) in str(raised.value)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == [path.name]


def test_what_a_killed_run_left_is_removed_after_an_hour(path):
    with replacing(path) as temporary:
        for seconds in (1800, 7200):
            temporary.touch()
            before = time.time() - seconds
            os.utime(temporary, (before, before))
            script.make_writable(path.parent)
            assert temporary.exists() == (seconds < 3600)
        temporary.write_text("new")
    assert os.listdir(path.parent) == [path.name]


def run_and_raise(error, folder):
    def main(options):
        raise error

    script.run(main, SimpleNamespace(figures=folder, show=False))


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (Failure("take another"), 1, "take another"),
        (FileNotFoundError(2, "missing", "some/file"), 1, "some/file"),
        (MemoryError(), 1, "memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_that_people_meet_ends_a_script_with_one_line(
    error, status, word, tmp_path, capsys
):
    with pytest.raises(SystemExit) as ending:
        run_and_raise(error, tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert (ending.value.code, word in line) == (status, True)


def test_an_error_of_the_program_keeps_its_traceback(tmp_path):
    with pytest.raises(ValueError, match="a bug"):
        run_and_raise(ValueError("a bug"), tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
def test_a_full_output_ends_a_script_with_one_line(tmp_path):
    words = [sys.executable, ROOT / "task1.py", "--figures", tmp_path]
    with open("/dev/full", "w") as full:
        finished = subprocess.run(words, stdout=full, stderr=subprocess.PIPE)
    assert (finished.returncode, finished.stderr.count(b"\n")) == (1, 1)


def test_a_console_that_knows_only_ascii_shows_the_help():
    finished = run_script("task1.py", "--help", PYTHONIOENCODING="ascii")
    assert finished.returncode == 0


def test_in_a_cell_of_a_notebook_the_arguments_of_the_kernel_are_no_flags(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/x/ipykernel_launcher.py", "-f", "kernel.json"])
    monkeypatch.setattr(sys, "stdout", None)  # or another object without its methods
    assert script.parse(script.script_parser("A script")).figures == script.FIGURES


def test_a_tilde_is_the_home_folder():
    options = script.script_parser("A script").parse_args(["--figures=~/x"])
    assert options.figures == Path.home() / "x"


@pytest.mark.parametrize("works", [True, False])
def test_the_automatic_device_is_cuda_where_it_works(works, monkeypatch):
    def ones(count, device):
        if device.type == "cuda" and not works:
            raise RuntimeError("no kernel image\nfor this device")

    monkeypatch.setattr(torch, "ones", ones)
    assert script.choose_device("cpu").type == "cpu"
    assert script.choose_device().type == ("cuda" if works else "cpu")
    if not works:
        with pytest.raises(Failure, match=r"^--device cuda .*$"):
            script.choose_device("cuda")


WRONG_USE = [
    "task1.py --epochs 0",
    "task1.py --epochs 1.5",
    "task1.py --batch_size x",
    "task1.py --lr 0",
    "task3.py --learning-rate nan",
    "task3.py --learning-rate inf",
    "task2.py --seed -1",
    "task1.py --hidden-channels 30,30",
    "task1.py --data-dir .",
    "task2.py --data-dir",
    "task2.py stray",
    "task3.py --device abacus",
    "task4.py --lr 1",
]


@pytest.mark.parametrize("words", WRONG_USE)
def test_wrong_use_ends_with_status_2_and_a_line_that_names_the_flag(
    words, run_here, capsys
):
    name, *flags = words.split()
    assert run_here(name, *flags) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"{name}: error: ")
    assert flags[0] in line


FAILURES = [
    ("task1.py --figures=file/figures", "file"),
    ("task1.py --lr=1e200", "--learning-rate"),
    ("task2.py --data-dir=none", "none"),
    ("task3.py --lr=1e30", "--learning-rate"),
    ("task3.py --checkpoint=file/mlp.pt", "file"),
    ("task4.py --checkpoint=figures", "figures"),
    ("task4.py --checkpoint=file", "file"),
    ("task4.py --checkpoint=mlp.pt", "mlp.pt"),
]


@pytest.mark.parametrize(("words", "named"), FAILURES)
def test_a_failure_is_one_line_with_status_1_and_leaves_all_files_alone(
    words, named, run_here, small_mnist, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNIST_DIR", str(small_mnist))
    Path("file").touch()
    Path("figures").mkdir()
    name, *flags = words.split()
    if name == "task3.py":
        flags.insert(0, "--checkpoint=mlp.pt")
    assert run_here(name, "--figures=figures", *flags) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{name}: ")
    assert named in line
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "figures", tmp_path / "file"]


TRAINING = {"epochs": 6, "batch_size": 32, "learning_rate": 0.001}


@pytest.mark.parametrize(
    ("names", "settings"),
    [(["task1"], "settings"), (["task2"], None), (["task3", "task4"], "network")],
)
def test_scripts_write_the_files_that_are_committed_and_take_their_flags(
    names, settings, small_mnist, checkout, tmp_path
):
    committed = set()
    for name in names:
        flags = ["--seed=3", "--figures=figures"]
        if name in ("task1", "task3"):
            flags += [f"--{setting}={value}" for setting, value in TRAINING.items()]
        if name in ("task3", "task4"):
            flags += ["--device=cpu", "--checkpoint=mlp.pt"]
        finished = run_script(
            checkout / f"{name}.py", *flags, cwd=tmp_path, MNIST_DIR=str(small_mnist)
        )
        assert (finished.returncode, finished.stderr) == (0, "")
        committed |= {path.name for path in (ROOT / "figures").glob(f"{name}*")}
    page = {"task4_explorer.html"}
    assert set(os.listdir(tmp_path / "figures")) - page == committed - page
    results = json.loads((tmp_path / "figures" / f"{names[0]}.json").read_text())
    assert results["seed"] == 3
    assert settings is None or TRAINING.items() <= results[settings].items()
