"""The two moons, and MNIST as arrays and as vectors, read from the IDX files into NumPy."""

import hashlib
import io
import math
import os
import zlib
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.checks import Failure

BUNDLED = Path(__file__).resolve().parent / "mnist"
MD5 = {  # as torchvision publishes them
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}


class Moons(NamedTuple):
    """Points float64 [N, 2] in the plane and their classes int64 [N], 0 for the upper moon and 1 for the lower."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def moons(n_train: int = 8000, n_test: int = 2000, noise: float = 0.08, seed: int = 0) -> Moons:
    """Draw two interleaved half circles, the train and the test split independently.

    `noise` is the standard deviation of the Gaussian noise where a moon has radius one. Both splits are scaled by the
    minimum and maximum of the train split into [-1, 1], beyond which test points may lie a little. Raises ValueError
    for fewer than two points in a split or for noise that is negative or not finite.
    """
    if min(n_train, n_test) < 2 or not 0 <= noise < np.inf:
        raise ValueError(f"expected at least two points per split and noise ≥ 0, got {n_train}, {n_test}, {noise}")
    splits = []
    for count, rng in zip((n_train, n_test), np.random.default_rng(seed).spawn(2), strict=True):
        y = np.arange(count) % 2
        upper, lower = half_circles(rng.uniform(0, np.pi, count))
        x = np.where(y[:, None] == 0, upper, lower)
        splits.append((x + rng.normal(0, noise, x.shape), y))
    (x_train, y_train), (x_test, y_test) = splits
    low, high = x_train.min(axis=0), x_train.max(axis=0)
    x_train, x_test = (2 * (x - low) / (high - low) - 1 for x in (x_train, x_test))
    return Moons(x_train, y_train, x_test, y_test)


def half_circles(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the points [N, 2] of the upper and of the lower moon at angles [N] from 0 to π."""
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return upper, [1, 0.5] - upper


def bayes_limit(noise: float) -> tuple[float, float]:
    """Return the averaged cross-entropy and the accuracy in per cent of the best possible classifier of the moons.

    It knows the density of each moon: the mean, over the half circle, of a normal distribution of standard deviation
    `noise` > 0. Both densities and the expectations are sums over a grid of a quarter of the noise.
    """
    angle = (np.arange(1000) + 0.5) * np.pi / 1000
    step = noise / 4
    axes = [np.arange(low - 6 * noise, high + 6 * noise, step) for low, high in ((-1, 2), (-0.5, 1))]
    densities = []
    for arc in half_circles(angle):
        across, up = (np.exp(-(((axes[k][:, None] - arc[:, k]) / noise) ** 2) / 2) for k in (0, 1))
        densities.append(across @ up.T / (len(angle) * 2 * np.pi * noise**2))
    densities = np.maximum(densities, np.finfo(float).tiny)  # [2, x, y]
    loss = (densities * (np.log(densities.sum(axis=0)) - np.log(densities))).sum() * step**2 / 2
    return float(loss), float(100 * densities.max(axis=0).sum() * step**2 / 2)


class Images(NamedTuple):
    """One split: `images` uint8 [N, 28, 28] and `labels` int64 [N] from 0 to 9."""

    images: np.ndarray
    labels: np.ndarray


class Vectors(NamedTuple):
    """One split as vectors: `vectors` float32 [N, 784] in [-1, 1] and `labels` int64 [N]."""

    vectors: np.ndarray
    labels: np.ndarray


def load_data(train: bool = True, data_dir: str | Path | None = None) -> Images:
    """Load the train or the test split.

    `data_dir`, or else the environment variable MNIST_DIR, names a folder with the four IDX files, plain or .gz, of
    any number of 28×28 images. Without both the bundled archives are read; when one is missing or damaged, torchvision
    downloads it to the user's cache. Raises `Failure`, a ValueError, when files are missing or invalid.
    """
    split = "train" if train else "t10k"
    names = f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte"
    folder = data_dir or os.environ.get("MNIST_DIR")
    contents = [_read_file(Path(folder), name) if folder else _read_official(name) for name in names]
    return parse_idx(*contents, source=str(folder or "MNIST"))


def convert_mnist_to_vectors(data: Images) -> Vectors:
    """Flatten the images row by row and map 0 … 255 to [-1, 1] linearly (sheet, 2.2)."""
    images, labels = data
    if images.shape != (len(labels), 28, 28) or images.dtype != np.uint8:
        raise ValueError(f"expected uint8 images [N, 28, 28] and N labels, got {images.dtype} {images.shape}")
    vectors = images.reshape(-1, 784) / np.float32(127.5)
    vectors -= 1  # in place: a second array of this size takes as long as all the rest
    return Vectors(vectors, labels)


def digest(data: Images) -> str:
    """Return a fingerprint of a split, by which results of one data set are told from those of another."""
    return hashlib.sha256(data.images.tobytes() + data.labels.tobytes()).hexdigest()[:16]


def check_enough(labels: np.ndarray) -> None:
    """Raise `Failure` unless there are two classes and ten images of each that occurs, as statistics need."""
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) < 2 or counts.min() < 10:
        found = f"{len(counts)} classes of {counts.min()} images or more"
        raise Failure(f"{found} are too few for statistics; give two of ten images or more")


def parse_idx(images: bytes, labels: bytes, source: str = "IDX data") -> Images:
    """Return the images and labels of an image and a label file; raise `Failure` unless both are valid and fit."""
    pixels, classes = _idx_array(images, "image", 3, source), _idx_array(labels, "label", 1, source)
    count, height, width = pixels.shape
    if (height, width) != (28, 28):
        raise Failure(f"{source}: images of {height}×{width} instead of 28×28; give a folder of MNIST's format")
    if count != len(classes):
        raise Failure(f"{source}: {count} images but {len(classes)} labels; take both files from one data set")
    if classes.max() > 9:
        raise Failure(f"{source}: label {classes.max()} is not a class from 0 to 9; give a data set of ten classes")
    return Images(pixels.copy(), classes.astype(np.int64))  # writable


def _idx_array(content: bytes, kind: str, dimensions: int, source: str) -> np.ndarray:
    """Return the array of unsigned bytes in an image or label file, once its magic number and length are right."""
    file, start, magic = f"{source}: the {kind} file", 4 * (1 + dimensions), 0x800 + dimensions
    if len(content) < start:
        raise Failure(f"{file} is cut short within its header; get it again")
    found, *sizes = np.frombuffer(content[:start], ">u4").tolist()
    if found != magic:
        raise Failure(f"{file} has the magic number {found:#x} instead of {magic:#x}; it is not such an IDX file")
    expected = start + math.prod(sizes)
    if len(content) != expected:
        raise Failure(f"{file} has {len(content)} bytes where its header promises {expected}; get it again")
    if expected == start:
        raise Failure(f"{file} holds no {kind}s; give a folder with data")
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def _read_file(folder: Path, name: str) -> bytes:
    """Return the content of an IDX file, plain or .gz, in the folder that the user named."""
    for path in (folder / name, folder / f"{name}.gz"):
        with suppress(FileNotFoundError, NotADirectoryError):
            content = path.read_bytes()
            try:
                return zlib.decompress(content, wbits=31) if path.suffix == ".gz" else content
            except zlib.error as error:
                raise Failure(f"{path} is not a complete gzip archive ({error}); get it again") from error
    raise Failure(f"no {name} or {name}.gz in {folder}; --data-dir or MNIST_DIR takes a folder with the four IDX files")


def _read_official(name: str) -> bytes:
    """Return the content of the first official archive whose MD5 sum is right; raise `Failure` if there is none."""
    for archive in _official_archives(name):
        with suppress(OSError):
            content = archive.read_bytes()
            if hashlib.md5(content, usedforsecurity=False).hexdigest() == MD5[name]:
                return zlib.decompress(content, wbits=31)
    advice = f"restore it, or delete {archive.parents[2]} and try again, or name a folder with the files in MNIST_DIR"
    raise Failure(f"{BUNDLED / archive.name} is missing or damaged, and a good copy could not be downloaded; {advice}")


def _official_archives(name: str) -> Iterator[Path]:
    """Yield the paths to try: the bundled archive, then torchvision's in the user's cache, downloaded if need be."""
    yield BUNDLED / f"{name}.gz"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnist"
    from torchvision.datasets import MNIST

    with redirect_stdout(io.StringIO()), suppress(Exception):  # whatever it says, the check sum decides
        MNIST(str(cache), download=True)
    yield cache / "MNIST" / "raw" / f"{name}.gz"
