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
        words = [*before, sys.executable, root / f"{task}.py", *flags]
        words += ["--figures", folder / "figures"]
        if task != "task1":
            words += ["--data-dir", small_mnist]
        if task in ("task3", "task4"):
            words += ["--checkpoint", folder / "artifacts" / "mlp.pt"]
        return subprocess.Popen(
            words,
            env=os.environ | ONE_THREAD | environment,
            encoding="utf-8",
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
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
            found[path.name] = json.loads(path.read_text(encoding="utf-8"))
            found[path.name]["timing"] = None
        elif path.suffix == ".pt":
            found[path.name] = str(read_checkpoint(path)[0])
        elif path.suffix != ".tmp":  # of a killed run
            found[path.name] = hash(path.read_bytes())
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory, start):
    """A folder in which every task has run once."""
    folder = tmp_path_factory.mktemp("finished")
    for task in TASKS:
        assert end(start(task, folder)) == (0, "")
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_twenty_kills_leave_every_file_as_it_was_or_new_and_the_next_run_succeeds(
    task, finished, start, tmp_path
):
    new = shutil.copytree(finished, tmp_path / "new")
    work = shutil.copytree(finished, tmp_path / "work")
    begin = time.monotonic()
    assert end(start(task, new, "--seed", "1")) == (0, "")
    seconds = time.monotonic() - begin
    references = [contents(finished), contents(new)]

    def kill(share):
        process = start(task, work, "--seed", "1")
        time.sleep(share * seconds)
        os.killpg(process.pid, signal.SIGKILL)  # its workers as well
        process.communicate()
        for name, content in contents(work).items():
            assert content in [reference[name] for reference in references], name

    # Imports come first, and two at once take longer than one
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(kill, [0.5 + number / 20 for number in range(20)]))
    assert end(start(task, work, "--seed", "1")) == (0, "")
    assert contents(work) == contents(new)


@pytest.mark.parametrize("moment", [0.3, 1, 4])
@pytest.mark.parametrize(
    ("task", "first"), [("task1", "figures/task1.json"), ("task3", "artifacts/mlp.pt")]
)
def test_ctrl_c_during_studies_and_training_is_one_line_and_keeps_what_is_complete(
    task, first, moment, start, tmp_path
):
    flags = ["--epochs", "1000000"] if task == "task3" else []
    process = start(task, tmp_path, *flags, root=ROOT)
    while not (tmp_path / first).exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(moment)
    os.killpg(process.pid, signal.SIGINT)
    status, errors = end(process)
    assert (status, errors.count("\n")) == (130, 1), errors
    assert (tmp_path / first).name in contents(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))


def test_two_copies_of_every_script_at_once_give_the_same_files(
    finished, start, tmp_path
):
    work = shutil.copytree(finished, tmp_path / "work")
    processes = []
    for task in TASKS:
        for seed in ("0", "7"):
            processes.append(start(task, work, PYTHONHASHSEED=seed))
    for process in processes:
        assert end(process) == (0, "")
    assert contents(work) == contents(finished)


@pytest.fixture
def confined():
    """Return the words that run a command without a network, after a line of shell that
    sees a place as $place.
    """
    try:
        subprocess.run(["unshare", "-rnm", "true"], check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system gives no namespaces")

    def words(line, place):
        shell = f'place=$1; shift; {line}; "$@"'
        return ["unshare", "-rnm", "sh", "-ec", shell, "sh", str(place)]

    return words


def test_no_network_a_read_only_checkout_and_umlauts_change_no_file(
    confined, checkout, finished, start, tmp_path
):
    line = 'mount --bind "$place" "$place"; mount -o remount,ro,bind "$place"'
    before = confined(line, checkout)
    # All text is ASCII there
    locale = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for task in TASKS:
        process = start(task, tmp_path / "Grüße aus Köln", before=before, **locale)
        assert end(process) == (0, "")
    assert contents(tmp_path) == contents(finished)


@pytest.mark.parametrize(
    ("task", "name"), [("task2", "figures/task2.json"), ("task3", "artifacts/mlp.pt")]
)
def test_a_full_disk_is_one_line_that_names_the_place_and_keeps_the_old_file(
    task, name, confined, start, tmp_path
):
    path = tmp_path / name
    path.parent.mkdir()
    line = f'mount -t tmpfs -o size=200k tmpfs "$place"; echo old > {path}'
    before = confined(f"{line}; trap 'cat {path}; ls -A $place' EXIT", path.parent)
    process = start(task, tmp_path, before=before)
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, errors.count("\n")) == (1, 1)
    assert str(path.parent) in errors
    assert "\nold\n" in output
    assert ".tmp" not in output
