"""What the tests share: the project on the path, small data, and scripts as subprocesses."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["MPLBACKEND"] = "Agg"
os.environ.pop("MNIST_DIR", None)


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
