"""What the tests share: the project on the path, small data, and scripts in this
process or in one of their own.
"""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.pop("MNIST_DIR", None)
os.environ |= {
    "MPLBACKEND": "agg",
    "PYTHONUTF8": "1",
}  # for the scripts that tests start
plt.switch_backend("agg")


def pytest_addoption(parser):
    parser.addoption(
        "--solution",
        type=Path,
        metavar="FILE",
        help="check the gradients of this solution (.py, .ipynb)",
    )


def run_script(script, *flags, cwd=None, **environment):
    """Run a script of the project as a user would; return the finished process."""
    words, pipes = (
        [sys.executable, ROOT / script, *map(str, flags)],
        {"capture_output": True, "encoding": "utf-8"},
    )
    return subprocess.run(
        words, cwd=cwd, env=os.environ | environment, timeout=300, **pipes
    )


def figures_of(main, options):
    """Run a script's main; return its results and its figures, which stay open as they
    do with --show.
    """
    plt.close("all")
    plt.switch_backend("svg")
    main(options)
    figures = [plt.figure(number) for number in plt.get_fignums()]
    plt.close("all")
    plt.switch_backend("agg")
    return json.loads(
        next(options.figures.glob("task*.json")).read_text(encoding="utf-8")
    ), figures


@pytest.fixture
def run_here(monkeypatch):
    """Run a script of the project in this process, where its imports are done already;
    return its exit status.
    """
    threads = torch.get_num_threads()  # which training from the command line sets

    def execute(script, *flags):
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *map(str, flags)])
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
            return 0
        except SystemExit as ending:
            return ending.code
        finally:
            plt.close("all")
            torch.set_num_threads(threads)

    return execute


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A copy of the project whose studies take a second; its path has spaces and
    umlauts.
    """
    root = tmp_path_factory.mktemp("Übung 3 für Prüfer")
    shutil.copytree(
        ROOT / "common", root / "common", ignore=shutil.ignore_patterns("__pycache__")
    )
    for script in ROOT.glob("task?.py"):
        shutil.copy(script, root)
    small = "[each._replace(points=100, test_points=60, epochs=3, seeds=2) for each in study]"
    with (root / "common" / "studies.py").open("a", encoding="utf-8") as file:
        file.write(
            f"\nSEEDS, VALIDATION_POINTS = 2, 50\nfor study in STUDIES.values():\n    study[:] = {small}\n"
        )
    return root


def idx_bytes(array):
    """Return an array of bytes in the IDX format."""
    return (
        np.array([0x800 + array.ndim, *array.shape], ">u4").tobytes()
        + array.astype(np.uint8).tobytes()
    )


@pytest.fixture(scope="session")
def small_mnist(tmp_path_factory):
    """A folder with the first 600 train and 300 test images of MNIST as plain IDX
    files.
    """
    from common.data import load_data

    folder = tmp_path_factory.mktemp("mnist")
    for split, count in (("train", 600), ("t10k", 300)):
        for kind, array in zip(
            ("images-idx3", "labels-idx1"),
            load_data(train=split == "train"),
            strict=True,
        ):
            (folder / f"{split}-{kind}-ubyte").write_bytes(idx_bytes(array[:count]))
    return folder
