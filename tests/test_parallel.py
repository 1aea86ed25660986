"""Jobs in worker processes: results in order, and no worker that is waited for in vain or left behind."""

import math
import multiprocessing
import os
import signal
import sys
import time

import pytest

from common.parallel import parallel_map
from common.runtime import Failure

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def test_the_results_of_worker_processes_come_in_order():
    assert parallel_map(math.factorial, range(50), "factorials") == [math.factorial(number) for number in range(50)]
    assert multiprocessing.active_children() == []


def evaluate(job):
    return eval(job, {"os": os, "signal": signal, "time": time})


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ("1 / 0", Failure),
        ("os._exit(0)", Failure),
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", Failure, marks=posix),
        pytest.param("time.sleep(1), os.kill(os.getppid(), signal.SIGINT)", KeyboardInterrupt, marks=posix),
    ],
)
def test_what_ends_the_work_early_ends_every_worker_at_once(job, expected):
    with pytest.raises(expected):
        parallel_map(evaluate, [job, "time.sleep(3600)"], "jobs")
    assert multiprocessing.active_children() == []
