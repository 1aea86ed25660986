"""What every script does around its work: flags, complete files, one line for every
error.
"""

import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import run_script

from common.script import (
    FIGURES,
    UNFINISHED,
    Failure,
    add_training_flags,
    check_shape,
    choose_device,
    make_writable,
    parse,
    replacing,
    run,
    script_parser,
)
from task3 import DEFAULTS, read_checkpoint


def test_an_array_is_refused_unless_it_has_the_shape():
    check_shape(np.ones((4, 3)), "N", 3)
    for shape in [(4,), (4, 3, 1), (4, 2), (0, 3)]:
        with pytest.raises(ValueError, match="shape"):
            check_shape(np.ones(shape), "N", 3)


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


def write_half(path):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError(28, "full")


def test_a_full_disk_leaves_the_old_file_alone(path):
    with pytest.raises(Failure, match="mlp"):
        write_half(path)
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == [path.name]


def test_what_a_killed_run_left_is_removed_after_an_hour(path):
    with replacing(path) as temporary:
        temporary.write_text("new")
        make_writable(path.parent)  # another run begins
        os.utime(shutil.copy(temporary, f"{temporary}{UNFINISHED}"), (0, 0))
        make_writable(path.parent)
        assert len(os.listdir(path.parent)) == 2
    assert path.read_text() == "new"


def run_and_raise(error, folder):
    def main(options):
        raise error

    run(main, SimpleNamespace(figures=folder, show=False))


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [(MemoryError(), 1, "memory"), (KeyboardInterrupt(), 130, "interrupted")],
)
def test_lack_of_memory_and_ctrl_c_end_a_script_with_one_line(
    error, status, word, tmp_path, capsys
):
    with pytest.raises(SystemExit) as ending:
        run_and_raise(error, tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert ending.value.code == status
    assert word in line


def test_an_error_of_the_program_keeps_its_traceback(tmp_path):
    with pytest.raises(ValueError, match="a bug"):
        run_and_raise(ValueError("a bug"), tmp_path)


@pytest.mark.parametrize(
    ("script", "backend"),
    [("task1.py", "Qt4Agg"), ("common/submission.py", "module://notebook")],
)
def test_a_script_starts_on_an_ascii_console_without_the_backend_of_the_environment(
    script, backend
):
    environment = {"PYTHONIOENCODING": "ascii", "MPLBACKEND": backend}
    assert run_script(script, "--help", **environment).returncode == 0


def test_in_a_cell_of_a_notebook_the_arguments_of_the_kernel_are_no_flags(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/x/ipykernel_launcher.py", "-f", "kernel.json"])
    monkeypatch.setattr(sys, "stdout", None)  # or another object without its methods
    monkeypatch.setattr(sys, "stderr", None)
    assert parse(script_parser("A script")).figures == FIGURES
    assert sys.stderr  # tqdm needs one


def test_a_tilde_is_the_home_folder():
    options = script_parser("A script").parse_args(["--figures=~/x"])
    assert options.figures == Path.home() / "x"


def test_an_edited_setting_is_checked_like_a_flag():
    parser = script_parser("A script")
    add_training_flags(parser, 1e2, 16, 0.1)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args([])


def test_the_automatic_device_is_cuda_where_it_works(monkeypatch):
    def broken(count, device):
        if device.type == "cuda":
            raise RuntimeError("no kernel image\nfor this device")

    monkeypatch.setattr(torch, "ones", lambda count, device: None)
    assert choose_device().type == "cuda"
    monkeypatch.setattr(torch, "ones", broken)
    assert choose_device().type == choose_device("cpu").type == "cpu"
    with pytest.raises(Failure, match="--device cuda"):
        choose_device("cuda")


SCRIPTS = ["task1.py", "task2.py", "task3.py", "task4.py", "common/submission.py"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_help_fits_a_terminal_of_80_columns(script, run_here, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert run_here(script, "--help") == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


WRONG_USE = [
    "task1.py --epochs 0",
    "task1.py --batch_size x",
    "task1.py --hidden-channels 30,30",
    "task1.py --hidden-channels [30, 30]",
    "task1.py --hidden-channels 30 -3",
    "task1.py --hidden-channels 30 2.5",
    "task1.py --lr 0",
    "task3.py --learning-rate inf",
    "task2.py --seed -1",
    "task1.py --data-dir .",
    "task2.py --data-dir",
    "task2.py stray",
    "task3.py --device abacus",
    "task3.py --checkpoint .",
    "task4.py --lr 1",
]


@pytest.mark.parametrize("words", WRONG_USE)
def test_wrong_use_ends_with_status_2_and_a_line_that_names_the_flag(
    words, run_here, capsys
):
    assert run_here(*words.split()) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(words[:8])
    assert words.split()[1] in line


FAILURES = [
    ("task1.py --figures file/figures", "file"),
    ("task1.py --figures figures --lr 1e200", "--learning-rate"),
    ("task2.py --figures figures --data-dir none", "none"),
    ("task3.py --figures figures --lr 1e30 --checkpoint mlp.pt", "--learning-rate"),
    ("task3.py --figures figures --checkpoint file/mlp.pt", "file"),
    ("task4.py --figures figures --checkpoint file", "file"),
    ("task4.py --figures figures --checkpoint mlp.pt", "mlp.pt"),
]


@pytest.mark.parametrize(("words", "named"), FAILURES)
def test_a_failure_is_one_line_with_status_1_and_leaves_all_files_alone(
    words, named, run_here, small_mnist, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNIST_DIR", str(small_mnist))
    Path("file").touch()
    Path("figures").mkdir()
    assert run_here(*words.split()) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(words[:8])
    assert named in line
    assert sorted(os.listdir()) == ["figures", "file"]
    assert not os.listdir("figures")


@pytest.mark.parametrize("task", ["task1", "task2", "task3", "task4"])
def test_a_script_writes_the_files_that_are_committed(
    task, small_mnist, checkout, tmp_path, monkeypatch
):
    monkeypatch.setenv("MNIST_DIR", str(small_mnist))
    shutil.rmtree(checkout / "artifacts", ignore_errors=True)
    finished = run_script(checkout / f"{task}.py", "--figures=.", cwd=tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "%" in "".join(finished.stdout.splitlines()[-3:])  # the finding
    expected = {path.name for path in FIGURES.glob(f"{task}*")}
    page = {"task4_explorer.html"}  # not committed
    assert set(os.listdir(tmp_path)) - page == expected - page
    if task in ("task3", "task4"):  # which trains without a checkpoint
        settings = read_checkpoint(checkout / "artifacts" / "mlp.pt")[1]
        assert settings.items() >= DEFAULTS.items()
