"""What every script does around its work: flags, complete files, one line for every
error, any console.
"""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, idx_bytes, run_script

from common.script import (
    FEATURES,
    Failure,
    check_labels,
    check_shape,
    choose_device,
    replacing,
)


def throw(error, *_):
    raise error


def test_an_array_is_refused_unless_it_has_the_shape_and_labels_unless_they_are_classes():
    for expected in ((4, 3), ("N", 3), ("N", "C")):
        check_shape(np.ones((4, 3)), *expected)
    for shape in ((4,), (4, 3, 1), (4, 2), (0, 3), ()):
        with pytest.raises(
            ValueError,
            match=re.escape(f"expected an array of shape [N, 3], got {list(shape)}"),
        ):
            check_shape(np.ones(shape), "N", 3)
    check_labels(np.array([0, 2, 1, 0], np.uint8), 4, 3)
    for labels in (
        [0, 1, 3, 0],
        [0, -1, 0, 0],
        [0, 1],
        [[0], [1], [0], [1]],
        [0.0, 1.0, 0.0, 1.0],
    ):
        with pytest.raises(ValueError, match=r"expected .*labels"):
            check_labels(np.array(labels), 4, 3)


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
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "problem",
    [OSError(28, "No space left on device"), SystemExit(130), ValueError("wrong")],
)
def test_what_breaks_the_writing_leaves_the_old_file_alone(problem, path):
    with pytest.raises(type(problem)) as raised, replacing(path) as temporary:
        throw(problem, temporary.write_text("half"))
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
    assert getattr(raised.value, "filename", str(path)) == str(path)


ADVICE = "free space, close it in other programs or choose another path"
FULL = [f"task0.py: output: No space left on device; {ADVICE}"]
DARK = dict.fromkeys(("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND"), "")
ENDINGS = {
    "full disk at the end": ("print('text')", "> /dev/full", {}, 1, FULL),
    "full disk at once": ("print('text', flush=True)", "> /dev/full", {}, 1, FULL),
    "head": (
        "print('text\\n' * 10**6)",
        "| head -1",
        {},
        1,
        [f"task0.py: output: Broken pipe; {ADVICE}"],
    ),
    "Ctrl-C": (
        "os.kill(os.getpid(), signal.SIGINT)",
        "",
        {},
        130,
        ["task0.py: interrupted"],
    ),
    "ASCII": (
        "print('→'); raise Failure('∂L')",
        "",
        {"PYTHONIOENCODING": "ascii"},
        1,
        ["task0.py: ?L"],
    ),
    "cp1252": (
        "print('→'); raise Failure('∂Ü')",
        "",
        {"PYTHONIOENCODING": "cp1252"},
        1,
        ["task0.py: ?Ü"],
    ),
    "no memory": (
        "raise MemoryError",
        "",
        {},
        1,
        ["task0.py: not enough memory; choose a smaller network or batch"],
    ),
    "no display": (
        "options.show = True",
        "",
        DARK,
        0,
        ["no display: the figures are in their folder only"],
    ),
}


@pytest.mark.skipif(
    sys.platform != "linux",
    reason="needs a shell, a file that is always full and no display",
)
@pytest.mark.parametrize(
    ("work", "redirection", "environment", "status", "lines"),
    ENDINGS.values(),
    ids=ENDINGS,
)
def test_a_script_says_in_one_line_why_it_ends(
    work, redirection, environment, status, lines, tmp_path
):
    (tmp_path / "task0.py").write_text(
        f"import os, signal, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from common.script import Failure, parse, run, script_parser\n"
        f"def main(options): {work}\n"
        "run(main, parse(script_parser('A script')))\n",
        encoding="utf-8",
    )
    command = (
        f"('{sys.executable}' task0.py --figures .; echo $? > status) {redirection}"
    )
    pipes = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
        "encoding": "latin-1",
    }
    finished = subprocess.run(
        command, shell=True, cwd=tmp_path, env=os.environ | environment, **pipes
    )
    assert ((tmp_path / "status").read_text(), finished.stderr.splitlines()) == (
        f"{status}\n",
        lines,
    )


@pytest.mark.parametrize(
    ("available", "working"),
    [(False, ["cpu"]), (True, ["cpu"]), (True, ["cpu", "cuda"])],
)
def test_the_device_is_the_named_one_or_cuda_where_it_works(
    available, working, monkeypatch, capsys
):
    error = (RuntimeError if available else AssertionError)("no kernel. See\nhelp")
    monkeypatch.setattr(
        torch,
        "ones",
        lambda count, device: torch.zeros(count) if device in working else throw(error),
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert [choose_device(name).type for name in ("auto", *working)] == [
        working[-1],
        *working,
    ]
    falls_back = available and working == ["cpu"]
    assert (
        capsys.readouterr().err
        == "cuda does not work (no kernel); computing on the CPU\n" * falls_back
    )
    for name in {"cuda"}.difference(working):
        with pytest.raises(
            Failure,
            match=r"^--device cuda does not work \(no kernel\); use --device auto$",
        ):
            choose_device(name)


WRONG_USE = [
    f"task1.py --epochs {value}"
    for value in ("-1", "0", "1.5", "", "x", "1e3", "²", "٣", "1_0")
]
WRONG_USE += [
    f"task3.py --learning-rate {value}" for value in ("-1", "0", "nan", "inf", "x", "")
]
WRONG_USE += [
    f"task2.py --seed {value}" for value in ("-1", "x", "1.0", "", "4294967296")
]
WRONG_USE += [
    "task1.py --batch_size 0",
    "task1.py --lr 0",
    "task4.py --lr 1",
    "task1.py --data-dir .",
]
WRONG_USE += [
    "task2.py --data-dir",
    "task2.py stray",
    "task3.py --device abacus",
    "task4.py --device ",
]
WRONG_USE += [
    "task3.py --checkpoint .",
    f"task3.py --checkpoint {FEATURES}",
    "task1.py --hidden-channels 30,30",
]


@pytest.mark.parametrize("words", WRONG_USE)
def test_wrong_use_ends_with_status_2_the_usage_and_one_line_that_names_the_flag(
    words, run_here, capsys
):
    script, *flags = words.split(" ")
    assert run_here(script, *flags) == 2
    usage, *_, last = capsys.readouterr().err.splitlines()
    assert usage.startswith(f"usage: {script} ")
    assert re.match(f"{script}: error: .*{flags[0]}", last)


FAILURES = {
    "task1.py --figures file/figures": f"file/figures: Not a directory; {ADVICE}",
    "task1.py --lr 1e200 --hidden-channels 9 9": "the loss is .* in epoch 1, step .*; take a smaller --learning-rate",
    "task2.py --data-dir few": "found 19 of class 1, 1 of class 2; at least two classes are needed, .*",
    "task2.py --data-dir none": "no file train-images-idx3-ubyte or .*gz in none; --data-dir or MNIST_DIR .*",
    "task3.py --lr 1e30": "the loss is not finite in epoch 1, step .*; take a smaller --learning-rate",
    "task3.py --checkpoint file/mlp.pt": f"file: File exists; {ADVICE}",
    "task4.py --data-dir few": "found 19 of class 1, 1 of class 2; at least two classes are needed, .*",
    "task4.py": "there is no checkpoint mlp.pt; run python task3.py --checkpoint mlp.pt first",
}


@pytest.mark.skipif(sys.platform == "win32", reason="its messages are other ones")
@pytest.mark.parametrize(
    ("words", "message"), FAILURES.items(), ids=[words[:40] for words in FAILURES]
)
def test_a_failure_is_one_line_with_status_1_and_leaves_all_files_alone(
    words, message, run_here, small_mnist, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for folder in ("figures", "few"):
        (tmp_path / folder).mkdir()
    (tmp_path / "file").write_text("")
    for split in ("train", "t10k"):
        (tmp_path / "few" / f"{split}-images-idx3-ubyte").write_bytes(
            idx_bytes(np.zeros((20, 28, 28)))
        )
        (tmp_path / "few" / f"{split}-labels-idx1-ubyte").write_bytes(
            idx_bytes(np.repeat([1, 2], [19, 1]))
        )
    before = sorted(tmp_path.rglob("*"))
    script, *flags = words.split()
    paths = {"figures": "figures", "data-dir": small_mnist, "checkpoint": "mlp.pt"}
    taken = [
        f"--{name}={paths[name]}"
        for name in list(paths)[: {"task1.py": 1, "task2.py": 2}.get(script, 3)]
    ]
    assert run_here(script, *taken, *flags) == 1
    assert re.fullmatch(f"{script}: {message}\n", capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before


FIGURES = {
    "task1": "loss depth gradients normalization",
    "task2": "examples components spectrum projection",
}
FIGURES |= {"task3": "training errors", "task4": "features components"}
OTHERS = {
    "figures",
    "artifacts",
    "mlp.pt",
    FEATURES,
    "task1_studies.json",
    "task4_explorer.html",
}


def test_the_scripts_write_exactly_their_figures_and_results_and_say_so_and_take_their_flags(
    small_mnist, checkout, tmp_path
):
    data, model = ("--data-dir", small_mnist), ("--checkpoint", "artifacts/mlp.pt")
    commands = {  # task 1 has small studies in the checkout
        "task1": (
            checkout / "task1.py",
            "--epochs",
            2,
            "--hidden_channels",
            7,
            5,
            "--lr",
            0.125,
            "--batch_size",
            64,
        ),
        "task2": ("task2.py", *data, "--seed", 3),
        "task3": (
            "task3.py",
            *data,
            *model,
            "--epochs",
            6,
            "--learning_rate",
            0.001,
            "--batch-size",
            32,
        ),
        "task4": ("task4.py", *data, *model, "--device", "cpu"),
    }

    def execute(tasks):
        return [
            run_script(*commands[task], "--figures", "figures", cwd=tmp_path)
            for task in tasks
        ]

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(execute, [("task1", "task2"), ("task3", "task4")])
    for task, finished in zip(commands, first + second, strict=True):
        errors = re.sub(
            r"(?m)^\[W.*\n", "", finished.stderr
        )  # PyTorch says that cuBLASLt is experimental
        assert (finished.returncode, errors) == (0, "")
        *lines, written, seconds = finished.stdout.splitlines()
        assert written.startswith(
            f"written to figures: {task}_*.png, {task}_*.svg, {task}"
        )
        assert re.fullmatch(r"done in \d+ s", seconds)
        assert max(map(len, lines)) <= 80
    figures = [
        f"{task}_{figure}"
        for task, names in FIGURES.items()
        for figure in names.split()
    ]
    drawn = {f"{figure}.{suffix}" for figure in figures for suffix in ("png", "svg")}
    results = {f"{task}.json" for task in FIGURES}
    assert {path.name for path in tmp_path.rglob("*")} == drawn | results | OTHERS
    one, two, three = (
        json.loads((tmp_path / "figures" / f"task{number}.json").read_text())
        for number in (1, 2, 3)
    )
    assert (one["seed"], two["seed"]) == (0, 3)
    assert one["settings"] == {
        "hidden_channels": [7, 5],
        "epochs": 2,
        "batch_size": 64,
        "learning_rate": 0.125,
    }
    assert (
        three["network"].items()
        >= {"epochs": 6, "batch_size": 32, "learning_rate": 0.001}.items()
    )


def test_a_script_runs_in_a_notebook_whose_console_takes_text_and_no_more(
    run_here, small_mnist, tmp_path, monkeypatch
):
    texts = []
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(
            sys, stream, SimpleNamespace(write=texts.append, flush=lambda: None)
        )
    flags = (
        "--data-dir",
        small_mnist,
        "--figures",
        tmp_path,
        "--checkpoint",
        tmp_path / "mlp.pt",
        "--epochs",
        1,
    )
    assert run_here("task3.py", *flags) == 0
    assert "written to " in "".join(texts).splitlines()[-2]
