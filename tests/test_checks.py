"""Library calls refuse, with ValueError, what would otherwise give a wrong answer silently."""

import re

import numpy as np
import pytest
import torch

from common.checks import check_labels, check_shape
from common.data import Images, Vectors, convert_mnist_to_vectors, moons
from common.normalization import BatchNorm, LayerNorm
from common.pca import do_pca
from task1 import MLP, CrossEntropyLoss, Linear, ReLU, Softmax
from task3 import MultilayerPerceptron, batch_accuracy, class_label, predict_probabilities, train
from task4 import extract_features

ONES = np.ones((4, 3))
LAYERS = {
    "Linear": lambda: Linear(3, 2),
    "ReLU": ReLU,
    "Softmax": Softmax,
    "BatchNorm": lambda: BatchNorm(3),
    "LayerNorm": lambda: LayerNorm(3),
}


@pytest.mark.parametrize("expected", [(4, 3), ("N", 3), (4, "C"), ("N", "C")], ids=str)
def test_a_shape_that_fits_is_accepted(expected):
    check_shape(ONES, *expected)


@pytest.mark.parametrize("shape", [(4,), (4, 3, 1), (3, 4), (4, 2), (0, 3), ()], ids=str)
def test_a_shape_that_does_not_fit_is_named_beside_the_expected_one(shape):
    message = f"expected an array of shape [N, 3], got {list(shape)}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_shape(np.ones(shape), "N", 3)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_labels_of_every_class_are_accepted(dtype):
    check_labels(np.array([0, 2, 1, 0], dtype), 4, 3)


LABELS = [[0, 1, 3, 0], [0, -1, 0, 0], [0, 1], [[0], [1], [0], [1]], [0.0, 1.0, 0.0, 1.0]]


@pytest.mark.parametrize("labels", LABELS, ids=str)
def test_labels_that_are_no_classes_are_refused(labels):
    for loss in (CrossEntropyLoss().forward, MLP(3, (), 3).loss):
        with pytest.raises(ValueError, match=r"expected .*labels"):
            loss(ONES, np.array(labels))


@pytest.mark.parametrize("remember_first", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_backward_without_a_remembered_forward_is_refused(name, remember_first):
    layer = LAYERS[name]()
    if remember_first:
        layer.forward(ONES)
    with pytest.raises(ValueError, match="remember=True"):
        layer.backward(ONES)


@pytest.mark.parametrize("gradient", [np.ones((4, 1)), np.ones((1, 3)), np.ones(3)], ids=np.shape)
@pytest.mark.parametrize("name", LAYERS)
def test_a_gradient_of_another_shape_is_refused(name, gradient):
    layer = LAYERS[name]()
    layer.forward(ONES, remember=True)
    with pytest.raises(ValueError, match=r"expected an array of shape \[4, [23]\]"):
        layer.backward(gradient)


@pytest.mark.parametrize("x", [np.ones(3), np.ones((4, 1)), np.ones((0, 3))], ids=np.shape)
@pytest.mark.parametrize("name", ["Linear", "BatchNorm", "LayerNorm"])
def test_an_input_of_another_shape_is_refused(name, x):
    with pytest.raises(ValueError, match=r"expected an array of shape \[N, 3\]"):
        LAYERS[name]().forward(x)


def test_batch_norm_refuses_a_batch_of_one_in_training_only():
    layer = BatchNorm(3)
    assert layer.forward(ONES[:1]).shape == (1, 3)
    with pytest.raises(ValueError, match="at least two"):
        layer.forward(ONES[:1], remember=True)


@pytest.mark.parametrize("criterion", [CrossEntropyLoss(), MLP()], ids=lambda criterion: type(criterion).__name__)
def test_the_backward_pass_of_a_loss_needs_a_forward_pass(criterion):
    with pytest.raises(ValueError, match="remember=True"):
        criterion.backward()


@pytest.mark.parametrize(
    "make",
    [
        lambda: MLP(normalization="group"),
        lambda: MLP(hidden_channels=(0,)),
        lambda: Linear(3, 0),
        lambda: moons(1, 5),
        lambda: moons(5, 1),
        lambda: moons(5, 5, noise=-0.1),
        lambda: moons(5, 5, noise=np.nan),
    ],
)
def test_networks_and_data_that_cannot_be_made_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()


@pytest.mark.parametrize(
    "array", [np.zeros((2, 10), complex), np.array([["a", "b"], ["c", "d"]])], ids=["complex", "str"]
)
def test_pca_refuses_what_is_no_real_matrix(array):
    with pytest.raises(ValueError, match="expected real vectors"):
        do_pca(array)


@pytest.mark.parametrize(
    ("shape", "dtype", "count"), [((2, 32, 32), np.uint8, 2), ((2, 28, 28), float, 2), ((2, 28, 28), np.uint8, 3)]
)
def test_images_of_another_kind_are_not_made_vectors(shape, dtype, count):
    with pytest.raises(ValueError, match="expected uint8 images"):
        convert_mnist_to_vectors(Images(np.zeros(shape, dtype), np.zeros(count, np.int64)))


@pytest.mark.parametrize(("width", "labels"), [(783, [0, 1]), (784, [0, 10]), (784, [0]), (784, [0.0, 1.0])])
@pytest.mark.parametrize("split", ["train", "test"])
def test_training_refuses_data_of_another_kind(split, width, labels):
    good = Vectors(np.zeros((2, 784), np.float32), np.array([0, 1]))
    bad = Vectors(np.zeros((2, width), np.float32), np.array(labels))
    with pytest.raises(ValueError, match="expected"):
        train(MultilayerPerceptron(), *((bad, good) if split == "train" else (good, bad)))


@pytest.mark.parametrize("function", [predict_probabilities, extract_features])
def test_the_network_refuses_vectors_of_another_length(function):
    with pytest.raises(ValueError, match=r"\[N, 784\]"):
        function(MultilayerPerceptron(), np.zeros((2, 28), np.float32))


def test_class_labels_and_accuracy_refuse_a_single_row_without_its_batch():
    for call in (lambda: class_label(torch.zeros(10)), lambda: batch_accuracy(torch.zeros(10), torch.zeros(1))):
        with pytest.raises(ValueError, match=r"\[N, C\]"):
            call()
