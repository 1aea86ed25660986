"""The two moons, and MNIST as arrays and as vectors, read from the IDX files into
NumPy.
"""

import gzip
import hashlib
import math
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.script import ROOT, Failure

BUNDLED = Path(__file__).resolve().parent / "mnist"
OFFICIAL = {
    True: "d18cfd466eb143ac",
    False: "a0863a96c44e5666",
}  # digests of the official train and test split


class Moons(NamedTuple):
    """Points float64 [N, 2] in the plane and their classes int64 [N], 0 for the upper
    moon and 1 for the lower.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def moons(
    n_train: int = 8000, n_test: int = 2000, noise: float = 0.08, seed: int = 0
) -> Moons:
    """Draw two interleaved half circles, the train and the test split independently.

    `noise` is the standard deviation of the Gaussian noise, for moons of radius one.
    The train split is scaled to [-1, 1] and the test split alike, so it may reach
    beyond. Raises ValueError for under two points or negative noise.
    """
    if min(n_train, n_test) < 2 or not 0 <= noise < np.inf:
        raise ValueError(
            f"expected at least two points per split and noise ≥ 0, got {n_train}, {n_test}, {noise}"
        )
    streams = np.random.default_rng(seed).spawn(2)
    (x_train, y_train), (x_test, y_test) = map(
        random_moons, (n_train, n_test), (noise, noise), streams
    )
    low, high = x_train.min(axis=0), x_train.max(axis=0)
    x_train, x_test = (2 * (x - low) / (high - low) - 1 for x in (x_train, x_test))
    return Moons(x_train, y_train, x_test, y_test)


def random_moons(
    count: int, noise: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw points [N, 2], not scaled, and their classes [N]."""
    y = np.arange(count) % 2
    upper, lower = half_circles(rng.uniform(0, np.pi, count))
    x = np.where(y[:, None] == 0, upper, lower)
    return x + rng.normal(0, noise, x.shape), y


def half_circles(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points [N, 2] of the upper and of the lower moon at angles [N] from 0
    to π.
    """
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return upper, [1, 0.5] - upper


class Images(NamedTuple):
    """One split: `images` uint8 [N, 28, 28] and `labels` int64 [N] from 0 to 9."""

    images: np.ndarray
    labels: np.ndarray


class Vectors(NamedTuple):
    """One split as vectors: `vectors` float32 [N, 784] in [-1, 1] and `labels` int64
    [N].
    """

    vectors: np.ndarray
    labels: np.ndarray


def load_data(train: bool = True, data_dir: str | Path | None = None) -> Images:
    """Load the train or the test split of MNIST.

    `data_dir`, or else the environment variable MNIST_DIR, names a folder with the four
    IDX files, plain or .gz, of any number of 28×28 images. Without either, the bundled
    archives are read; when one is missing or damaged, torchvision downloads MNIST to
    artifacts/. Raises `Failure`, a ValueError, when files are missing or invalid.
    """
    folder = data_dir or os.environ.get("MNIST_DIR")
    if folder:
        return read_folder(Path(folder), train)
    with suppress(Failure, OSError):
        data = read_folder(BUNDLED, train)
        if digest(data) == OFFICIAL[train]:
            return data
    return download(train)


def convert_mnist_to_vectors(data: Images) -> Vectors:
    """Flatten images row by row and map 0 … 255 to [-1, 1] linearly (sheet, 2.2); raise
    ValueError for other data.
    """
    images, labels = data
    if images.shape != (len(labels), 28, 28) or images.dtype != np.uint8:
        raise ValueError(
            f"expected uint8 images [N, 28, 28] and N labels, got {images.dtype} {images.shape}"
        )
    vectors = images.reshape(-1, 784) / np.float32(127.5)
    vectors -= 1  # in place: a second array of this size takes as long as all the rest
    return Vectors(vectors, labels)


def thin(data: Vectors, count: int) -> Vectors:
    """Return every k-th vector with its label, `count` at most, so that they come from
    all parts of the split.
    """
    return Vectors(*(array[:: -(-len(array) // count)] for array in data))


def digest(data: Images) -> str:
    """Return a digest of a split that identifies the data set in the results, 16
    hexadecimal digits.
    """
    return hashlib.sha256(data.images.tobytes() + data.labels.tobytes()).hexdigest()[
        :16
    ]


def check_enough(labels: np.ndarray) -> None:
    """Raise `Failure` unless two classes or more occur, each in ten images and in one
    per cent of all.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2 or counts.min() < max(10, len(labels) / 100):
        found = ", ".join(
            f"{count} of class {number}"
            for number, count in zip(classes, counts, strict=True)
        )
        raise Failure(
            f"found {found}; at least two classes are needed, each in ten images and in 1 % of all"
        )


def read_folder(folder: Path, train: bool) -> Images:
    """Read a split from a folder of IDX files; raise `Failure` when they are missing,
    invalid or do not match.
    """
    split = "train" if train else "t10k"
    images = read_idx(folder, f"{split}-images-idx3-ubyte", 3)
    labels = read_idx(folder, f"{split}-labels-idx1-ubyte", 1)
    if images.shape[1:] != (28, 28):
        raise Failure(
            f"{folder}: images of {images.shape[1]}×{images.shape[2]} instead of 28×28; use MNIST's format"
        )
    if len(images) != len(labels):
        raise Failure(
            f"{folder}: {len(images)} images but {len(labels)} labels; take both files from one data set"
        )
    if labels.max() > 9:
        raise Failure(
            f"{folder}: label {labels.max()} is not a class from 0 to 9; use a data set of ten classes"
        )
    return Images(images.copy(), labels.astype(np.int64))  # writable


def read_idx(folder: Path, name: str, dimensions: int) -> np.ndarray:
    """Read an array of unsigned bytes from an IDX file, plain or .gz, also in a folder
    of the file's own name.
    """
    stems = (
        folder / name,
        folder / name / name,
    )  # some archivers unpack a file into such a folder
    path = next(
        (
            path
            for stem in stems
            for path in (stem, Path(f"{stem}.gz"))
            if path.is_file()
        ),
        None,
    )
    if path is None:
        advice = "--data-dir or MNIST_DIR takes a folder with the four IDX files"
        raise Failure(f"no file {name} or {name}.gz in {folder}; {advice}")
    content = path.read_bytes()
    if path.suffix == ".gz" and not content.startswith(b"\0\0\x08"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise Failure(
                f"{path} is not a complete gzip archive ({error}); download it again"
            ) from error
    start, magic = 4 * (1 + dimensions), 0x800 + dimensions
    found, *sizes = np.frombuffer(content[:start].ljust(start, b"\0"), ">u4").tolist()
    expected = start + math.prod(sizes)
    if found != magic:
        raise Failure(
            f"{path} has the magic number {found:#x} instead of {magic:#x}; it is not the expected IDX file"
        )
    if len(content) != expected:
        raise Failure(
            f"{path} has {len(content)} bytes where its header promises {expected}; download it again"
        )
    if 0 in sizes:
        raise Failure(f"{path} is empty; give a folder with data")
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def download(train: bool) -> Images:
    """Return a split that torchvision downloads, once, to artifacts/; raise `Failure`
    if that fails.
    """
    folder = ROOT / "artifacts"
    try:
        from torchvision.datasets import MNIST

        split = MNIST(folder, train, download=True)
        data = Images(split.data.numpy(), split.targets.numpy())
        if digest(data) != OFFICIAL[train]:
            raise ValueError(f"{folder} holds other data, delete it")
    except (
        Exception
    ) as error:  # torchvision may be broken, the folder read-only, the network down
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        advice = "restore it or name a folder with the four IDX files in MNIST_DIR"
        raise Failure(
            f"{BUNDLED} is missing or damaged, and the download failed ({reason}); {advice}"
        ) from error
    return data
