"""MNIST is read byte for byte as torchvision reads it, and anything that is no such data is refused."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import idx_bytes
from torchvision.datasets import MNIST

import common.data
from common.checks import Failure
from common.data import Images, check_enough, convert_mnist_to_vectors, digest, load_data, parse_idx


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A folder as torchvision leaves it: MNIST/raw with the four archives and their contents."""
    folder = tmp_path_factory.mktemp("torchvision")
    shutil.copytree(common.data.BUNDLED, folder / "MNIST" / "raw")
    for archive in (folder / "MNIST" / "raw").glob("*.gz"):
        archive.with_suffix("").write_bytes(gzip.decompress(archive.read_bytes()))
    return folder


@pytest.mark.parametrize("train", [True, False])
def test_arrays_equal_what_torchvision_reads(train, unpacked):
    theirs = MNIST(unpacked, train=train)
    images, labels = load_data(train=train)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.array_equal(images, theirs.data.numpy())
    assert np.array_equal(labels, theirs.targets.numpy())


def test_images_and_labels_can_be_changed_in_place():
    images, labels = load_data(train=False)
    images += 1
    labels[:] = 0
    assert not np.array_equal(images, load_data(train=False).images)


def test_a_user_without_a_home_reads_the_bundled_archives(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert len(load_data(train=False).labels) == 10_000


@pytest.fixture
def downloads(unpacked, tmp_path, monkeypatch):
    """No bundled archives, an empty cache at tmp_path, and a download that copies; the list of what it copied."""

    def download(url, download_root, filename, md5):
        print(f"Downloading {url}")  # as some releases of torchvision do
        for name in (filename, filename.removesuffix(".gz")):
            shutil.copy(unpacked / "MNIST" / "raw" / name, download_root)
        copied.append(filename)

    copied = []
    monkeypatch.setattr(common.data, "BUNDLED", tmp_path / "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", download)
    return copied


def test_missing_archives_are_downloaded_once_to_where_torchvision_keeps_them(downloads, tmp_path, capsys):
    assert len(load_data(train=False).labels) == 10_000
    assert sorted(downloads) == sorted(f"{name}.gz" for name in common.data.MD5)
    assert len(MNIST(tmp_path / "mnist", train=False)) == 10_000
    downloads.clear()
    assert len(load_data(train=False).labels) == 10_000
    assert downloads == []
    assert capsys.readouterr().out == ""


def test_a_damaged_file_that_torchvision_has_unpacked_beside_its_archive_is_not_read(downloads, tmp_path):
    load_data(train=False)
    for path in (tmp_path / "mnist" / "MNIST" / "raw").glob("*ubyte"):
        path.write_bytes(path.read_bytes()[:9])
    assert len(load_data(train=False).labels) == 10_000


@pytest.mark.parametrize(
    "change",
    [lambda content: content[:-1], lambda content: content + b"\0", lambda content: b""],
    ids=["a byte less", "a byte more", "nothing"],
)
def test_a_downloaded_archive_of_another_check_sum_is_refused(change, downloads, tmp_path):
    load_data(train=False)
    archive = tmp_path / "mnist" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(Failure, match=r"t10k-labels-idx1-ubyte\.gz is .* damaged, .* not be downloaded; .* delete"):
        load_data(train=False)


def test_a_sound_archive_of_other_data_is_refused_as_official(downloads, tmp_path):
    load_data(train=False)
    archive = tmp_path / "mnist" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    archive.write_bytes(gzip.compress(idx_bytes(np.zeros(10_000))))
    with pytest.raises(Failure, match="damaged, and a good copy could not be downloaded"):
        load_data(train=False)


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


def test_the_named_folder_goes_before_the_variable(small_mnist, monkeypatch):
    monkeypatch.setenv("MNIST_DIR", "nowhere")
    assert len(load_data(data_dir=small_mnist).labels) == 600
    with pytest.raises(Failure, match="in nowhere"):
        load_data()


IMAGES, LABELS = np.zeros((3, 28, 28)), np.zeros(3)


UNSOUND = {
    "no image header": (b"", idx_bytes(LABELS), "the image file is cut short"),
    "no label header": (idx_bytes(IMAGES), b"", "the label file is cut short"),
    "an image byte less": (idx_bytes(IMAGES)[:-1], idx_bytes(LABELS), "2367 bytes where its header promises 2368"),
    "an image byte more": (idx_bytes(IMAGES) + b"\0", idx_bytes(LABELS), "2369 bytes where its header promises 2368"),
    "a label less": (idx_bytes(IMAGES), idx_bytes(LABELS)[:-1], "10 bytes where its header promises 11"),
    "labels as images": (idx_bytes(LABELS) + bytes(9), idx_bytes(LABELS), "magic number 0x801 instead of 0x803"),
    "images as labels": (idx_bytes(IMAGES), idx_bytes(IMAGES), "magic number 0x803 instead of 0x801"),
    "an image less": (idx_bytes(IMAGES[:2]), idx_bytes(LABELS), "2 images but 3 labels"),
    "a label that is no class": (idx_bytes(IMAGES), idx_bytes(LABELS + 10), "label 10"),
    "images of another size": (idx_bytes(np.zeros((3, 32, 32))), idx_bytes(LABELS), "32×32"),
    "28×27": (idx_bytes(IMAGES[:, :, 1:]), idx_bytes(LABELS), "28×27 instead of 28×28"),
    "nothing": (idx_bytes(IMAGES[:0]), idx_bytes(LABELS[:0]), "the image file holds no images"),
    "no labels": (idx_bytes(IMAGES), idx_bytes(LABELS[:0]), "the label file holds no labels"),
    "no images of any size": (np.array([0x803, 0, 2**32 - 1, 2**32 - 1], ">u4").tobytes(), b"", "holds no images"),
}


@pytest.mark.parametrize(("images", "labels", "message"), UNSOUND.values(), ids=UNSOUND)
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
    for _ in range(150):
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


def small_images():
    images = np.arange(3 * 784).reshape(3, 28, 28).astype(np.uint8)
    return Images(images, np.array([2, 0, 1]))


def test_a_digest_is_the_same_for_the_same_data_wherever_it_is_taken():
    data = small_images()
    padded = np.stack([data.images, data.images], axis=-1)
    assert digest(data) == digest(Images(padded[..., 0], data.labels.copy())) == "b4dc61f848e046e6"


@pytest.mark.parametrize("change", ["one grey value", "one label", "fewer images", "another order"])
def test_a_digest_differs_for_other_data(change):
    images, labels = small_images()
    match change:
        case "one grey value":
            images[2, 27, 27] ^= 1
        case "one label":
            labels[2] = 9
        case "fewer images":
            images, labels = images[:2], labels[:2]
        case "another order":
            images, labels = images[::-1], labels[::-1]
    assert digest(Images(images, labels)) != digest(small_images())


def test_ten_images_of_each_of_two_classes_are_enough_for_statistics():
    check_enough(np.array([3] * 10 + [8] * 10))


@pytest.mark.parametrize(
    ("counts", "found"), [([50], "1 classes of 50"), ([50, 9], "2 classes of 9"), ([1, 1], "2 classes of 1")]
)
def test_too_few_images_for_statistics_are_refused(counts, found):
    with pytest.raises(Failure, match=f"^{found} images or more are too few for statistics; give two of ten"):
        check_enough(np.repeat(np.arange(len(counts)), counts))
