"""MNIST as arrays and as vectors, read straight from the IDX files into NumPy."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.runtime import Failure

BUNDLED = Path(__file__).resolve().parent / "mnist"
MD5 = {  # as torchvision publishes them
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
IMAGES_MAGIC, LABELS_MAGIC = 0x803, 0x801  # unsigned bytes in three dimensions, in one


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
    downloads it to the user's cache. Raises `Failure`, a ValueError, when the files are missing or not what they say.
    """
    split = "train" if train else "t10k"
    names = f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte"
    folder = data_dir or os.environ.get("MNIST_DIR")
    contents = [_read_file(Path(folder), name) if folder else _read_official(name) for name in names]
    return Images(*parse_idx(*contents, source=str(folder or "MNIST")))


def convert_mnist_to_vectors(data: Images) -> Vectors:
    """Flatten the images row by row and map 0 … 255 to [-1, 1] linearly (sheet, 2.2)."""
    images, labels = data
    if images.shape != (len(labels), 28, 28) or images.dtype != np.uint8:
        raise ValueError(f"expected uint8 images [N, 28, 28] and N labels, got {images.dtype} {images.shape}")
    vectors = images.reshape(len(images), -1).astype(np.float32)
    vectors /= 127.5
    vectors -= 1
    return Vectors(vectors, labels)


def check_enough(labels: np.ndarray, least: int = 10) -> None:
    """Raise `Failure` unless there are two classes and `least` images of each that occurs, as statistics need."""
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) < 2 or counts.min() < least:
        raise Failure(
            f"{len(labels)} images with only {counts.min()} of one class are too few for statistics; "
            f"give at least {least} of each class, and two classes"
        )


def parse_idx(images: bytes, labels: bytes, source: str = "IDX data") -> tuple[np.ndarray, np.ndarray]:
    """Read the contents of an image and a label file; raise `Failure` unless they are sound and fit each other."""
    count, *size = _header(images, IMAGES_MAGIC, 4, f"{source}: the image file")
    if size != [28, 28]:
        raise Failure(f"{source}: images of {size[0]}×{size[1]} instead of 28×28; give a folder of MNIST's format")
    (label_count,) = _header(labels, LABELS_MAGIC, 2, f"{source}: the label file")
    if count != label_count:
        raise Failure(f"{source}: {count} images but {label_count} labels; take both files from one data set")
    if count == 0:
        raise Failure(f"{source}: the files hold no images; give a folder with data")
    pixels = np.frombuffer(images, np.uint8, offset=16).reshape(count, 28, 28).copy()  # writable
    classes = np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)
    if classes.max() > 9:
        raise Failure(f"{source}: label {classes.max()} is not a class from 0 to 9; give a data set of ten classes")
    return pixels, classes


def _header(content: bytes, magic: int, fields: int, source: str) -> list[int]:
    """Return the dimensions in an IDX header, checked against the magic number and the length of the file."""
    if len(content) < 4 * fields:
        raise Failure(f"{source} is cut short within its header; get it again")
    found, *dimensions = (int(field) for field in np.frombuffer(content, ">u4", count=fields))
    if found != magic:
        raise Failure(f"{source} has the magic number {found:#x} instead of {magic:#x}; it is no such IDX file")
    expected = 4 * fields + int(np.prod(dimensions, dtype=object))
    if len(content) != expected:
        raise Failure(f"{source} has {len(content)} bytes where its header promises {expected}; get it again")
    return dimensions


def _decompress(content: bytes, source: str) -> bytes:
    """Return a gzip file's content; its own check sum is verified."""
    try:
        return zlib.decompress(content, wbits=31)
    except zlib.error as error:
        raise Failure(f"{source} is no whole gzip archive ({error}); get it again") from error


def _read_file(folder: Path, name: str) -> bytes:
    """Return the content of an IDX file in a folder of the user's, plain or .gz."""
    for path in (folder / name, folder / f"{name}.gz"):
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            continue
        return _decompress(content, str(path)) if path.suffix == ".gz" else content
    raise Failure(f"no {name} or {name}.gz in {folder}; --data-dir or MNIST_DIR takes a folder with the four IDX files")


def _read_official(name: str) -> bytes:
    """Return the content of an official archive: the bundled one, the one in the cache, or a download."""
    content = _verified(BUNDLED, name)
    if content is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnist"
        content = _verified(cache, name) or _verified(_download(cache, name), name)
    if content is None:
        raise Failure(f"the download of {name}.gz is damaged; try again, or restore {BUNDLED / name}.gz")
    return content


def _verified(folder: Path, name: str) -> bytes | None:
    """Return the content of an archive whose MD5 sum is the official one, else None."""
    try:
        archive = (folder / f"{name}.gz").read_bytes()
    except OSError:
        return None
    digest = hashlib.md5(archive, usedforsecurity=False).hexdigest()
    return _decompress(archive, name) if digest == MD5[name] else None


def _download(cache: Path, name: str) -> Path:
    """Let torchvision fetch the archives to a temporary folder and move them to the cache, each whole; return that."""
    from torchvision.datasets import MNIST

    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary, contextlib.redirect_stdout(io.StringIO()):
            MNIST(temporary, download=True)
            for archive in MD5:
                os.replace(Path(temporary, "MNIST", "raw", f"{archive}.gz"), cache / f"{archive}.gz")
    except (RuntimeError, OSError, HTTPException) as error:
        raise Failure(
            f"{BUNDLED / name}.gz is missing or damaged, and it could not be downloaded; "
            "restore it, or name a folder with the files in MNIST_DIR"
        ) from error
    return cache
