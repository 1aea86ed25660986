"""The four scripts from the shell, on real digits."""

import json

import pytest
from conftest import run_script

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
    """A folder in which the four scripts have run on a small part of MNIST, task 1 with small studies."""
    folder = tmp_path_factory.mktemp("ran")
    data = ("--data-dir", small_mnist)
    model = ("--checkpoint", folder / "artifacts" / "mlp.pt")
    flags = {"task1.py": ("--epochs", 2), "task2.py": data, "task3.py": (*data, *model, "--epochs", 2)}
    flags["task4.py"] = (*data, *model)
    for script in SCRIPTS:
        path = "tests/quick_task1.py" if script == "task1.py" else script
        finished = run_script(path, "--figures", folder / "figures", *flags[script], cwd=folder)
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
