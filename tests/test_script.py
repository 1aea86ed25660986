"""What every script does around its work: flags, complete files, one line for every error, any console."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import ROOT, idx_bytes, run_script

from common.script import FEATURES, STALE_SECONDS, Failure, check_labels, check_shape, choose_device, replacing, run


def throw(error, *_):
    raise error


def test_an_array_is_refused_unless_it_has_the_shape_and_labels_unless_they_are_classes():
    for expected in ((4, 3), ("N", 3), (4, "C"), ("N", "C")):
        check_shape(np.ones((4, 3)), *expected)
    for shape in ((4,), (4, 3, 1), (3, 4), (4, 2), (0, 3), ()):
        with pytest.raises(ValueError, match=re.escape(f"expected an array of shape [N, 3], got {list(shape)}")):
            check_shape(np.ones(shape), "N", 3)
    check_labels(np.array([0, 2, 1, 0], np.uint8), 4, 3)
    for labels in ([0, 1, 3, 0], [0, -1, 0, 0], [0, 1], [[0], [1], [0], [1]], [0.0, 1.0, 0.0, 1.0]):
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


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), SystemExit(130), ValueError("wrong")])
def test_what_breaks_the_writing_leaves_the_old_file_alone(problem, path):
    with pytest.raises(type(problem)) as raised, replacing(path) as temporary:
        throw(problem, temporary.write_text("half"))
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
    assert getattr(raised.value, "filename", str(path)) == str(path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_what_a_killed_run_leaves_is_removed_when_no_run_can_be_writing_it(path):
    program = "import os, sys; from pathlib import Path; from common.script import replacing\n"
    program += "with replacing(Path(sys.argv[1])) as file: file.write_text('half'); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT).returncode == -9
    assert path.read_text() == "old"
    (left,) = set(path.parent.iterdir()) - {path}
    for age, expected in ((0, {path, left}), (STALE_SECONDS + 60, {path})):
        os.utime(left, (left.stat().st_atime, left.stat().st_mtime - age))
        with replacing(path) as temporary:
            temporary.write_text("new")
        assert set(path.parent.iterdir()) == expected


ADVICE = "free space, close it in other programs or choose another path"
FULL = [f"task0.py: output: No space left on device; {ADVICE}"]
DARK = dict.fromkeys(("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND"), "")
ENDINGS = {
    "full disk at the end": ("print('text')", "> /dev/full", {}, 1, FULL),
    "full disk at once": ("print('text', flush=True)", "> /dev/full", {}, 1, FULL),
    "head": ("print('text\\n' * 10**6)", "| head -1", {}, 1, [f"task0.py: output: Broken pipe; {ADVICE}"]),
    "Ctrl-C": ("os.kill(os.getpid(), signal.SIGINT)", "", {}, 130, ["task0.py: interrupted"]),
    "ASCII": ("print('→'); raise Failure('∂L')", "", {"PYTHONIOENCODING": "ascii"}, 1, ["task0.py: ?L"]),
    "cp1252": ("print('→'); raise Failure('∂Ü')", "", {"PYTHONIOENCODING": "cp1252"}, 1, ["task0.py: ?Ü"]),
    "no display": ("options.show = True", "", DARK, 0, ["no display: the figures are in their folder only"]),
}


@pytest.mark.skipif(sys.platform != "linux", reason="needs a shell, a file that is always full and no display")
@pytest.mark.parametrize(("work", "redirection", "environment", "status", "lines"), ENDINGS.values(), ids=ENDINGS)
def test_a_script_says_in_one_line_why_it_ends(work, redirection, environment, status, lines, tmp_path):
    (tmp_path / "task0.py").write_text(
        f"import os, signal, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from common.script import Failure, parse, run, script_parser\n"
        f"def main(options): {work}\n"
        "run(main, parse(script_parser('A script')))\n",
        encoding="utf-8",
    )
    command = f"('{sys.executable}' task0.py --figures .; echo $? > status) {redirection}"
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "encoding": "latin-1"}
    finished = subprocess.run(command, shell=True, cwd=tmp_path, env=os.environ | environment, **pipes)
    assert ((tmp_path / "status").read_text(), finished.stderr.splitlines()) == (f"{status}\n", lines)


TOO_LITTLE_MEMORY = {
    "NumPy": lambda _: np.empty(1 << 50),
    "PyTorch": lambda _: torch.empty(1 << 50),
    "on Windows": lambda _: throw(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate")),
    "CUDA": lambda _: throw(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")),
}


@pytest.mark.parametrize("main", TOO_LITTLE_MEMORY.values(), ids=TOO_LITTLE_MEMORY)
def test_too_little_memory_is_one_line(main, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["task0.py"])
    with pytest.raises(SystemExit, match="1"):
        run(main, SimpleNamespace(figures=tmp_path, show=False))
    assert capsys.readouterr().err == "task0.py: not enough memory; choose a smaller network or batch\n"


def test_an_error_that_the_user_cannot_fix_keeps_its_traceback(tmp_path):
    with pytest.raises(RuntimeError, match="illegal memory"):
        run(lambda _: throw(RuntimeError("illegal memory access")), SimpleNamespace(figures=tmp_path, show=False))


def test_a_device_that_does_not_work_is_replaced_by_the_cpu_unless_it_was_asked_for(monkeypatch, capsys):
    def fail(*size, device, ones=torch.ones):
        return throw(RuntimeError("CUDA error: no kernel\nimage")) if device == "cuda" else ones(*size, device=device)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", fail)
    assert choose_device("auto") == torch.device("cpu")
    assert capsys.readouterr().err == "cuda does not work (CUDA error: no kernel); computing on the CPU\n"
    with pytest.raises(Failure, match=r"^--device cuda does not work \(CUDA error: no kernel\); use --device cpu$"):
        choose_device("cuda")


WRONG_USE = [f"task1.py --epochs {value}" for value in ("-1", "0", "1.5", "", "x", "1e3", "²", "٣", "1_0")]
WRONG_USE += [f"task1.py --hidden-channels 30 {value}" for value in ("0", "-1", "1.5", "x", "")]
WRONG_USE += [f"task3.py --learning-rate {value}" for value in ("-1", "0", "nan", "inf", "x", "")]
WRONG_USE += [f"task2.py --seed {value}" for value in ("-1", "x", "1.0", "", "4294967296")]
WRONG_USE += ["task1.py --batch_size 0", "task1.py --lr 0", "task4.py --lr 1", "task1.py --data-dir ."]
WRONG_USE += ["task2.py --data-dir", "task2.py stray", "task3.py --device abacus", "task4.py --device "]
WRONG_USE += ["task3.py --checkpoint .", "task4.py --checkpoint "]


@pytest.mark.parametrize("words", WRONG_USE)
def test_wrong_use_ends_with_status_2_the_usage_and_one_line_that_names_the_flag(words, run_here, capsys):
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
    "task3.py --device cuda": "--device cuda: .* has none; use --device auto",
    "task3.py --checkpoint file/mlp.pt": f"file: File exists; {ADVICE}",
    f"task3.py --epochs 1 --checkpoint {'m' * 300}": f".*: File name too long; {ADVICE}",
    "task4.py --data-dir few": "found 19 of class 1, 1 of class 2; at least two classes are needed, .*",
    "task4.py": "there is no checkpoint mlp.pt; run python task3.py first",
}


@pytest.mark.skipif(sys.platform == "win32", reason="its messages are other ones")
@pytest.mark.parametrize(("words", "message"), FAILURES.items(), ids=[words[:40] for words in FAILURES])
def test_a_failure_is_one_line_with_status_1_and_leaves_all_files_alone(
    words, message, run_here, small_mnist, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for folder in ("figures", "few"):
        (tmp_path / folder).mkdir()
    (tmp_path / "file").write_text("")
    for split in ("train", "t10k"):
        (tmp_path / "few" / f"{split}-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((20, 28, 28))))
        (tmp_path / "few" / f"{split}-labels-idx1-ubyte").write_bytes(idx_bytes(np.repeat([1, 2], [19, 1])))
    before = sorted(tmp_path.rglob("*"))
    script, *flags = words.split()
    paths = {"figures": "figures", "data-dir": small_mnist, "checkpoint": "mlp.pt"}
    taken = [f"--{name}={paths[name]}" for name in list(paths)[: {"task1.py": 1, "task2.py": 2}.get(script, 3)]]
    assert run_here(script, *taken, *flags) == 1
    assert re.fullmatch(f"{script}: {message}\n", capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before


FIGURES = {"task1": "loss depth gradients normalization", "task2": "examples components spectrum projection"}
FIGURES |= {"task3": "training errors", "task4": "features components errors"}
OTHERS = {"task1": {"task1_studies.json"}, "task4": {"task4_explorer.html"}}


@pytest.fixture(scope="module")
def ran(tmp_path_factory, small_mnist, checkout):
    """A folder in which the four scripts have run from the shell, task 1 with small studies, and the processes."""
    folder = tmp_path_factory.mktemp("ran")
    data, model = ("--data-dir", small_mnist), ("--checkpoint", "artifacts/mlp.pt")
    commands = {
        "task1": (checkout / "task1.py", "--epochs", 2, "--hidden_channels", 7, 5, "--lr", 0.125, "--batch_size", 64),
        "task2": ("task2.py", *data, "--seed", 3),
        "task3": ("task3.py", *data, *model, "--epochs", 6, "--learning_rate", 0.001, "--batch-size", 32),
        "task4": ("task4.py", *data, *model, "--device", "cpu"),
    }

    def execute(tasks):
        return {task: run_script(*commands[task], "--figures", "figures", cwd=folder) for task in tasks}

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(execute, [("task1", "task2"), ("task3", "task4")])
    return folder, first | second


@pytest.mark.parametrize("task", FIGURES)
def test_a_script_writes_exactly_its_figures_and_results_all_complete_and_says_so(task, ran):
    folder, processes = ran
    lines = processes[task].stderr.splitlines()
    errors = [line for line in lines if not line.startswith("[W")]  # PyTorch says that cuBLASLt is experimental
    assert (processes[task].returncode, errors) == (0, [])
    written = {path.name: path.read_bytes() for path in (folder / "figures").glob(f"{task}*")}
    drawn = {f"{task}_{figure}.{suffix}" for figure in FIGURES[task].split() for suffix in ("png", "svg")}
    assert written.keys() == {f"{task}.json", *drawn, *OTHERS.get(task, ())}
    for name, content in written.items():
        if name.endswith("png"):
            assert (content[:4], content[-8:]) == (b"\x89PNG", b"IEND\xaeB`\x82")
        elif name.endswith("svg"):
            assert ElementTree.fromstring(content).tag.endswith("}svg")
        elif name.endswith("json"):
            assert json.loads(content)["seed"] == (3 if task == "task2" else 0)
    last = processes[task].stdout.splitlines()[-1]
    assert last.startswith(f"written to figures: {task}_*.png, {task}_*.svg, {task}")


def test_the_scripts_write_nothing_elsewhere_and_their_flags_reach_the_results(ran):
    folder, _ = ran
    others = {path.name for path in folder.rglob("*") if "task" not in path.name}
    assert others == {"figures", "artifacts", "mlp.pt", FEATURES}
    one, three = (json.loads((folder / "figures" / f"task{number}.json").read_text()) for number in (1, 3))
    assert one["settings"] == {"hidden_channels": [7, 5], "epochs": 2, "batch_size": 64, "learning_rate": 0.125}
    assert three["network"].items() >= {"epochs": 6, "batch_size": 32, "learning_rate": 0.001}.items()


def test_without_studies_task_1_leaves_their_results_alone(run_here, tmp_path):
    (tmp_path / "task1_studies.json").write_text("earlier")
    assert run_here("task1.py", "--no-studies", "--epochs", 1, "--hidden-channels", "--figures", tmp_path) == 0
    assert {path.stem for path in tmp_path.iterdir()} == {"task1", "task1_loss", "task1_studies"}
    assert (tmp_path / "task1_studies.json").read_text() == "earlier"
    assert json.loads((tmp_path / "task1.json").read_text())["settings"]["hidden_channels"] == []


def test_a_script_runs_in_a_notebook_whose_console_takes_text_and_no_more(run_here, small_mnist, tmp_path, monkeypatch):
    texts = []
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, SimpleNamespace(write=texts.append, flush=lambda: None))
    flags = "--data-dir", small_mnist, "--figures", tmp_path, "--checkpoint", tmp_path / "mlp.pt", "--epochs", 1
    assert run_here("task3.py", *flags) == 0
    assert "written to " in "".join(texts).splitlines()[-1]
