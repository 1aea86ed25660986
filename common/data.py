"""The two moons, and MNIST as arrays and as vectors, read from the IDX files into
NumPy; pictures of digits as vectors alike.
"""

import gzip
import hashlib
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

from common.script import ROOT, Failure

BUNDLED = Path(__file__).resolve().parent / "mnist"
# The digests of the official train and test split
OFFICIAL = {True: "d18cfd466eb143ac", False: "a0863a96c44e5666"}


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
    beyond. Raises `Failure`, a ValueError, for under two points or negative noise.
    """
    if min(n_train, n_test) < 2 or not 0 <= noise < np.inf:
        raise Failure(
            "expected at least two points per split and noise ≥ 0, got"
            f" {n_train}, {n_test}, {noise}"
        )
    train_rng, test_rng = np.random.default_rng(seed).spawn(2)
    x_train, y_train = random_moons(n_train, noise, train_rng)
    x_test, y_test = random_moons(n_test, noise, test_rng)
    low = x_train.min(axis=0)
    high = x_train.max(axis=0)
    x_train = 2 * (x_train - low) / (high - low) - 1
    x_test = 2 * (x_test - low) / (high - low) - 1
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
    if train not in (True, False):
        raise Failure(f"train must be True or False (test split), not {train!r}")
    folder = data_dir or os.environ.get("MNIST_DIR")
    if folder:
        return read_folder(Path(folder), train)
    with suppress(Failure):
        data = read_folder(BUNDLED, train)
        if digest(data) == OFFICIAL[train]:
            return data
    return download(train)


def convert_mnist_to_vectors(data: Images) -> Vectors:
    """Flatten images row by row and map 0 … 255 to [-1, 1] linearly (sheet, 2.2); raise
    ValueError for other data.
    """
    if len(data) != 2:
        raise ValueError("expected images and labels, as load_data returns them")
    images, labels = data
    if images.shape != (len(labels), 28, 28) or images.dtype != np.uint8:
        raise ValueError(
            "expected images, uint8 [N, 28, 28], and N labels,"
            f" got {images.dtype} {images.shape}"
        )
    vectors = images.reshape(-1, 784) / np.float32(127.5) - 1  # float32
    return Vectors(vectors, labels)


def read_digit(path: str | Path) -> np.ndarray:
    """Return the digit of a picture as MNIST would show it, a vector float32 [1, 784]
    in [-1, 1].

    Ink is what differs from the paper around it. Raises `Failure`, a ValueError, when
    there is none, and OSError for other files than pictures.
    """
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file).convert("RGBA")
    # In "RGBa" colours are multiplied by opacity: what is transparent has none
    picture = ImageOps.contain(picture.convert("RGBa"), (400, 400))
    paper = picture.filter(ImageFilter.GaussianBlur(100))  # light may change slowly
    difference = ImageChops.difference(picture, paper)
    ink = np.asarray(difference, np.float32).max(axis=2)  # [rows, columns]
    if ink.max() < 25:
        raise Failure(f"{path} has no ink: draw a digit that differs from its paper")
    ink[ink < 0.4 * ink.max()] = 0  # noise and shadows
    # MNIST's digits are 20 pixels long, their centre of mass is the middle of 28 × 28
    points = np.argwhere(ink)[:, ::-1]  # x and y
    centre = points.mean(axis=0)
    half = 0.75 * np.ptp(points, axis=0).max() + 1  # the blur makes 19 pixels 20
    box = tuple(np.append(centre - half, centre + half))
    digit = Image.fromarray(ink).crop(box).resize((28, 28)).convert("L")
    # The blur makes a thin pen as broad as MNIST's, the factor makes it as dark
    strokes = np.asarray(digit.filter(ImageFilter.GaussianBlur(0.75)), np.float32)
    return np.minimum(4 * strokes / strokes.max() - 1, 1).reshape(1, 784)


def check_labels(data: Vectors) -> None:
    """Raise ValueError unless each vector has a label, an integer from 0 to 9."""
    fits = data.labels.shape == (len(data.vectors),)
    if not fits or not np.isin(data.labels, range(10)).all():
        raise ValueError("expected a label from 0 to 9 for each vector")


def thin(data: Vectors, count: int) -> Vectors:
    """Return so many vectors at most with their labels, drawn at random and always the
    same, so that the order of the split does not matter.
    """
    chosen = np.random.default_rng(0).permutation(len(data.labels))[:count]
    return Vectors(data.vectors[chosen], data.labels[chosen])


def digest(data: Images) -> str:
    """Return a digest of a split that identifies the data set in the results, 16
    hexadecimal digits.
    """
    content = data.images.tobytes() + data.labels.tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def check_enough(labels: np.ndarray) -> None:
    """Raise `Failure` unless two classes or more occur, each in ten images and in one
    per cent of all.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2 or counts.min() < max(10, len(labels) / 100):
        raise Failure(
            f"found {counts} images of the classes {classes}; at least two classes are"
            " needed, each in ten images and in 1 % of all"
        )


def read_folder(folder: Path, train: bool) -> Images:
    """Read a split from a folder of IDX files; raise `Failure` when they are missing,
    invalid or do not match.
    """
    split = "train" if train else "t10k"
    images = read_idx(folder / f"{split}-images-idx3-ubyte", 3)
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte", 1)
    if images.shape != (len(labels), 28, 28) or labels.max() > 9:
        raise Failure(
            f"{folder} has images {images.shape} and {len(labels)} labels up to"
            f" {labels.max()}; use images [N, 28, 28] and N labels from 0 to 9"
        )
    return Images(images.copy(), labels.astype(np.int64))  # writable


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an array of unsigned bytes from an IDX file or its .gz archive; raise
    `Failure`, which names the file, when it is missing, damaged or empty.
    """
    try:
        if path.is_file():
            content = path.read_bytes()
        else:
            content = gzip.decompress(Path(f"{path}.gz").read_bytes())
        header = np.frombuffer(content, ">u4", 1 + dimensions)  # magic number, sizes
        if header[0] != 0x800 + dimensions or header[1] == 0:
            raise ValueError(f"its header is {header}")
        values = np.frombuffer(content, np.uint8, offset=header.nbytes)
        return values.reshape(header[1:])
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise Failure(
            f"{path}, plain or .gz, is missing or damaged ({error}); --data-dir and"
            " MNIST_DIR take a folder with the four IDX files, as MNIST/raw of"
            " torchvision"
        ) from error


def download(train: bool) -> Images:
    """Return a split that torchvision downloads, once, to artifacts/, and verifies;
    raise `Failure` if that fails.
    """
    try:
        from torchvision.datasets import MNIST

        split = MNIST(ROOT / "artifacts", train, download=True)
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise Failure(
            f"{BUNDLED} is missing or damaged, and the download failed ({reason});"
            " restore it or name a folder with the four IDX files in MNIST_DIR"
        ) from error
    return Images(split.data.numpy(), split.targets.numpy())
