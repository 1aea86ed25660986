"""Jobs shared among processes, none of which is waited for in vain or left behind.

The standard library's `Pool` waits for ever for the job of a worker that died, and can hang when it ends its workers;
those of its executor outlive a parent that is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from tqdm import tqdm

from common.runtime import Failure


def parallel_map(function: Callable[[Any], Any], jobs: Sequence[Any], label: str) -> list[Any]:
    """Return function(job) for every job, in order, computed by one process per core, with progress on a terminal.

    A worker process that dies or meets an exception is a Failure. Whatever ends the work early ends all workers.
    """
    workers = _start_workers(function, min(os.cpu_count() or 1, len(jobs), 60))  # Windows waits for no more than 63
    idle, waiting = list(workers), enumerate(jobs)
    running: dict[Connection, int] = {}
    results: dict[int, Any] = {}
    try:
        with tqdm(total=len(jobs), desc=label, leave=False, disable=None) as progress:
            while len(results) < len(jobs):
                for connection, (number, job) in zip(idle, waiting, strict=False):
                    running[connection] = number
                    connection.send(job)
                idle = wait(list(running))
                for connection in idle:
                    results[running.pop(connection)] = connection.recv()
                    progress.update()
    except (EOFError, ConnectionError) as error:
        raise Failure("a worker process died, perhaps for want of memory; run the script again") from error
    finally:
        for connection, process in workers.items():
            connection.close()  # ends an idle worker
            if connection in running:
                process.kill()
        for process in workers.values():
            process.join()
    return [results[number] for number in range(len(jobs))]


def _start_workers(function: Callable[[Any], Any], count: int) -> dict[Connection, BaseProcess]:
    """Return new processes by the connection that sends each its jobs."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for the workers: the cores are theirs already
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # they inherit it: Ctrl-C is the parent's, which ends them
    context = multiprocessing.get_context("spawn")
    workers = {}
    for _ in range(count):
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(function, theirs), daemon=True)
        process.start()
        theirs.close()
        workers[ours] = process
    signal.signal(signal.SIGINT, handler)
    return workers


def _work(function: Callable[[Any], Any], connection: Connection) -> None:
    """Answer every job with its result until the other side is closed, be it by a kill."""
    with suppress(EOFError, ConnectionError, MemoryError):
        while True:
            connection.send(function(connection.recv()))
