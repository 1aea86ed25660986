"""What every script does around its work: complete files at any moment, one line for every error, any output."""

import argparse
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

from common.checks import Failure
from common.runtime import STALE_SECONDS, choose_device, replacing, run

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes and signals")


@pytest.fixture
def path(tmp_path):
    """A file with old content."""
    path = tmp_path / "mlp [1].pt"
    path.write_text("old")
    return path


def test_a_file_is_replaced_by_the_complete_new_one(path):
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), SystemExit(130), ValueError("wrong")])
def test_what_breaks_the_writing_leaves_the_old_file_alone(problem, path):
    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise problem

    with pytest.raises(type(problem)) as raised:
        write_half()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]
    if isinstance(problem, OSError):
        assert raised.value.filename == str(path)


def test_of_two_that_write_one_file_at_once_the_last_wins(path):
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


@posix
def test_what_a_killed_run_leaves_is_removed_when_no_run_can_be_writing_it(path):
    program = "import os, sys; from pathlib import Path; from common.runtime import replacing\n"
    program += "with replacing(Path(sys.argv[1])) as file: file.write_text('half'); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT).returncode == -9
    assert path.read_text() == "old"
    (left,) = set(path.parent.iterdir()) - {path}
    for age, expected in ((0, {path, left}), (STALE_SECONDS + 60, {path})):
        os.utime(left, (left.stat().st_atime, left.stat().st_mtime - age))
        with replacing(path) as temporary:
            temporary.write_text("new")
        assert set(path.parent.iterdir()) == expected


@pytest.fixture
def script(tmp_path):
    """Run a script that does `work`, in a shell, with its output buffered as usual; return its status and stderr."""

    def shell(work, redirection="", stdout=subprocess.DEVNULL, **variables):
        file = tmp_path / "task0.py"
        file.write_text(
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
            "from common.runtime import parse, run, script_parser\n"
            f"def main(options): {work}\n"
            "run(main, parse(script_parser('A script')))\n",
            encoding="utf-8",
        )
        command = f'"{sys.executable}" "{file}" --figures "{tmp_path}" {redirection}'
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | variables
        pipes = {"stdout": stdout, "stderr": subprocess.PIPE}
        finished = subprocess.run(command, shell=True, env=environment, text=True, encoding="utf-8", **pipes)
        return finished.returncode, finished.stderr

    return shell


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a file that is always full")
@pytest.mark.parametrize("work", ["print('text')", "print('text', flush=True)"])
def test_output_to_a_full_disk_is_one_line(work, script):
    line = "task0.py: output: No space left on device; fix that, or name another place\n"
    assert script(work, "> /dev/full") == (1, line)


@posix
@pytest.mark.parametrize("work", ["print('text')", "print('text', flush=True)"])
def test_output_to_a_pipe_that_nobody_reads_is_one_line(work, script):
    reader, writer = os.pipe()
    os.close(reader)
    line = "task0.py: output: Broken pipe; fix that, or name another place\n"
    assert script(work, stdout=writer) == (1, line)
    os.close(writer)


@pytest.fixture
def ending(tmp_path, monkeypatch, capsys):
    """Run `work` as a script's main in this process; return the exit status and what it writes to stderr."""

    def call(work):
        monkeypatch.setattr(sys, "argv", ["task0.py"])
        status = 0
        try:
            run(lambda options: work(), argparse.Namespace(figures=tmp_path, show=False))
        except SystemExit as ending:
            status = ending.code
        return status, capsys.readouterr().err

    return call


def throw(error):
    raise error


WANT_OF_MEMORY = {
    "NumPy": lambda: np.empty(1 << 50),
    "PyTorch": lambda: torch.empty(1 << 50),
    "PyTorch on Windows": lambda: throw(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate")),
    "CUDA": lambda: throw(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")),
    "MPS": lambda: throw(RuntimeError("MPS backend out of memory (MPS allocated: 0 bytes)")),
}


@pytest.mark.parametrize("work", WANT_OF_MEMORY.values(), ids=WANT_OF_MEMORY)
def test_too_little_memory_is_one_line(work, ending):
    assert ending(work) == (1, "task0.py: not enough memory; choose a smaller network or batch\n")


OTHER_ERRORS = {
    "shapes": (lambda: torch.ones(2) @ torch.ones(3), "size"),
    "shared memory": (lambda: torch.ones(1).expand(2).add_(1), "single memory location"),
    "defect": (lambda: throw(RuntimeError("CUDA error: an illegal memory access was encountered")), "illegal"),
}


@pytest.mark.parametrize(("work", "message"), OTHER_ERRORS.values(), ids=OTHER_ERRORS)
def test_a_runtime_error_that_the_user_cannot_fix_keeps_its_traceback(work, message, ending):
    with pytest.raises(RuntimeError, match=message):
        ending(work)


def test_a_failure_is_its_own_line_with_status_1(ending):
    assert ending(lambda: throw(Failure("no data; get some"))) == (1, "task0.py: no data; get some\n")


def test_an_interruption_is_one_line_with_status_130(ending):
    assert ending(lambda: throw(KeyboardInterrupt)) == (130, "task0.py: interrupted\n")


def test_a_file_that_cannot_be_written_is_named_in_one_line(ending):
    line = "task0.py: task0.json: No space left on device; fix that, or name another place\n"
    assert ending(lambda: throw(OSError(28, "No space left on device", "task0.json"))) == (1, line)


@pytest.fixture
def broken_card(monkeypatch):
    """A CUDA device that is listed as available and on which nothing can be computed."""
    ones = torch.ones

    def fail_on_cuda(*size, device="cpu"):
        if torch.device(device).type == "cuda":
            raise RuntimeError("CUDA error: no kernel image is available\nfor execution on the device")
        return ones(*size, device=device)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", fail_on_cuda)


def test_auto_takes_the_cpu_where_cuda_does_not_work_and_says_so_in_one_line(broken_card, capsys):
    assert choose_device("auto") == torch.device("cpu")
    (line,) = capsys.readouterr().err.splitlines()
    assert "no kernel image is available" in line
    assert "CPU" in line


def test_a_named_device_that_does_not_work_is_a_failure_that_says_why(broken_card):
    with pytest.raises(Failure, match=r"^--device cuda does not work \(CUDA error: no kernel image.*use --device cpu$"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_named_device_that_is_not_there_is_a_failure(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(Failure, match=f"--device {name}: .*; use --device auto"):
        choose_device(name)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a display")
def test_figures_to_show_without_a_display_are_a_note(script, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND"):
        monkeypatch.delenv(name, raising=False)
    note = "no display: the figures are in their folder only\n"
    assert script("None", "--show") == (0, note)


@posix
@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_output_is_no_failure(redirection, script):
    assert script("print('text')", redirection) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_encoding_of_the_console_will_do(encoding, script):
    assert script("print('Übung 4/10 · ∂L/∂x → ✓')", PYTHONIOENCODING=encoding) == (0, "")
