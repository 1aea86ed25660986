"""Wrong use and bad input end with one line that says what to do, and leave what was there."""

import gzip
import shutil
from http.client import IncompleteRead
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import idx_bytes, run_script, write_mnist

import common.data
import common.runtime
import common.submission

WRONG_USE = [("task1.py", "--epochs", value) for value in ("-1", "0", "1.5", "", "x", "1e3", "²", "٣", "1_0", "+5")]
WRONG_USE += [("task1.py", "--batch-size", value) for value in ("-1", "0", "1.5", "", "x")]
WRONG_USE += [("task1.py", "--hidden-channels", "30", value) for value in ("0", "-1", "1.5", "x", "")]
WRONG_USE += [("task1.py", "--hidden_channels", "30,30"), ("task1.py", "--hidden-channels")]
WRONG_USE += [("task1.py", flag, "0") for flag in ("--learning-rate", "--learning_rate", "--lr")]
WRONG_USE += [("task1.py", "--learning-rate", value) for value in ("-1", "nan", "inf", "x", "")]
WRONG_USE += [("task1.py", "stray"), ("task1.py", "--data-dir", "."), ("task2.py", "--data-dir")]
WRONG_USE += [("task2.py", "--seed", value) for value in ("-1", "x", "1.0", "", "4294967296", "1_0")]
WRONG_USE += [("task3.py", flag, "0") for flag in ("--epochs", "--batch-size", "--learning-rate")]
WRONG_USE += [("task3.py", "--device", "abacus"), ("task4.py", "--device", ""), ("task4.py", "--epochs", "3")]
WRONG_USE += [(script, "--checkpoint", folder) for script in ("task3.py", "task4.py") for folder in (".", "")]


@pytest.mark.parametrize("words", WRONG_USE, ids=" ".join)
def test_wrong_use_ends_with_status_2_the_usage_and_one_line_that_names_the_flag(words, run_here, capsys):
    script, *flags = words
    assert run_here(script, *flags) == 2
    usage, *_, last = capsys.readouterr().err.splitlines()
    assert usage.startswith(f"usage: {script} ")
    assert last.startswith(f"{script}: error: ")
    assert flags[0] in last


@pytest.mark.parametrize(
    "flags", [("--seed", "x"), ("--device", "abacus"), ("--epochs", "3"), ("stray",)], ids=" ".join
)
def test_wrong_use_of_the_submission_ends_with_status_2(flags, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["submission.py", *flags])
    with pytest.raises(SystemExit) as ending:
        common.submission.parse_options()
    assert ending.value.code == 2
    assert flags[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("words", [("task1.py", "--epochs", "0"), ("task3.py", "--device", "abacus")], ids=" ".join)
def test_wrong_use_in_the_shell_ends_with_status_2_and_no_traceback(words):
    finished = run_script(*words)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith(f"usage: {words[0]} ")
    assert "Traceback" not in finished.stderr


@pytest.fixture
def fail(run_here, capsys, tmp_path):
    """Run a script in this process, where it has to fail and to leave the figures alone; return its one line."""
    figures = tmp_path / "figures"
    figures.mkdir()
    (figures / "earlier").write_text("earlier")

    def command(script, *flags):
        assert run_here(script, "--figures", figures, *flags) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{script}: ")
        assert [(path.name, path.read_text()) for path in figures.iterdir()] == [("earlier", "earlier")]
        return line

    return command


def test_a_failure_in_the_shell_is_one_line_with_status_1(tmp_path):
    finished = run_script("task2.py", "--data-dir", tmp_path / "none", "--figures", tmp_path)
    assert finished.returncode == 1
    (line,) = finished.stderr.splitlines()
    assert line.startswith("task2.py: no train-images-idx3-ubyte or")
    assert "--data-dir" in line


def test_figures_under_a_file_are_one_line(fail, tmp_path):
    (tmp_path / "file").write_text("")
    assert "; fix that, or name another place" in fail("task1.py", "--figures", tmp_path / "file" / "figures")


def test_a_figures_folder_that_cannot_be_written_is_one_line_before_the_work(fail, tmp_path, monkeypatch):
    def refuse(**keywords):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    line = fail("task1.py")
    assert line == f"task1.py: {tmp_path / 'figures'}: Permission denied; fix that, or name another place"


def test_divergence_in_task_1_names_the_step_and_keeps_earlier_results(fail, tmp_path):
    line = fail("task1.py", "--learning-rate", "1e200")
    assert "in epoch 1, step " in line
    assert "take a smaller --learning-rate" in line


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
    "half an archive": ({f"{IMAGE_NAME}.gz": gzip.compress(idx_bytes(IMAGES))[:-9]}, "not a complete gzip archive"),
    "no archive": ({f"{IMAGE_NAME}.gz": b"text"}, "not a complete gzip archive"),
}


@pytest.fixture
def make_data(tmp_path):
    """Write files to a folder of data; return the folder."""

    def write(files):
        folder = tmp_path / "data"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return folder

    return write


@pytest.mark.parametrize(("files", "message"), DATA.values(), ids=DATA)
def test_a_bad_data_folder_is_one_line(files, message, make_data, fail):
    assert message in fail("task2.py", "--data-dir", make_data(files))


@pytest.mark.parametrize("script", ["task3.py", "task4.py"])
def test_a_bad_data_folder_in_the_environment_is_one_line(script, make_data, monkeypatch, tmp_path, fail):
    monkeypatch.setenv("MNIST_DIR", str(make_data({})))
    assert f"in {tmp_path / 'data'}; --data-dir or MNIST_DIR" in fail(script, "--checkpoint", tmp_path / "mlp.pt")


@pytest.mark.parametrize(
    "labels", [np.zeros(20), np.repeat([1, 2], [19, 1])], ids=["one class", "one image of a class"]
)
@pytest.mark.parametrize("script", ["task2.py", "task4.py"])
def test_too_few_images_are_one_line(script, labels, make_data, fail):
    images = idx_bytes(np.zeros((20, 28, 28)))
    splits = {split: {"images-idx3": images, "labels-idx1": idx_bytes(labels)} for split in ("train", "t10k")}
    files = {f"{split}-{kind}-ubyte": content for split, kinds in splits.items() for kind, content in kinds.items()}
    assert "too few for statistics" in fail(script, "--data-dir", make_data(files))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The place of downloads, empty, with no bundled archives beside it."""
    monkeypatch.setattr(common.data, "BUNDLED", tmp_path / "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mnist"


@pytest.fixture
def download(monkeypatch):
    """Replace torchvision's download of one archive."""
    return lambda function: monkeypatch.setattr(
        "torchvision.datasets.mnist.download_and_extract_archive", lambda url, **keywords: function(**keywords)
    )


def break_off(error):
    def function(**keywords):
        raise error

    return function


BUNDLED = common.data.BUNDLED


def copy_bundled(download_root, filename, **keywords):
    archive = Path(shutil.copy(BUNDLED / filename, download_root))
    archive.with_suffix("").write_bytes(gzip.decompress(archive.read_bytes()))
    return archive


@pytest.mark.parametrize(
    ("name", "damage"), [*zip(common.data.MD5, ["flipped", "truncated", "empty", "deleted"], strict=True)]
)
def test_a_damaged_bundled_archive_without_a_network_is_one_line(name, damage, cache, monkeypatch, download, fail):
    archive = shutil.copytree(BUNDLED, cache.parent.with_name("mnist")) / f"{name}.gz"
    content = archive.read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    archive.write_bytes({"flipped": flipped, "truncated": content[:-1]}.get(damage, b""))
    if damage == "deleted":
        archive.unlink()
    monkeypatch.setattr(common.data, "BUNDLED", archive.parent)
    download(break_off(RuntimeError("no network")))
    assert f"{name}.gz is missing or damaged, and a good copy could not be downloaded; restore it" in fail("task2.py")
    assert [path for path in cache.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("error", [RuntimeError("wrong sum"), ConnectionResetError(), IncompleteRead(b"")], ids=repr)
def test_a_download_that_breaks_off_is_one_line(error, cache, download, fail):
    download(break_off(error))
    assert "is missing or damaged, and a good copy could not be downloaded; restore it" in fail("task2.py")


def test_a_download_of_other_bytes_is_one_line_that_says_what_to_delete(cache, download, fail):
    def tamper(**keywords):
        with copy_bundled(**keywords).open("ab") as file:
            file.write(b"\0")

    download(tamper)
    assert f"could not be downloaded; restore it, or delete {cache} and try again, or name a folder" in fail("task2.py")


def test_a_cache_that_cannot_be_written_is_one_line(cache, fail):
    cache.parent.write_text("")
    assert "is missing or damaged, and a good copy could not be downloaded; restore it" in fail("task2.py")


def test_missing_archives_are_downloaded_to_the_cache_once(cache, download):
    downloads = []
    download(lambda **keywords: downloads.append(copy_bundled(**keywords).name))
    for _ in range(2):
        assert len(common.data.load_data(train=False).labels) == 10_000
    assert sorted(downloads) == sorted(f"{name}.gz" for name in common.data.MD5)


def test_a_device_that_is_not_there_is_one_line(tmp_path, monkeypatch, small_mnist, fail):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    flags = "--data-dir", small_mnist, "--device", "cuda", "--checkpoint", tmp_path / "mlp.pt"
    assert "use --device auto" in fail("task3.py", *flags)


@pytest.mark.parametrize("content", [None, b"", b"random"], ids=["missing", "empty", "random"])
def test_a_named_checkpoint_that_is_none_is_one_line(content, tmp_path, small_mnist, fail):
    path = tmp_path / "mlp.pt"
    if content is not None:
        path.write_bytes(content)
    line = fail("task4.py", "--data-dir", small_mnist, "--checkpoint", path)
    assert str(path) in line
    assert "python task3.py" in line


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(tmp_path, small_mnist, monkeypatch, fail):
    def refuse(path, **keywords):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(torch, "load", refuse)
    line = fail("task4.py", "--data-dir", small_mnist, "--checkpoint", tmp_path / "mlp.pt")
    assert f"{tmp_path / 'mlp.pt'}: Permission denied; fix that" in line


def test_the_default_checkpoint_is_known_by_a_relative_path_and_trained_when_it_is_missing(
    tmp_path, small_mnist, monkeypatch, run_here, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(common.runtime, "CHECKPOINT", tmp_path.resolve() / "artifacts" / "mlp.pt")
    flags = "--data-dir", small_mnist, "--figures", "figures", "--checkpoint", "artifacts/mlp.pt"
    assert run_here("task4.py", *flags) == 0, capsys.readouterr().err
    assert "training the network of task 3 first" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "artifacts").iterdir()} == {"mlp.pt", "features.npz"}


@pytest.mark.parametrize(
    ("images", "flags"),
    [(600, ()), (64, ("--batch-size", "64"))],
    ids=["in the steps", "in the validation after the only step"],
)
def test_divergence_in_task_3_names_the_step_and_keeps_the_checkpoint(images, flags, tmp_path, fail):
    path = tmp_path / "mlp.pt"
    path.write_bytes(b"earlier")
    data = write_mnist(tmp_path / "data", images, 300)
    line = fail("task3.py", "--data-dir", data, "--checkpoint", path, "--learning-rate", "1e30", *flags)
    assert "the loss is not finite in epoch 1, step " in line
    assert path.read_bytes() == b"earlier"
    assert {each.name for each in tmp_path.iterdir()} == {"figures", "data", "mlp.pt"}


def test_a_checkpoint_that_cannot_be_written_is_one_line_before_training(tmp_path, small_mnist, fail):
    (tmp_path / "file").write_text("")
    line = fail("task3.py", "--data-dir", small_mnist, "--checkpoint", tmp_path / "file" / "mlp.pt")
    assert line.startswith(f"task3.py: {tmp_path / 'file'}: ")
    assert "; fix that" in line


def test_a_checkpoint_whose_name_is_too_long_is_one_line(small_mnist, fail):
    line = fail("task3.py", "--data-dir", small_mnist, "--epochs", 1, "--checkpoint", "m" * 5000)
    assert line.endswith("fix that, or name another place")
