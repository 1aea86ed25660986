"""Task 3: network, accuracy and training against NumPy, scikit-learn and a plain loop;
its results on small data.
"""

from itertools import count, pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import figures_of
from scipy.special import softmax
from sklearn import metrics
from torch import nn

import task3
from common.data import convert_mnist_to_vectors, digest, load_data
from common.script import Failure, add_training_flags, script_parser
from common.separation import confused_pairs

NAMES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


def new_network(*sizes, seed=3):
    torch.manual_seed(seed)
    return task3.MultilayerPerceptron(*sizes)


def blobs(count, seed=0):
    """Vectors around ten centres in double precision and their classes: a plain pair,
    as anyone may have it.
    """
    rng, centres = (
        np.random.default_rng(seed),
        np.random.default_rng(99).normal(size=(10, 784)),
    )
    labels = rng.integers(0, 10, count, np.int32)
    return centres[labels] + 4 * rng.normal(size=(count, 784)), labels


def exact_probabilities(model, vectors):
    """The network by hand: a ReLU after each linear layer but the last, then softmax."""
    parameters = [each.detach().double().numpy() for each in model.parameters()]
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        vectors = np.maximum(vectors @ weight.T + bias, 0)
    return softmax(vectors @ parameters[-2].T + parameters[-1], axis=1)


def plain_training(
    model, train_data, test_data, epochs, batch_size, learning_rate, seed
):
    """Train as the sheet asks for, without regard to speed; return the history by
    scikit-learn.
    """
    vectors, labels = (
        torch.tensor(train_data[0]).float(),
        torch.tensor(train_data[1]).long(),
    )
    generator, history = (
        torch.Generator().manual_seed(seed),
        {name: [] for name in NAMES},
    )
    optimizer = task3.OPTIMIZER(model.parameters(), lr=learning_rate)
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=generator)
        for start in range(0, len(labels), batch_size):
            batch = order[start : start + batch_size]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(vectors[batch]), labels[batch]).backward()
            optimizer.step()
        for split, data in (
            ("train", [each[: len(test_data[1])] for each in train_data]),
            ("test", test_data),
        ):
            probabilities = exact_probabilities(model, data[0])
            history[f"{split}_loss"].append(
                metrics.log_loss(data[1], probabilities, labels=range(10))
            )
            history[f"{split}_accuracy"].append(
                100 * metrics.accuracy_score(data[1], probabilities.argmax(axis=1))
            )
    return history


def test_the_network_has_hidden_layers_of_one_size_with_relus_and_gives_logits():
    model, vectors = (
        new_network(7, 3),
        50 * np.random.default_rng(0).integers(-1, 2, (40, 784)),
    )
    assert (
        model.sizes()
        == [784, *[7] * (len(model.sizes()) - 2), 3]
        == [784, *map(len, list(model.parameters())[::2])]
    )
    logits, probabilities = (
        model(torch.tensor(vectors).float()).detach().numpy(),
        exact_probabilities(model, vectors),
    )
    assert logits.min() < 0 < logits.max()
    np.testing.assert_allclose(
        softmax(logits, axis=1), probabilities, rtol=1e-4, atol=1e-6
    )
    for dtype in (np.float32, np.float64, np.int64, np.int8):
        predicted = task3.predict_probabilities(model, vectors.astype(dtype))
        assert predicted.dtype == np.float32
        np.testing.assert_allclose(predicted, probabilities, rtol=1e-4, atol=1e-6)


def test_accuracy_is_the_percentage_of_right_labels():
    logits, labels = (
        torch.randn(40, 10, generator=torch.Generator().manual_seed(0)),
        torch.arange(40) % 10,
    )
    predicted = logits.numpy().argmax(axis=1)
    assert task3.class_label(logits).tolist() == predicted.tolist()
    assert task3.batch_accuracy(logits, labels) == pytest.approx(
        100 * metrics.accuracy_score(labels, predicted)
    )
    with pytest.raises(ValueError, match="expected"):
        task3.batch_accuracy(logits, labels[1:])


@pytest.mark.parametrize(
    ("size", "tested", "batch_size"), [(64, 20, 16), (70, 100, 16), (9, 20, 100)]
)
def test_training_is_the_plain_loop_and_reports_every_epoch(size, tested, batch_size):
    data, reported = (blobs(size), blobs(tested, 1)), []
    settings = {"epochs": 3, "batch_size": batch_size, "learning_rate": 1e-3, "seed": 5}
    history = task3.train(
        new_network(),
        *data,
        **settings,
        report=lambda *given: reported.append(given[0]),
    )
    expected = plain_training(new_network(), *data, **settings)
    assert reported == [1, 2, 3]
    assert 0 < sum(history.pop("seconds")) < 60
    assert history == {
        name: pytest.approx(values, rel=1e-4) for name, values in expected.items()
    }
    with pytest.raises(ValueError, match="labels"):
        task3.train(new_network(), data[0], (data[1][0], data[1][1][1:]))


# An epoch of 50 images in batches of 16 has four steps, and then validates on the train
# images and on the test images.
@pytest.mark.parametrize(
    ("broken", "epoch", "step"), [(1, 1, 1), (3, 1, 3), (5, 1, 4), (6, 1, 4), (9, 2, 3)]
)
def test_divergence_is_named_by_its_epoch_and_step(broken, epoch, step):
    model, calls = new_network(), count(1)
    model.register_forward_hook(
        lambda module, inputs, logits: logits * (np.nan if next(calls) == broken else 1)
    )
    with pytest.raises(Failure, match=rf"epoch {epoch}, step {step};.*--learning-rate"):
        task3.train(model, blobs(50), blobs(20, 1), epochs=3, batch_size=16)


@pytest.fixture(scope="module")
def ran(small_mnist, tmp_path_factory):
    """The results of task 3, its figures, which stay open as they do with --show, both
    splits and the checkpoint.
    """
    folder, parser = (
        tmp_path_factory.mktemp("task3"),
        script_parser("", data=True, model=True),
    )
    add_training_flags(parser, **task3.DEFAULTS)
    flags = [
        "--data-dir",
        small_mnist,
        "--figures",
        folder,
        "--checkpoint",
        folder / "mlp.pt",
        "--device",
        "cpu",
    ]
    settings = ["--seed", 1, "--epochs", 5, "--batch-size", 20, "--learning-rate", 1e-3]
    results, figures = figures_of(
        task3.main, parser.parse_args(map(str, [*flags, *settings]))
    )
    return (
        results,
        figures,
        [load_data(split, small_mnist) for split in (True, False)],
        folder / "mlp.pt",
    )


def test_the_results_describe_the_checkpoint_which_is_what_the_plain_loop_gives(ran):
    results, _, data, checkpoint = ran
    (_, settings), plain = task3.read_checkpoint(checkpoint), new_network(seed=1)
    known = {
        "epochs": 5,
        "batch_size": 20,
        "learning_rate": 1e-3,
        "optimizer": task3.OPTIMIZER.__name__,
        "seed": 1,
    }
    assert (
        results["network"]
        == settings
        == {**known, "layers": plain.sizes(), "data": digest(data[0])}
    )
    assert (results["seed"], results["data"]) == (
        1,
        {"train": digest(data[0]), "test": digest(data[1])},
    )
    assert results["parameters"] == sum(
        (before + 1) * after for before, after in pairwise(plain.sizes())
    )
    history = plain_training(
        plain, *map(convert_mnist_to_vectors, data), 5, 20, 1e-3, 1
    )
    assert results["history"] == {
        name: pytest.approx(values, rel=1e-3) for name, values in history.items()
    }
    assert (
        results["timing"]["device"],
        0 < results["timing"]["seconds_per_epoch"] < 60,
    ) == ("cpu", True)


def test_the_errors_are_those_of_the_checkpoint_and_the_figures_show_them(ran):
    results, (training, errors), (_, (images, labels)), checkpoint = ran
    probabilities = exact_probabilities(
        task3.read_checkpoint(checkpoint)[0], images.reshape(-1, 784) / 127.5 - 1
    )
    predicted = probabilities.argmax(axis=1)
    matrix = metrics.confusion_matrix(labels, predicted)
    recalls, pairs = (
        100 * metrics.recall_score(labels, predicted, average=None),
        confused_pairs(matrix),
    )
    assert results["confused_pairs"] == pairs
    assert f"epoch 5:\n{matrix.trace() / 3:.1f} %" in {
        *map(plt.Text.get_text, training.axes[2].texts)
    }  # of 300
    cells = {
        each.get_position(): each.get_text() for each in training.axes[1].texts
    }  # column, row
    assert all(
        cells[column, row] == (str(n) if n else "")
        for (row, column), n in np.ndenumerate(matrix)
    )
    assert [cells[9.8, row] for row in range(10)] == [
        f"{recall:.1f}" for recall in recalls
    ]
    boxes = sorted(tuple(np.add(box.get_xy(), 0.5)) for box in training.axes[1].patches)
    assert boxes == sorted(
        tuple(pair["classes"][::way]) for pair in pairs[:3] for way in (1, -1)
    )
    surest = np.argsort(-probabilities.max(axis=1) * (predicted != labels))[
        : results["shown_errors"]
    ]
    assert len(surest) == min(10, (predicted != labels).sum())
    for axes, number in zip(errors.axes, surest, strict=True):
        assert (
            axes.get_title()
            == f"{labels[number]} → {predicted[number]}\n{100 * probabilities[number].max():.1f} %"
        )
        assert np.array_equal(axes.images[0].get_array(), images[number])
