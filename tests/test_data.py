"""MNIST is read as torchvision reads it, and what is no such data is refused."""

import gzip
import runpy
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import idx_bytes
from torchvision.datasets import MNIST

from common import data
from common.script import Failure

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
LABELS = np.array([9, 0, 4])
PACKED = gzip.compress(idx_bytes(LABELS))
IMAGE_FILE = "train-images-idx3-ubyte"
LABEL_FILE = "train-labels-idx1-ubyte.gz"


@pytest.fixture
def folder(tmp_path):
    """A folder with a train split: a plain file of images and an archive of labels."""
    (tmp_path / IMAGE_FILE).write_bytes(idx_bytes(IMAGES))
    (tmp_path / LABEL_FILE).write_bytes(PACKED)
    return tmp_path


@pytest.mark.parametrize("train", [True, False])
def test_the_bundled_archives_are_read_as_torchvision_reads_them(train, tmp_path):
    raw = shutil.copytree(data.BUNDLED, tmp_path / "MNIST" / "raw")
    for archive in raw.glob("*.gz"):
        archive.with_suffix("").write_bytes(gzip.decompress(archive.read_bytes()))
    theirs = MNIST(tmp_path, train)
    images, labels = data.load_data(train)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    assert np.array_equal(images, theirs.data)
    assert np.array_equal(labels, theirs.targets)
    images[0] = labels[0] = 0  # the arrays can be written


OTHER = gzip.compress(idx_bytes(np.zeros(10_000)))  # labels, but not the official ones


def test_torchvision_replaces_a_bundled_archive_that_is_not_the_official_one(
    tmp_path, monkeypatch
):
    shutil.copytree(data.BUNDLED, tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(OTHER)
    load = runpy.run_path(shutil.copy(data.__file__, tmp_path))["load_data"]
    split = SimpleNamespace(data=torch.ones(2), targets=torch.zeros(2))
    monkeypatch.setattr(
        "torchvision.datasets.MNIST", lambda *_, download: download and split
    )
    assert [array.tolist() for array in load(False)] == [[1, 1], [0, 0]]
    monkeypatch.setattr("torchvision.datasets.MNIST", open)  # takes no such arguments
    assert len(load(True).labels) == 60_000


def test_a_folder_holds_plain_files_or_archives_of_any_number_of_images(
    folder, monkeypatch
):
    monkeypatch.setenv("MNIST_DIR", "nowhere")
    images, labels = data.load_data(data_dir=folder)
    assert np.array_equal(images, IMAGES)
    assert np.array_equal(labels, LABELS)
    with pytest.raises(Failure, match="nowhere"):
        data.load_data()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (IMAGE_FILE, idx_bytes(IMAGES)[:-1]),
        (IMAGE_FILE, idx_bytes(LABELS) + bytes(9)),
        (IMAGE_FILE, idx_bytes(IMAGES[1:])),
        (IMAGE_FILE, idx_bytes(IMAGES[:, 1:])),
        (LABEL_FILE, gzip.compress(idx_bytes(LABELS + 1))),
        (LABEL_FILE, PACKED[:-9]),
        (LABEL_FILE, PACKED[:-8] + bytes(8)),
    ],
)
def test_unusable_files_are_refused_by_the_name_of_their_folder(name, content, folder):
    (folder / name).write_bytes(content)
    with pytest.raises(Failure, match=folder.name):
        data.load_data(data_dir=folder)


def test_the_name_of_a_split_is_refused():
    with pytest.raises(Failure):
        data.load_data("test")


def test_vectors_are_the_rows_of_an_image_mapped_linearly_to_minus_one_and_one():
    vectors, labels = data.convert_mnist_to_vectors((IMAGES, LABELS))
    assert vectors.dtype == np.float32
    expected = np.interp(IMAGES.reshape(3, 784), [0, 255], [-1, 1])
    np.testing.assert_allclose(vectors, expected, atol=1e-7)
    assert np.array_equal(labels, LABELS)


@pytest.mark.parametrize("images", [IMAGES[:2], IMAGES / 255, IMAGES.reshape(3, 784)])
def test_other_data_make_no_vectors(images):
    for other in (images, (images, LABELS)):
        with pytest.raises(ValueError, match="expected images"):
            data.convert_mnist_to_vectors(other)


def test_a_digest_changes_with_an_image_and_a_label():
    splits = [(IMAGES, LABELS), (~IMAGES, LABELS), (IMAGES, -LABELS)]
    assert len({data.digest(data.Images(*split)) for split in splits}) == 3


def test_fewer_vectors_keep_their_labels_and_come_from_everywhere():
    numbers = np.arange(1000)
    vectors, labels = data.thin(data.Vectors(numbers, numbers), 400)
    assert list(vectors) == list(labels)
    assert len(set(labels)) == 400
    for place in (labels // 100, labels % 10):  # sorted classes, or in turn
        assert np.bincount(place, minlength=10).min() > 20


def test_statistics_need_two_classes_and_of_each_ten_images_and_one_per_cent():
    data.check_enough(np.repeat([3, 5], [10, 990]))
    for counts in ([50, 0], [50, 9], [10, 991]):
        with pytest.raises(Failure):
            data.check_enough(np.repeat([3, 5], counts))
