"""The four scripts from the shell, on real digits."""

import json

import pytest
from conftest import run_script

import common.data

SCRIPTS = ("task1.py", "task2.py", "task3.py", "task4.py")
FIGURES = {
    "task1.py": {
        "task1_loss.png",
        "task1_boundary.png",
        "task1_depth.png",
        "task1_overfitting.png",
        "task1_gradients.png",
        "task1_normalization.png",
        "task1.json",
    },
    "task2.py": {
        "task2_examples.png",
        "task2_components.png",
        "task2_variance.png",
        "task2_projection.png",
        "task2.json",
    },
    "task3.py": {"task3_training.png", "task3_confusion.png", "task3.json"},
    "task4.py": {"task4_features.png", "task4.json"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, small_mnist):
    """A folder in which the four scripts have run on a small part of MNIST."""
    folder = tmp_path_factory.mktemp("ran")
    data = ("--data-dir", small_mnist)
    model = ("--checkpoint", folder / "artifacts" / "mlp.pt")
    flags = {"task1.py": ("--epochs", 2), "task2.py": data, "task3.py": (*data, *model, "--epochs", 2)}
    flags["task4.py"] = (*data, *model)
    for script in SCRIPTS:
        finished = run_script(script, "--figures", folder / "figures", *flags[script], cwd=folder)
        assert finished.returncode == 0, finished.stderr
        assert finished.stderr == ""
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_leaves_its_figures_and_results(script, trained):
    name = script.removesuffix(".py")
    left = {path.name for path in (trained / "figures").iterdir() if name in path.name}
    assert left == FIGURES[script]
    for path in left:
        content = (trained / "figures" / path).read_bytes()
        assert content.startswith(b"\x89PNG" if path.endswith(".png") else b"{")
    assert json.loads((trained / "figures" / f"{name}.json").read_text(encoding="utf-8"))["seed"] == 0


def test_nothing_else_is_left_behind(trained):
    assert {path.name for path in trained.iterdir()} == {"figures", "artifacts"}
    assert {path.name for path in (trained / "artifacts").iterdir()} == {"mlp.pt", "features.npz"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_the_flags(script):
    finished = run_script(script, "--help")
    assert finished.returncode == 0
    assert "--seed" in finished.stdout
    assert "default" in finished.stdout


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("task1.py", ("--epochs", "0")),
        ("task1.py", ("--epochs", "1.5")),
        ("task1.py", ("--hidden-channels",)),
        ("task1.py", ("--hidden-channels", "30", "-1")),
        ("task1.py", ("--learning-rate", "nan")),
        ("task1.py", ("--learning-rate", "inf")),
        ("task1.py", ("stray",)),
        ("task2.py", ("--seed", "-1")),
        ("task2.py", ("--seed", "one")),
        ("task3.py", ("--batch-size", "")),
        ("task3.py", ("--learning-rate", "0")),
        ("task3.py", ("--device", "abacus")),
        ("task4.py", ("--seed", "1e3")),
    ],
)
def test_wrong_use_ends_with_status_2_and_the_usage(script, flags, tmp_path):
    finished = run_script(script, *flags, "--figures", tmp_path)
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"usage: {script}")
    assert finished.stderr.splitlines()[-1].startswith(f"{script}: error:")
    assert "Traceback" not in finished.stderr


def check_failure(finished, message):
    assert finished.returncode == 1
    assert message in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


def test_a_missing_data_folder_is_one_line(tmp_path):
    check_failure(run_script("task2.py", "--data-dir", tmp_path / "none", "--figures", tmp_path), "--data-dir")


def test_a_named_checkpoint_that_is_missing_is_one_line(tmp_path, small_mnist):
    flags = ("--data-dir", small_mnist, "--figures", tmp_path, "--checkpoint", tmp_path / "none.pt")
    check_failure(run_script("task4.py", *flags), "run python task3.py first")


def test_figures_under_a_file_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    check_failure(run_script("task1.py", "--figures", tmp_path / "file" / "figures"), "Not a directory")


def test_divergence_is_one_line_and_keeps_earlier_results(tmp_path):
    (tmp_path / "task1.json").write_text("earlier")
    check_failure(run_script("task1.py", "--learning-rate", "1e200", "--figures", tmp_path), "epoch 1, step")
    assert [path.name for path in tmp_path.iterdir()] == ["task1.json"]
    assert (tmp_path / "task1.json").read_text() == "earlier"


def test_damaged_archives_without_a_network_are_one_clear_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(common.data, "BUNDLED", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    with pytest.raises(ValueError, match="could not be downloaded"):
        common.data.load_data()
    assert list((tmp_path / "cache" / "mnist").iterdir()) == []


def refuse(*arguments, **keywords):
    raise RuntimeError("no network")
