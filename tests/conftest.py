"""What the tests share: the project on the path, small data, and scripts in this
process or in one of their own.
"""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.pop("MNIST_DIR", None)
os.environ["MPLBACKEND"] = "agg"  # for the scripts that tests start
os.environ["PYTHONUTF8"] = "1"
plt.switch_backend("agg")
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
SMALL_STUDIES = """
for study in (DEFAULT, SCARCE, CONTROLS, LIMIT):
    for k, each in enumerate(study):
        study[k] = each._replace(points=100 + k, test_points=60, epochs=3, seeds=2)
VARIANTS = DEFAULT + SCARCE + CONTROLS + LIMIT
"""


def pytest_addoption(parser, pluginmanager):
    # pytest takes FILE for a path to tests, and would run a conftest.py beside it
    pluginmanager._noconftest = "--solution" in sys.argv
    parser.addoption(
        "--solution",
        type=Path,
        metavar="FILE",
        help="check the gradients of this solution (.py, .ipynb)",
    )


def run_script(script, *flags, cwd=None, **environment):
    """Run a script of the project as a user would; return the finished process."""
    return subprocess.run(
        [sys.executable, ROOT / script, *map(str, flags)],
        cwd=cwd,
        env=os.environ | environment,
        timeout=300,
        capture_output=True,
        encoding="utf-8",
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
    path = next(options.figures.glob("task*.json"))
    return json.loads(path.read_text(encoding="utf-8")), figures


@pytest.fixture
def run_here(monkeypatch):
    """Run a script of the project in this process, where its imports are done already;
    return its exit status.
    """

    def execute(script, *flags):
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *map(str, flags)])
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
            return 0
        except SystemExit as ending:
            return ending.code
        finally:
            plt.close("all")

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
    with (root / "common" / "studies.py").open("a", encoding="utf-8") as file:
        file.write(SMALL_STUDIES)
    return root


def forward(model, vectors, position=0):
    """Apply a network of task 3 by hand: what stands at this position, after each later
    ReLU, and the logits, in double precision.
    """
    parameters = [each.detach().double().numpy() for each in model.parameters()]
    arrays = [vectors.astype(float)]
    for k in range(2 * position, len(parameters), 2):
        f = arrays[-1] @ parameters[k].T + parameters[k + 1]
        arrays.append(f if k == len(parameters) - 2 else np.maximum(f, 0))
    return arrays


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
        images, labels = load_data(train=split == "train")
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{split}-{name}-ubyte").write_bytes(idx_bytes(array[:count]))
    return folder
