"""Task 3: network, accuracy and training against NumPy, scikit-learn and a plain loop;
its results on small data.
"""

import argparse

import numpy as np
import pytest
import torch
from conftest import figures_of, forward
from scipy.special import softmax
from sklearn import metrics
from torch import nn

import task3
from common.data import convert_mnist_to_vectors, digest, load_data, thin

# The last of 18 batches is smaller than the others
SETTINGS = {"epochs": 5, "batch_size": 35, "learning_rate": 1e-3}
NAMES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
VECTORS = np.random.default_rng(0).normal(size=(40, 784))
LABELS = np.arange(40) % 10


def new_network(*sizes):
    torch.manual_seed(1)
    return task3.MultilayerPerceptron(*sizes)


def flags(folder, data_dir=None):
    """The options of task 3, of which all that is written stays in a folder."""
    return argparse.Namespace(
        **SETTINGS,
        seed=1,
        data_dir=data_dir,
        figures=folder,
        checkpoint=folder / "mlp.pt",
        device="cpu",
    )


def exact_probabilities(model, vectors):
    return softmax(forward(model, vectors)[-1], axis=1)


def plain_training(model, train, test):
    """Train as the sheet asks for, without regard to speed; return train loss, train
    accuracy, test loss and test accuracy by scikit-learn [epochs, 4].
    """
    images = torch.tensor(train.vectors)
    labels = torch.tensor(train.labels)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=SETTINGS["learning_rate"])
    some = thin(train, 300)  # as many as in the test
    history = []
    for _ in range(SETTINGS["epochs"]):
        order = torch.randperm(len(labels), generator=generator)
        for start in range(0, len(labels), SETTINGS["batch_size"]):
            batch = order[start : start + SETTINGS["batch_size"]]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        row = []
        for data in (some, test):
            p = exact_probabilities(model, data.vectors)
            row.append(metrics.log_loss(data.labels, p))
            row.append(100 * metrics.accuracy_score(data.labels, p.argmax(axis=1)))
        history.append(row)
    return np.array(history)


def test_the_network_has_hidden_layers_of_one_size_with_relus_and_gives_logits():
    torch.set_default_dtype(torch.float64)  # it is of single precision all the same
    model = new_network(7, 5)
    torch.set_default_dtype(torch.float32)
    sizes = [len(weight) for weight in list(model.parameters())[::2]]
    assert task3.layer_sizes(model) == [784, *sizes] == [784, 7, 7, 7, 7, 5]
    vectors = np.random.default_rng(0).integers(-50, 50, (40, 784))
    logits = model(torch.tensor(vectors).float())
    expected = exact_probabilities(model, vectors)
    assert logits.min() < 0 < logits.max()
    predicted = task3.predict_probabilities(model, vectors)  # of integers
    assert predicted.dtype == np.float32
    np.testing.assert_allclose(predicted, expected, atol=1e-5)


def test_accuracy_is_the_percentage_of_right_labels():
    logits = torch.tensor([[3.0, 1, 2], [0, 0, 9], [-1, -2, -3]])
    assert task3.class_label(logits).tolist() == [0, 2, 0]
    accuracy = task3.batch_accuracy(logits, torch.tensor([0, 2, 1]))
    assert accuracy == pytest.approx(200 / 3)
    with pytest.raises(ValueError, match="expected"):
        task3.batch_accuracy(logits, torch.tensor([0, 2]))


def test_an_epoch_of_mnist_recognizes_88_per_cent_and_restores_the_threads(tmp_path):
    train = convert_mnist_to_vectors(load_data(True))
    test = convert_mnist_to_vectors(load_data(False))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    settings = task3.DEFAULTS | {"epochs": 1}
    _, history, _ = task3.train_and_save(train, test, flags(tmp_path), settings, "")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert history["test_accuracy"][0] > 88


@pytest.mark.parametrize(
    ("vectors", "labels"),
    [
        (VECTORS[:, 1:], LABELS),
        (VECTORS, LABELS[1:]),
        (VECTORS, LABELS - 1),
        (VECTORS, LABELS + 0.5),
    ],
)
def test_other_data_than_vectors_and_labels_are_refused(vectors, labels):
    with pytest.raises(ValueError, match="expected"):
        task3.train(new_network(), (VECTORS, LABELS), (vectors, labels))


@pytest.fixture(scope="module")
def ran(small_mnist, tmp_path_factory):
    """The results of task 3, its figures, both splits, the network and its settings."""
    options = flags(tmp_path_factory.mktemp("task3"), small_mnist)
    results, figures = figures_of(task3.main, options)
    train = load_data(True, small_mnist)
    test = load_data(False, small_mnist)
    model, settings = task3.read_checkpoint(options.checkpoint)
    return results, figures, train, test, model, settings


def test_the_results_and_the_checkpoint_are_what_the_plain_loop_gives(ran):
    results, _, train, test, model, settings = ran
    known = {
        "optimizer": "Adam",
        "layers": task3.layer_sizes(model),
        "data": digest(train),
    }
    assert settings == SETTINGS | known | {"seed": 1}
    assert results["network"] == settings
    assert results["data"] == {"train": digest(train), "test": digest(test)}
    assert results["parameters"] == sum(each.numel() for each in model.parameters())
    vectors = convert_mnist_to_vectors(train), convert_mnist_to_vectors(test)
    history = [results["history"][name] for name in NAMES]
    expected = plain_training(new_network(), *vectors).T
    np.testing.assert_allclose(history, expected, rtol=1e-3)


def test_the_most_confused_pairs_are_two_or_as_many_as_tie_with_the_second():
    matrix = np.eye(10, dtype=int)
    assert task3.most_confused(matrix) == []
    matrix[3, 5] = 1
    matrix[5, 3] = matrix[0, 2] = matrix[9, 4] = 9
    assert task3.most_confused(matrix) == [
        {"classes": [3, 5], "images": 10},
        {"classes": [0, 2], "images": 9},
        {"classes": [4, 9], "images": 9},
    ]
    matrix[9, 4] = 8
    assert len(task3.most_confused(matrix)) == 2


def test_the_figures_show_the_errors_of_the_checkpoint(ran):
    results, (training, errors), _, (images, labels), model, _ = ran
    probabilities = exact_probabilities(model, images.reshape(-1, 784) / 127.5 - 1)
    predicted = probabilities.argmax(axis=1)
    matrix = metrics.confusion_matrix(labels, predicted)
    recalls = 100 * metrics.recall_score(labels, predicted, average=None)
    axes = training.axes[1]
    texts = [text.get_text() for text in axes.texts]
    assert texts[:100] == [str(count or "") for count in matrix.flat]
    assert texts[-10:] == [f"{recall:.1f}" for recall in recalls]
    note = f"epoch 5:\n{results['history']['test_accuracy'][4]:.1f} %"
    assert note in [text.get_text() for text in training.axes[2].texts]

    assert results["confused_pairs"] == task3.most_confused(matrix)
    errors_first = np.argsort(-(matrix - np.diag(np.diag(matrix))), axis=None)
    brightness = axes.images[0].get_array()[:, :, 0].flat[errors_first]
    assert np.all(np.diff(brightness) >= 0)

    surest = np.argsort(-probabilities.max(axis=1) * (predicted != labels))[:10]
    assert results["shown_errors"] == 10
    for axes, k in zip(errors.axes, surest, strict=True):
        share = 100 * probabilities[k].max()
        assert axes.get_title() == f"{labels[k]} → {predicted[k]}\n{share:.1f} %"
        assert np.array_equal(axes.images[0].get_array(), images[k])
