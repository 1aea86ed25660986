"""What the tests share: the project on the path, small data, and scripts in this process or in one of their own."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["MPLBACKEND"] = "Agg"
os.environ.pop("MNIST_DIR", None)
# Task 1 with studies of seconds: the same code, files and processes
QUICK_TASK1 = """
import os, runpy, sys
root = os.fsdecode({root!r})
sys.path.insert(0, root)
from common import studies
studies.SEEDS, studies.DEEPEST = 2, 6
small = {{"points": 100, "test_points": 50, "epochs": 3}}
for name, variants in studies.STUDIES.items():
    studies.STUDIES[name] = [variant._replace(depth=min(variant.depth, 6), **small) for variant in variants]
sys.argv[0] = os.path.join(root, "task1.py")
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_script(script, *flags, cwd=None, **environment):
    """Run a script of the project as a user would; return the finished process."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, flags)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )


@pytest.fixture
def run_here(monkeypatch):
    """Run a script of the project in this process, where its imports are done already; return its exit status."""

    def execute(script, *flags):
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *map(str, flags)])
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as ending:
            return ending.code
        finally:
            plt.close("all")
        return 0

    return execute


@pytest.fixture
def same_threads():
    """Give back the number of threads, which training from the command line sets."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def write_quick_task1(folder, root=ROOT):
    """Write a script to a folder that runs task 1 of the checkout `root` with small studies; return its path."""
    path = folder / "quick_task1.py"
    path.write_text(QUICK_TASK1.format(root=os.fsencode(root)), encoding="utf-8")
    return path


def assert_right(checks, *gradients):
    """Assert that the checks are of these gradients, and that each has hardly any error."""
    from common.gradients import AUTOGRAD_TOLERANCE, DIFFERENCES_TOLERANCE

    assert {check.gradient for check in checks} == {f"∂L/∂{name}" for name in gradients}
    for check in checks:
        assert check.differences_error < DIFFERENCES_TOLERANCE, check
        assert check.autograd_error < AUTOGRAD_TOLERANCE, check


def idx_bytes(array):
    """Return an array of bytes in the IDX format."""
    header = [0x800 + array.ndim, *array.shape]
    return np.array(header, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def write_mnist(folder, n_train=600, n_test=300):
    """Write the first images of MNIST to a folder as plain IDX files; return the folder."""
    from common.data import load_data

    folder.mkdir(exist_ok=True)
    for split, count in (("train", n_train), ("t10k", n_test)):
        images, labels = load_data(train=split == "train")
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx_bytes(images[:count]))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx_bytes(labels[:count]))
    return folder


@pytest.fixture(scope="session")
def small_mnist(tmp_path_factory):
    return write_mnist(tmp_path_factory.mktemp("mnist"))
