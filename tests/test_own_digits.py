"""Pictures as people have them, drawn here, are recognized after training on MNIST."""

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image, ImageDraw

import task3
from common.data import convert_mnist_to_vectors, load_data, read_digit
from common.script import Failure

# The strokes of the ten digits: column and row of each point, from 0 to 9
STROKES = [
    "50 20 13 16 29 59 78 86 83 70 50",
    "50 49",
    "13 20 50 72 64 19 89",
    "11 30 60 71 63 44 64 76 68 49 29 17",
    "20 15 75 72 79",
    "70 20 14 44 65 77 68 49 29 17",
    "60 32 15 17 29 59 77 75 54 25 16",
    "10 80 39",
    "60 30 12 24 55 77 68 49 28 17 35 64 72 60",
    "72 50 20 13 25 55 73 71 79",
]
BLACK = (0, 0, 0, 255)
WHITE = (255, 255, 255, 255)
NOTHING = (0, 0, 0, 0)
GREY = (170, 170, 170, 255)
# Paper and ink; in pixels: the picture, the digit, its margin at top and left, the pen
CONDITIONS = {
    "black on grey": (GREY, BLACK, 300, 180, 60, 20),
    "white on black": (BLACK, WHITE, 300, 180, 60, 20),
    "black on nothing": (NOTHING, BLACK, 300, 180, 60, 20),
    "white on nothing": (NOTHING, WHITE, 300, 180, 60, 20),
    "in a corner": (WHITE, BLACK, 400, 70, 5, 8),
    "thin pen": (WHITE, BLACK, 300, 180, 60, 3),
    "photo": (GREY, BLACK, 1000, 450, 300, 30),
}


def draw(digit, condition):
    """Return a picture of a digit, which is a photo if it is large."""
    paper, ink, size, height, margin, pen = CONDITIONS[condition]
    picture = Image.new("RGBA", (size, size), paper)
    points = []
    for column, row in STROKES[digit].split():
        points += [int(column) * height / 9 + margin, int(row) * height / 9 + margin]
    ImageDraw.Draw(picture).line(points, ink, pen, joint="curve")
    if condition != "photo":
        return picture
    light = np.linspace(0.6, 1.3, size)[:, None, None]
    noise = np.random.default_rng(digit).normal(0, 10, (size, size, 1))
    pixels = np.asarray(picture.convert("RGB")) * light + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def network():
    """A network that has learned MNIST for a few seconds."""
    train = convert_mnist_to_vectors(load_data(True))
    test = convert_mnist_to_vectors(load_data(False))
    torch.manual_seed(0)
    model = task3.MultilayerPerceptron()
    task3.train(
        model, tuple(train), tuple(test), epochs=2, batch_size=100, learning_rate=1e-3
    )
    return model


@pytest.mark.parametrize("condition", CONDITIONS)
def test_nine_digits_of_ten_are_recognized(condition, network, tmp_path):
    vectors = []
    for digit in range(10):
        draw(digit, condition).save(tmp_path / "digit.png", compress_level=1)
        vectors.append(read_digit(tmp_path / "digit.png")[0])
    predicted = task3.predict_probabilities(network, np.array(vectors)).argmax(axis=1)
    assert np.sum(predicted == range(10)) >= 9


def test_the_readme_recognizes_a_digit_with_the_stored_network(
    network, tmp_path, monkeypatch, capsys
):
    parts = (ROOT / "README.md").read_text(encoding="utf-8").split("\n\n")
    code = [part for part in parts if part.startswith("    ")]
    (snippet,) = [part for part in code if "load_checkpoint" in part]
    monkeypatch.chdir(tmp_path)
    task3.save_checkpoint(network, {}, tmp_path / "artifacts" / "mlp.pt")
    draw(3, "thin pen").save("digit.png")
    exec(f"if True:\n{snippet}", {})
    assert capsys.readouterr().out == "[3]\n"


@pytest.mark.parametrize("paper", [WHITE, NOTHING])
def test_paper_without_ink_is_refused_by_the_name_of_its_file(paper, tmp_path):
    path = tmp_path / "digit.png"
    Image.new("RGBA", (50, 40), paper).save(path)
    with pytest.raises(Failure, match=path.name):
        read_digit(path)
