"""Scripts that are killed, interrupted, crowded and confined; these tests take minutes: pytest -m long."""

import contextlib
import json
import multiprocessing
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from conftest import ROOT, write_quick_task1
from joblib.externals.loky import get_reusable_executor

from common.runtime import STALE_SECONDS
from task3 import load_checkpoint

pytestmark = [pytest.mark.long, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")]
TASKS = ("task1", "task2", "task3", "task4")
POSIX_LOCALE = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # all text is ASCII
# Threads of two programs that share the cores wait for each other most of the time, and other counts round otherwise
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def command(task, folder, data, *flags, root=ROOT):
    """A script and its flags for small data; all that it writes goes to `folder`."""
    words = [quick_task1(data if root is ROOT else root, root) if task == "task1" else root / f"{task}.py"]
    words += ["--figures", folder / "figures"]
    words += ["--epochs", "2"] if task in ("task1", "task3") else []
    words += ["--data-dir", data] if task != "task1" else []
    words += ["--checkpoint", folder / "artifacts" / "mlp.pt"] if task in ("task3", "task4") else []
    return [str(word) for word in (*words, *flags)]


def quick_task1(folder, root):
    """A script in the folder that runs task 1 of the checkout `root` with small studies; it is written once."""
    path = folder / "quick_task1.py"
    return path if path.exists() else write_quick_task1(folder, root)


def start(words, before=(), environment=ONE_THREAD, **settings):
    """Start a script in a process of its own."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    return subprocess.Popen([*before, sys.executable, *words], env={**os.environ, **environment}, **pipes, **settings)


def finish(processes):
    """Wait for processes that all have to succeed in silence."""
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert (process.returncode, errors) == (0, "")


def failure(process):
    """Wait for a process that has to fail; return its one line and what it printed."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1, errors
    return errors, output


def run_as_main(words):
    os.setsid()  # so that a kill reaches the workers as well
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        get_reusable_executor().shutdown()  # as at the end of an interpreter; a fork would wait for its idle workers


def forked(words, seconds=None):
    """Run a script in a fork of a process that has imported everything; kill it after `seconds`, else let it succeed.

    So the kills fall into the work: of a run on small data as from the shell, most are imports.
    """
    process = multiprocessing.get_context("forkserver").Process(target=run_as_main, args=(words,))
    process.start()
    process.join(seconds)
    if seconds is None:
        assert process.exitcode == 0
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


@pytest.fixture(scope="module", autouse=True)
def server():
    """The process to fork from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "long"))))
        for name, value in ONE_THREAD.items():
            patch.setenv(name, value)
        multiprocessing.set_forkserver_preload([__name__, "task4"])  # which import nearly all that any script does
        multiprocessing.forkserver.ensure_running()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small_mnist):
    """A folder in which every task has run once."""
    folder = tmp_path_factory.mktemp("finished")
    for task in TASKS:
        forked(command(task, folder, small_mnist))
    return folder


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def content(path):
    """What two runs with one seed have in common; a checkpoint, of any epoch, only has to be complete."""
    match path.suffix:
        case ".json":
            return {**json.loads(path.read_text(encoding="utf-8")), "timing": None}
        case ".pt":
            return str(load_checkpoint(path))
    return path.read_bytes()


def check_same(folder, *references):
    """Check that every file but the temporary ones of killed runs is as in one of the references."""
    for name in names(folder):
        if not name.endswith(".tmp"):
            assert content(folder / name) in [content(reference / name) for reference in references], name


@pytest.mark.parametrize("task", TASKS)
def test_twenty_kills_leave_every_file_as_it_was_or_new_and_the_next_run_succeeds(
    task, finished, small_mnist, tmp_path
):
    def kill(moment):
        forked(command(task, work, small_mnist, "--seed", "1"), moment)
        check_same(work, finished, new)

    new, work = (shutil.copytree(finished, tmp_path / name) for name in ("new", "work"))
    begin = time.monotonic()
    forked(command(task, new, small_mnist, "--seed", "1"))
    longest = 1.2 * (time.monotonic() - begin)  # two at once take longer than one
    moments = random.Random(task)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(kill, [moments.uniform(0, longest) for _ in range(20)]))

    for path in work.rglob(".*.tmp"):
        os.utime(path, (0, path.stat().st_mtime - STALE_SECONDS - 60))
    forked(command(task, work, small_mnist, "--seed", "1"))
    check_same(work, new)
    assert names(work) == names(finished)


def members(session, word=""):
    """The live processes of a session that was started here, whose command line contains a word."""
    listed = subprocess.run(["ps", "-ww", "-o", "pid=,stat=,args=", "-s", str(session)], capture_output=True, text=True)
    processes = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    return [int(pid) for pid, state, words in processes if "Z" not in state and word in words]


def wait(seconds, condition):
    """Wait until the condition holds; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.fixture
def studies(tmp_path):
    """Start task 1 and wait until worker processes train in its studies; return the process and the workers' ids."""
    processes = []

    def begin(moment):
        process = start([str(ROOT / "task1.py"), "--figures", str(tmp_path)], start_new_session=True)
        processes.append(process)
        wait(60, lambda: members(process.pid, "popen_loky"))
        time.sleep(moment)
        return process, members(process.pid, "popen_loky")

    yield begin
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


OWN_FILES = {"task1.json", "task1_loss.png", "task1_loss.svg"}  # of the run that the sheet asks for
MOMENTS = pytest.mark.parametrize("moment", [0.1, 0.6, 4], ids="after {} s".format)  # workers import, import, train


@MOMENTS
def test_ctrl_c_during_the_studies_is_one_line_with_status_130_and_keeps_the_runs_own_figures(
    moment, studies, tmp_path
):
    process, _ = studies(moment)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "task1.py: interrupted\n")
    assert names(tmp_path) == OWN_FILES
    wait(10, lambda: not members(process.pid))


@MOMENTS
def test_a_killed_worker_is_one_line_with_status_1_and_keeps_the_runs_own_figures(moment, studies, tmp_path):
    process, workers = studies(moment)
    os.kill(workers[0], signal.SIGKILL)
    errors, _ = failure(process)
    assert errors.startswith("task1.py: a worker process died")
    assert names(tmp_path) == OWN_FILES
    wait(10, lambda: not members(process.pid))


@MOMENTS
def test_the_workers_of_a_killed_run_end_soon_after_it(moment, studies):
    process, _ = studies(moment)
    process.kill()
    process.wait()
    wait(20, lambda: not members(process.pid))


def interrupt(words, last_line):
    """Press Ctrl-C a moment after a script has printed a line; return what it had printed."""
    process = start(words, start_new_session=True)
    output = ""
    while last_line not in output:
        output += process.stdout.readline()
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, f"{os.path.basename(words[0])}: interrupted\n")
    return output + rest


def test_ctrl_c_in_task_3_is_one_line_with_status_130_and_keeps_the_last_complete_epoch(tmp_path, small_mnist):
    output = interrupt(command("task3", tmp_path, small_mnist, "--epochs", "1000000"), "epoch  1/1000000")
    assert names(tmp_path) == {"artifacts/mlp.pt"}
    last = int(re.findall(r"epoch +(\d+)/", output)[-1])
    path = tmp_path / "artifacts" / "mlp.pt"
    assert torch.load(path, weights_only=True)["settings"]["epochs"] in (last - 1, last)  # it is saved after the line
    load_checkpoint(path)


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-"])
def test_task_1_with_its_studies_needs_no_open_streams(redirection, finished, small_mnist, tmp_path):
    before = ["sh", "-c", f'"$@" {redirection}', "sh"]
    finish([start(command("task1", tmp_path, small_mnist), before)])
    assert names(tmp_path) == {name for name in names(finished) if "task1" in name}


def test_two_copies_of_every_script_at_once_give_the_same_files(finished, small_mnist, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "work")
    elsewhere = {"cwd": tmp_path, "environment": {**ONE_THREAD, "PYTHONHASHSEED": "7"}}
    finish([start(command(task, folder, small_mnist), **each) for task in TASKS for each in ({}, elsewhere)])
    check_same(folder, finished)
    assert names(folder) == names(finished)


@pytest.fixture
def folder(finished, tmp_path):
    """A folder with nothing but the checkpoint, for the four scripts to run in at once."""
    folder = tmp_path / "Grüße aus Köln"
    (folder / "artifacts").mkdir(parents=True)
    shutil.copy(finished / "artifacts" / "mlp.pt", folder / "artifacts")
    return folder


@pytest.fixture(scope="module")
def copied_checkout(tmp_path_factory):
    """A checkout in a path with spaces and umlauts."""
    root = tmp_path_factory.mktemp("Übung 3 für Prüfer")
    for part in ("common", "figures"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    for task in TASKS:
        shutil.copy(ROOT / f"{task}.py", root)
    return root


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a choice of cores")
def test_one_core_is_enough(finished, small_mnist, folder):
    settings = {"environment": {}, "preexec_fn": lambda: os.sched_setaffinity(0, {0})}
    for task in ("task1", "task4"):  # the one with worker processes, the one with several threads
        finish([start(command(task, folder, small_mnist), **settings)])
    assert names(folder) == {name for name in names(finished) if "task2" not in name and "task3" not in name}


@pytest.fixture
def confined():
    """Return the words that run a command in namespaces of its own, without a network, after a line of shell."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rnm", "true"], capture_output=True).returncode:
        pytest.skip("this system gives no namespaces")
    return lambda line, place: ["unshare", "-rnm", "sh", "-ec", f'place=$1; shift; {line}; "$@"', "sh", str(place)]


READ_ONLY = 'mount --bind "$place" "$place"; mount -o remount,ro,bind "$place"; ! touch "$place/new" 2>/dev/null'


def test_no_network_a_read_only_checkout_and_umlauts_without_a_locale_give_the_same_files(
    confined, copied_checkout, finished, small_mnist, folder
):
    settings = {"before": confined(READ_ONLY, copied_checkout), "environment": {**ONE_THREAD, **POSIX_LOCALE}}
    finish([start(command(task, folder, small_mnist, root=copied_checkout), **settings) for task in TASKS])
    check_same(folder, finished)
    assert names(folder) == names(finished)


def test_a_read_only_figures_folder_is_one_line(confined, copied_checkout):
    errors, _ = failure(start([str(copied_checkout / "task1.py")], before=confined(READ_ONLY, copied_checkout)))
    assert errors.endswith("figures: Read-only file system; fix that, or name another place\n")


@pytest.mark.parametrize(("task", "name"), [("task2", "figures/task2.json"), ("task3", "artifacts/mlp.pt")])
def test_a_full_disk_is_one_line_and_keeps_the_old_file(task, name, confined, small_mnist, tmp_path):
    path = tmp_path / name
    path.parent.mkdir()
    small = f'mount -t tmpfs -o size=200k tmpfs "$place"; cd "$place"; echo old > {path.name}'
    before = confined(f"{small}; trap 'cat {path.name}; ls -A' EXIT", path.parent)
    errors, output = failure(start(command(task, tmp_path, small_mnist), before))
    assert "No space left on device; fix that" in errors
    assert "\nold\n" in output
    assert ".tmp" not in output


def test_a_damaged_archive_without_a_network_is_one_line(confined, copied_checkout, tmp_path):
    archive = copied_checkout / "common" / "mnist" / "t10k-labels-idx1-ubyte.gz"
    damaged = tmp_path / archive.name
    damaged.write_bytes(archive.read_bytes()[:-1])
    before = confined(f'mount --bind "$place" "{archive}"', damaged)
    words = [str(copied_checkout / "task2.py"), "--figures", str(tmp_path)]
    errors, _ = failure(start(words, before, {"XDG_CACHE_HOME": str(tmp_path / "cache")}))
    assert "could not be downloaded; restore it" in errors
