"""MNIST is read byte for byte as torchvision reads it, and anything that is no such data is refused."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import idx_bytes
from torchvision.datasets import MNIST

import common.data
from common.data import Images, convert_mnist_to_vectors, load_data, parse_idx


@pytest.mark.parametrize("train", [True, False])
def test_arrays_equal_what_torchvision_reads(train, tmp_path):
    shutil.copytree(common.data.BUNDLED, tmp_path / "MNIST" / "raw")
    for archive in (tmp_path / "MNIST" / "raw").glob("*.gz"):
        archive.with_suffix("").write_bytes(gzip.decompress(archive.read_bytes()))
    theirs = MNIST(tmp_path, train=train)
    images, labels = load_data(train=train)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.array_equal(images, theirs.data.numpy())
    assert np.array_equal(labels, theirs.targets.numpy())


def test_a_user_without_a_home_reads_the_bundled_archives(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert len(load_data(train=False).labels) == 10_000


def test_vectors_map_grey_values_linearly_to_minus_one_and_one():
    images = np.arange(784, dtype=np.int64).reshape(1, 28, 28).clip(max=255).astype(np.uint8)
    vectors, labels = convert_mnist_to_vectors(Images(images, np.array([3])))
    assert vectors.dtype == np.float32
    assert vectors.shape == (1, 784)
    assert vectors[0, 0] == -1
    assert vectors[0, 255] == 1
    np.testing.assert_allclose(vectors[0, :256], np.linspace(-1, 1, 256), atol=1e-7)
    assert labels.tolist() == [3]


@pytest.mark.parametrize("compressed", [True, False])
def test_a_folder_of_any_count_is_read_plain_or_compressed(compressed, tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    labels = np.array([9, 0, 1, 2, 3])
    for name, array in (("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)):
        content = idx_bytes(array)
        path = tmp_path / (f"{name}.gz" if compressed else name)
        path.write_bytes(gzip.compress(content) if compressed else content)
    for data in (load_data(data_dir=tmp_path), monkeypatch.setenv("MNIST_DIR", str(tmp_path)) or load_data()):
        assert np.array_equal(data.images, images)
        assert np.array_equal(data.labels, labels)


IMAGES, LABELS = np.zeros((3, 28, 28)), np.zeros(3)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (b"", idx_bytes(LABELS), "cut short"),
        (idx_bytes(IMAGES)[:-1], idx_bytes(LABELS), "promises"),
        (idx_bytes(IMAGES) + b"\0", idx_bytes(LABELS), "promises"),
        (idx_bytes(LABELS), idx_bytes(LABELS), "cut short|magic"),
        (idx_bytes(IMAGES), idx_bytes(IMAGES), "magic"),
        (idx_bytes(IMAGES[:2]), idx_bytes(LABELS), "2 images but 3 labels"),
        (idx_bytes(IMAGES), idx_bytes(LABELS + 10), "label 10"),
        (idx_bytes(np.zeros((3, 32, 32))), idx_bytes(LABELS), "32×32"),
        (idx_bytes(IMAGES[:0]), idx_bytes(LABELS[:0]), "no images"),
    ],
)
def test_unsound_idx_content_is_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        parse_idx(images, labels)


def mutate(content, rng):
    """Flip a bit, cut out, insert or cut off some bytes, half of the time within the header."""
    content = bytearray(content)
    position = int(rng.integers(min(len(content), 16 if rng.random() < 0.5 else len(content))))
    count = int(rng.integers(1, 9))
    match rng.integers(4):
        case 0:
            content[position] ^= 1 << int(rng.integers(8))
        case 1:
            del content[position : position + count]
        case 2:
            content[position:position] = rng.bytes(count)
        case 3:
            del content[position:]
    return bytes(content)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_mutated_idx_file_is_read_right_or_refused(compressed, tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (2, 28, 28)), np.array([1, 2])
    suffix, pack = (".gz", gzip.compress) if compressed else ("", bytes)
    files = {f"train-images-idx3-ubyte{suffix}": images, f"train-labels-idx1-ubyte{suffix}": labels}
    good = {name: pack(idx_bytes(array)) for name, array in files.items()}
    for _ in range(2000):
        name = str(rng.choice(list(good)))
        contents = {**good, name: mutate(good[name], rng)}
        for path, content in contents.items():
            (tmp_path / path).write_bytes(content)
        try:
            read = [idx_bytes(array) for array in load_data(data_dir=tmp_path)]
        except ValueError:
            continue
        # the check sum of an archive leaves no other content than the good one
        sound = [idx_bytes(array) for array in files.values()] if compressed else list(contents.values())
        assert read == sound
