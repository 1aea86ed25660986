"""Run the four tasks in order: python -m common.submission."""

from __future__ import annotations

import argparse
import subprocess
import sys

from common.runtime import ROOT

TASKS = ("task1", "task2", "task3", "task4")


def run_tasks() -> None:
    """Run the four scripts one after the other; end with the status of the first that fails."""
    for task in TASKS:
        print(f"== {task}.py", flush=True)
        status = subprocess.run([sys.executable, str(ROOT / f"{task}.py")], check=False).returncode
        if status:
            raise SystemExit(status)


def main() -> None:
    """Run everything."""
    argparse.ArgumentParser(prog="python -m common.submission", description=__doc__).parse_args()
    run_tasks()


if __name__ == "__main__":
    main()
