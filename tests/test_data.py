"""MNIST is read as torchvision reads it, and what is no such data is refused."""

import gzip
import runpy
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, idx_bytes
from torchvision.datasets import MNIST

from common.data import (
    Images,
    check_enough,
    convert_mnist_to_vectors,
    digest,
    load_data,
)
from common.script import Failure

IMAGES, LABELS = (
    np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8),
    np.array([9, 0, 4]),
)
IMAGE_FILE, LABEL_FILE = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
OTHER = gzip.compress(
    idx_bytes(np.zeros(10_000))
)  # labels of a test split, but not the official ones
GOOD = {IMAGE_FILE: idx_bytes(IMAGES), LABEL_FILE: idx_bytes(LABELS)}


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("train", [True, False])
def test_the_bundled_archives_are_read_as_torchvision_reads_them(
    train, tmp_path, monkeypatch
):
    raw = shutil.copytree(ROOT / "common" / "mnist", tmp_path / "MNIST" / "raw")
    for archive in raw.glob("*.gz"):
        archive.with_suffix("").write_bytes(gzip.decompress(archive.read_bytes()))
    theirs = MNIST(tmp_path, train=train)
    monkeypatch.setattr("torchvision.datasets.MNIST", None)  # nothing is downloaded
    for ours, expected in zip(
        load_data(train=train),
        (theirs.data.numpy(), theirs.targets.numpy()),
        strict=True,
    ):
        assert (ours.dtype, ours.flags.writeable) == (expected.dtype, True)
        assert np.array_equal(ours, expected)


@pytest.mark.parametrize(
    "archive", [None, b"damaged", OTHER], ids=["missing", "damaged", "of other data"]
)
def test_a_download_replaces_a_bundled_archive_that_is_not_the_official_one(
    archive, tmp_path, monkeypatch
):
    def download(cache, train, download):
        assert (cache, train, download) == (ROOT / "artifacts", False, True)
        return SimpleNamespace(
            data=torch.from_numpy(official.images),
            targets=torch.from_numpy(answers.pop()),
        )

    official = load_data(train=False)
    answers = [official.labels * 0, official.labels]
    labels = (
        shutil.copytree(ROOT / "common" / "mnist", tmp_path / "mnist")
        / "t10k-labels-idx1-ubyte.gz"
    )
    labels.write_bytes(archive) if archive else labels.unlink()
    load = runpy.run_path(shutil.copy(ROOT / "common" / "data.py", tmp_path))[
        "load_data"
    ]  # beside the archives
    monkeypatch.setattr("torchvision.datasets.MNIST", download)
    assert np.array_equal(load(train=False).labels, official.labels)
    for reason in ("holds other data, delete it", "IndexError: pop from empty list"):
        with pytest.raises(
            Failure, match=f"the download failed .*{reason}.*MNIST_DIR$"
        ):
            load(train=False)


@pytest.mark.parametrize("place", ["{0}", "{0}.gz", "{0}/{0}", "{0}/{0}.gz"])
def test_a_folder_holds_images_plain_or_compressed_and_labels_plain_under_either_name(
    place, tmp_path
):
    for split, images, labels in (
        ("train", IMAGES, LABELS),
        ("t10k", IMAGES[:2], LABELS[1:]),
    ):
        content = idx_bytes(images)
        members = gzip.compress(content[:9]) + gzip.compress(content[9:])
        files = {
            "images-idx3": members if place.endswith("gz") else content,
            "labels-idx1": idx_bytes(labels),
        }
        write(
            tmp_path,
            {place.format(f"{split}-{kind}-ubyte"): files[kind] for kind in files},
        )
        data = load_data(split == "train", tmp_path)
        assert np.array_equal(data.images, images)
        assert data.labels.tolist() == labels.tolist()


def test_the_named_folder_is_read_before_that_of_the_environment(tmp_path, monkeypatch):
    write(tmp_path, GOOD)
    monkeypatch.setenv("MNIST_DIR", "nowhere")
    assert digest(load_data(data_dir=tmp_path)) == digest(Images(IMAGES, LABELS))
    with pytest.raises(
        Failure, match="in nowhere; --data-dir or MNIST_DIR takes a folder"
    ):
        load_data()


LABELS_GZ, PACKED = f"{LABEL_FILE}.gz", gzip.compress(GOOD[LABEL_FILE])
UNUSABLE = {
    "no file": ({LABEL_FILE: None}, f"no file {LABEL_FILE} or"),
    "an empty file": ({LABEL_FILE: b""}, "magic number 0x0 instead of 0x801"),
    "a byte less": (
        {IMAGE_FILE: GOOD[IMAGE_FILE][:-1]},
        "2367 bytes where its header promises 2368",
    ),
    "labels as images": (
        {IMAGE_FILE: GOOD[LABEL_FILE] + bytes(9)},
        "magic number 0x801 instead of 0x803",
    ),
    "an image less": ({IMAGE_FILE: idx_bytes(IMAGES[1:])}, "2 images but 3 labels"),
    "no image": (
        {IMAGE_FILE: idx_bytes(IMAGES[:0]), LABEL_FILE: idx_bytes(LABELS[:0])},
        "is empty",
    ),
    "label 10": ({LABEL_FILE: idx_bytes(LABELS + 1)}, "label 10"),
    "28×27": ({IMAGE_FILE: idx_bytes(IMAGES[:, :, 1:])}, "28×27 instead of 28×28"),
    "a cut archive": (
        {LABEL_FILE: None, LABELS_GZ: PACKED[:-9]},
        "not a complete gzip archive",
    ),
    "a changed archive": (
        {LABEL_FILE: None, LABELS_GZ: PACKED[:10] + b"change"},
        "not a complete gzip archive",
    ),
    "no archive": (
        {LABEL_FILE: None, LABELS_GZ: b"text"},
        "not a complete gzip archive",
    ),
    "packed twice": (
        {LABEL_FILE: None, LABELS_GZ: gzip.compress(PACKED)},
        "magic number 0x1f8b",
    ),
}


@pytest.mark.parametrize(("files", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_files_are_refused_by_a_message_that_names_their_folder(
    files, message, tmp_path
):
    write(
        tmp_path,
        {
            name: content
            for name, content in {**GOOD, **files}.items()
            if content is not None
        },
    )
    with pytest.raises(Failure, match=message) as failure:
        load_data(data_dir=tmp_path)
    assert str(tmp_path) in str(failure.value)


def test_vectors_are_the_rows_of_an_image_mapped_linearly_to_minus_one_and_one():
    vectors, labels = convert_mnist_to_vectors(Images(IMAGES, LABELS))
    assert (vectors.dtype, vectors.shape, labels.tolist()) == (
        np.float32,
        (3, 784),
        LABELS.tolist(),
    )
    np.testing.assert_allclose(
        vectors[1].reshape(28, 28), np.interp(IMAGES[1], [0, 255], [-1, 1]), atol=1e-7
    )
    for images in (IMAGES[:2], IMAGES / 255, IMAGES.reshape(3, 784)):
        with pytest.raises(ValueError, match="expected uint8 images"):
            convert_mnist_to_vectors(Images(images, LABELS))


def test_a_digest_changes_with_an_image_a_label_and_the_order():
    others = [
        (~IMAGES, LABELS),
        (IMAGES, LABELS[::-1]),
        (IMAGES[:2], LABELS[:2]),
        (IMAGES[::-1], LABELS),
    ]
    assert len({digest(Images(*data)) for data in [(IMAGES, LABELS), *others]}) == 5


def test_statistics_need_two_classes_and_of_each_ten_images_and_one_per_cent():
    for counts in ((10, 10), (10, 990), (500, 20, 480)):
        check_enough(np.repeat([3, 5, 8][: len(counts)], counts))
    for counts in ((50,), (50, 9), (10, 991), (9, 500, 481)):
        with pytest.raises(
            Failure, match=f"found {counts[0]} of class 3.*; at least two classes"
        ):
            check_enough(np.repeat([3, 5, 8][: len(counts)], counts))
