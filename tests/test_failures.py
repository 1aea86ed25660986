"""Wrong use and bad input end with one line that says what to do, and leave what was there."""

import gzip
import io
import shutil
import sys
from http.client import IncompleteRead
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import idx_bytes, run_script

import common.data
import task2
import task3
import task4
from common.runtime import run


def check_failure(finished, message):
    assert finished.returncode == 1
    assert message in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


WRONG_USE = [("task1.py", "--epochs", value) for value in ("-1", "0", "1.5", "", "x", "1e3", "²")]
WRONG_USE += [("task1.py", "--batch-size", value) for value in ("-1", "0", "1.5", "", "x")]
WRONG_USE += [("task1.py", "--hidden-channels", "30", value) for value in ("0", "-1", "1.5", "x", "")]
WRONG_USE += [("task1.py", "--learning-rate", value) for value in ("0", "-1", "nan", "inf", "x", "")]
WRONG_USE += [("task2.py", "--seed", value) for value in ("-1", "x", "1.0", "", "4294967296")]
WRONG_USE += [("task3.py", flag, "0") for flag in ("--epochs", "--batch-size", "--learning-rate")]
WRONG_USE += [("task3.py", "--device", "abacus"), ("task4.py", "--device", ""), ("task4.py", "--epochs", "3")]
WRONG_USE += [(script, "--checkpoint", folder) for script in ("task3.py", "task4.py") for folder in (".", "")]
WRONG_USE += [("task1.py", "stray"), ("task2.py", "--data-dir"), ("task1.py", "--hidden-channels")]


@pytest.mark.parametrize("words", WRONG_USE, ids=" ".join)
def test_wrong_use_ends_with_status_2_and_the_usage(words):
    script, *flags = words
    finished = run_script(script, *flags)
    assert finished.returncode == 2
    assert finished.stderr.startswith("usage: ")
    assert ": error: " in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr


def test_figures_under_a_file_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    check_failure(run_script("task1.py", "--figures", tmp_path / "file" / "figures"), "Not a directory")


def test_divergence_is_one_line_and_keeps_earlier_results(tmp_path):
    (tmp_path / "task1.json").write_text("earlier")
    check_failure(run_script("task1.py", "--learning-rate", "1e200", "--figures", tmp_path), "epoch 1, step")
    assert [path.name for path in tmp_path.iterdir()] == ["task1.json"]
    assert (tmp_path / "task1.json").read_text() == "earlier"


@pytest.fixture
def fail(monkeypatch, tmp_path):
    """Run a script's command line in this process, where it has to fail; return its one line."""

    def command(module, *flags):
        words = [f"{module.__name__}.py", *map(str, flags), "--figures", str(tmp_path / "figures")]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
        monkeypatch.setattr("signal.signal", lambda number, handler: None)
        with pytest.raises(SystemExit) as ending:
            run(module.main, module.parse_options())
        message = ending.value.code
        assert message.startswith(f"{module.__name__}.py: ")
        assert "\n" not in message
        assert list((tmp_path / "figures").iterdir()) == []
        return message

    return command


IMAGES, LABELS = np.zeros((3, 28, 28)), np.zeros(3)
IMAGE_NAME, LABEL_NAME = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
DATA = {
    "empty folder": ({}, "no train-images-idx3-ubyte or"),
    "no labels": ({IMAGE_NAME: idx_bytes(IMAGES)}, "no train-labels-idx1-ubyte or"),
    "truncated": ({IMAGE_NAME: idx_bytes(IMAGES)[:-1], LABEL_NAME: idx_bytes(LABELS)}, "promises"),
    "random": ({IMAGE_NAME: np.random.default_rng(0).bytes(999), LABEL_NAME: idx_bytes(LABELS)}, "magic number"),
    "empty file": ({IMAGE_NAME: b"", LABEL_NAME: idx_bytes(LABELS)}, "cut short"),
    "swapped": ({IMAGE_NAME: idx_bytes(LABELS) + bytes(9), LABEL_NAME: idx_bytes(IMAGES)}, "magic number"),
    "lengths": ({IMAGE_NAME: idx_bytes(IMAGES[:2]), LABEL_NAME: idx_bytes(LABELS)}, "2 images but 3 labels"),
    "labels": ({IMAGE_NAME: idx_bytes(IMAGES), LABEL_NAME: idx_bytes(LABELS + 10)}, "label 10"),
    "size": ({IMAGE_NAME: idx_bytes(np.zeros((3, 32, 32))), LABEL_NAME: idx_bytes(LABELS)}, "32×32"),
    "zero images": ({IMAGE_NAME: idx_bytes(IMAGES[:0]), LABEL_NAME: idx_bytes(LABELS[:0])}, "no images"),
    "half an archive": ({f"{IMAGE_NAME}.gz": gzip.compress(idx_bytes(IMAGES))[:-9]}, "no whole gzip archive"),
    "no archive": ({f"{IMAGE_NAME}.gz": b"text"}, "no whole gzip archive"),
}


@pytest.mark.parametrize(("files", "message"), DATA.values(), ids=DATA)
@pytest.mark.parametrize("named", ["flag", "variable"])
def test_a_bad_data_folder_is_one_line(named, files, message, tmp_path, monkeypatch, fail):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if named == "flag":
        assert message in fail(task2, "--data-dir", folder)
    else:
        monkeypatch.setenv("MNIST_DIR", str(folder))
        assert message in fail(task3, "--checkpoint", tmp_path / "mlp.pt")


def test_a_missing_data_folder_is_one_line_of_the_command(tmp_path):
    check_failure(run_script("task2.py", "--data-dir", tmp_path / "none", "--figures", tmp_path), "--data-dir")


@pytest.mark.parametrize("module", [task2, task4])
def test_too_few_images_are_one_line(module, tmp_path, fail):
    for split in ("train", "t10k"):
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((20, 28, 28))))
        (tmp_path / f"{split}-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(20)))
    assert "too few for statistics" in fail(module, "--data-dir", tmp_path)


@pytest.mark.parametrize("name", common.data.MD5)
@pytest.mark.parametrize("damage", ["flipped", "truncated", "deleted"])
def test_a_damaged_bundled_archive_without_a_network_is_one_line(damage, name, tmp_path, monkeypatch, fail):
    bundled = shutil.copytree(common.data.BUNDLED, tmp_path / "mnist")
    archive = bundled / f"{name}.gz"
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content if damage == "flipped" else content[:-1])
    if damage == "deleted":
        archive.unlink()
    monkeypatch.setattr(common.data, "BUNDLED", bundled)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", no_network)
    assert f"{name}.gz is missing or damaged, and it could not be downloaded" in fail(task2)
    assert list((tmp_path / "cache" / "mnist").iterdir()) == []


def no_network(*arguments, **keywords):
    raise RuntimeError("no network")


@pytest.mark.parametrize("error", [RuntimeError("wrong sum"), ConnectionResetError(), IncompleteRead(b"")], ids=repr)
def test_a_download_that_breaks_off_is_one_line(error, tmp_path, monkeypatch, fail):
    def break_off(*arguments, **keywords):
        raise error

    monkeypatch.setattr(common.data, "BUNDLED", tmp_path / "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", break_off)
    assert "it could not be downloaded; restore it" in fail(task2)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, fail):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(common.data, "BUNDLED", tmp_path / "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "it could not be downloaded; restore it" in fail(task2)


def test_a_damaged_archive_is_downloaded_to_the_cache_once(tmp_path, monkeypatch):
    def download(url, download_root, filename, md5):
        archive = Path(shutil.copy(bundled / filename, download_root))
        archive.with_suffix("").write_bytes(gzip.decompress(archive.read_bytes()))
        downloads.append(filename)

    bundled, downloads = common.data.BUNDLED, []
    monkeypatch.setattr(common.data, "BUNDLED", tmp_path / "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", download)
    for _ in range(2):
        assert len(common.data.load_data(train=False).labels) == 10_000
    assert sorted(downloads) == sorted(f"{name}.gz" for name in common.data.MD5)
    assert {path.stem for path in (tmp_path / "cache" / "mnist").iterdir()} == set(common.data.MD5)


def test_a_device_that_is_not_there_is_one_line(tmp_path, monkeypatch, small_mnist, fail):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    flags = "--data-dir", small_mnist, "--device", "cuda", "--checkpoint", tmp_path / "mlp.pt"
    assert "use --device auto" in fail(task3, *flags)


@pytest.mark.parametrize("content", [None, b"", b"random"])
def test_a_named_checkpoint_that_is_none_is_one_line(content, tmp_path, small_mnist, fail):
    path = tmp_path / "mlp.pt"
    if content is not None:
        path.write_bytes(content)
    assert "python task3.py" in fail(task4, "--data-dir", small_mnist, "--checkpoint", path)


def test_divergence_in_task_3_names_the_step_and_keeps_the_checkpoint(tmp_path, small_mnist, fail):
    path = tmp_path / "mlp.pt"
    path.write_bytes(b"earlier")
    flags = "--data-dir", small_mnist, "--checkpoint", path, "--learning-rate", "1e30"
    assert "epoch 1, step" in fail(task3, *flags)
    assert path.read_bytes() == b"earlier"


def test_a_checkpoint_that_cannot_be_written_is_one_line_before_training(tmp_path, small_mnist, fail):
    (tmp_path / "file").write_text("")
    assert "file: File exists; mend that" in fail(
        task3, "--data-dir", small_mnist, "--checkpoint", tmp_path / "file" / "mlp.pt"
    )
