"""Scripts that are killed, interrupted, run twice at once or confined; takes minutes:
pytest -m long.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT

from task3 import read_checkpoint

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals"),
]
TASKS = ("task1", "task2", "task3", "task4")
# Threads of two programs that share the cores wait for each other most of the time, and
# other counts round otherwise
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def start(checkout, small_mnist):
    """Start a script on small data, which writes to `folder` only, in a session of its
    own; return the process.
    """

    def command(task, folder, *flags, root=checkout, before=(), **environment):
        words = [root / f"{task}.py", "--figures", folder / "figures"]
        words += ["--epochs", "2"] if task in ("task1", "task3") else []
        words += ["--data-dir", small_mnist] if task != "task1" else []
        words += (
            ["--checkpoint", folder / "artifacts" / "mlp.pt"]
            if task in ("task3", "task4")
            else []
        )
        settings = {
            "env": os.environ | ONE_THREAD | environment,
            "encoding": "utf-8",
            "start_new_session": True,
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [*before, sys.executable, *words, *flags], **settings, **pipes
        )

    return command


def end(process):
    """Wait for the end of a process; return its status and what it wrote to stderr."""
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def contents(folder):
    """What two runs with one seed have in common, by file; a checkpoint, of any epoch,
    only has to be complete.
    """
    found = {}
    for path in folder.rglob("*.*"):
        if path.suffix == ".json":
            found[path.name] = json.loads(path.read_text(encoding="utf-8")) | {
                "timing": None
            }
        elif path.suffix != ".tmp":  # of a killed run
            found[path.name] = (
                str(read_checkpoint(path)[0])
                if path.suffix == ".pt"
                else hash(path.read_bytes())
            )
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory, start):
    """A folder in which every task has run once."""
    folder = tmp_path_factory.mktemp("finished")
    assert [end(start(task, folder)) for task in TASKS] == [(0, "")] * 4
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_twenty_kills_leave_every_file_as_it_was_or_new_and_the_next_run_succeeds(
    task, finished, start, tmp_path
):
    new, work = (shutil.copytree(finished, tmp_path / name) for name in ("new", "work"))
    begin = time.monotonic()
    assert end(start(task, new, "--seed", "1")) == (0, "")
    seconds, references = time.monotonic() - begin, (contents(finished), contents(new))

    def kill(share):
        process = start(task, work, "--seed", "1")
        time.sleep(share * seconds)
        os.killpg(process.pid, signal.SIGKILL)  # its workers as well
        process.communicate()
        for name, content in contents(work).items():
            assert content in [reference[name] for reference in references], name

    with ThreadPoolExecutor(
        2
    ) as pool:  # imports come first, and two at once take longer than one
        list(pool.map(kill, [0.5 + number / 20 for number in range(20)]))
    assert end(start(task, work, "--seed", "1")) == (0, "")
    assert contents(work) == contents(new)


KEPT = {
    "task1": {"task1.json", "task1_loss.png", "task1_loss.svg"},
    "task3": {"mlp.pt"},
}


@pytest.mark.parametrize(
    ("task", "moment"), [("task1", 0.3), ("task1", 1), ("task1", 4), ("task3", 1)]
)
def test_ctrl_c_during_studies_and_training_is_one_line_and_keeps_what_is_complete(
    task, moment, start, tmp_path
):
    process = start(
        task, tmp_path, *["--epochs", "1000000"] * (task == "task3"), root=ROOT
    )
    while contents(tmp_path).keys() != KEPT[task]:
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(moment)
    os.killpg(process.pid, signal.SIGINT)
    assert end(process) == (130, f"{task}.py: interrupted\n")
    assert {path.name for path in tmp_path.rglob("*.*")} == KEPT[task]


def test_two_copies_of_every_script_at_once_give_the_same_files(
    finished, start, tmp_path
):
    work = shutil.copytree(finished, tmp_path / "work")
    processes = [
        start(task, work, PYTHONHASHSEED=seed) for task in TASKS for seed in ("0", "7")
    ]
    assert [end(process) for process in processes] == [(0, "")] * 8
    assert contents(work) == contents(finished)


@pytest.fixture
def confined():
    """Return the words that run a command without a network, after a line of shell that
    sees a place as $place.
    """
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-rnm", "true"], capture_output=True).returncode
    ):
        pytest.skip("this system gives no namespaces")
    return lambda line, place: [
        "unshare",
        "-rnm",
        "sh",
        "-ec",
        f'place=$1; shift; {line}; "$@"',
        "sh",
        str(place),
    ]


def test_no_network_a_read_only_checkout_and_umlauts_change_no_file(
    confined, checkout, finished, start, tmp_path
):
    line = 'mount --bind "$place" "$place"; mount -o remount,ro,bind "$place"; ! touch "$place/new" 2>/dev/null'
    locale = {
        "LC_ALL": "POSIX",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }  # all text is ASCII
    for task in TASKS:
        process = start(
            task, tmp_path / "Grüße aus Köln", before=confined(line, checkout), **locale
        )
        assert end(process) == (0, "")
    assert contents(tmp_path) == contents(finished)
    status, errors = end(start("task2", checkout, before=confined(line, checkout)))
    assert (
        status,
        errors.count("\n"),
        "Read-only file system; free space" in errors,
    ) == (1, 1, True)


@pytest.mark.parametrize(
    ("task", "name"), [("task2", "figures/task2.json"), ("task3", "artifacts/mlp.pt")]
)
def test_a_full_disk_is_one_line_and_keeps_the_old_file(
    task, name, confined, start, tmp_path
):
    path = tmp_path / name
    path.parent.mkdir()
    small = f'mount -t tmpfs -o size=200k tmpfs "$place"; cd "$place"; echo old > {path.name}'
    process = start(
        task,
        tmp_path,
        before=confined(f"{small}; trap 'cat {path.name}; ls -A' EXIT", path.parent),
    )
    output, errors = process.communicate(timeout=300)
    assert (
        process.returncode,
        errors.count("\n"),
        "No space left on device; free" in errors,
    ) == (1, 1, True)
    assert "\nold\n" in output
    assert ".tmp" not in output
