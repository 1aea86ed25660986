"""Batch and layer normalization: what leaves the layers (their gradients are in test_gradients.py)."""

import numpy as np
import pytest
import torch

from common.normalization import BatchNorm, LayerNorm, normalization_layers

CLOSE = {"rtol": 1e-12, "atol": 1e-12}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", [2, 6])
def test_batch_norm_equals_torch_with_its_running_statistics(batch, training):
    rng = np.random.default_rng(batch)
    ours, theirs = BatchNorm(4), torch.nn.BatchNorm1d(4, dtype=torch.float64)
    for _ in range(3):
        x = rng.normal(3, 2, (batch, 4))
        np.testing.assert_allclose(ours.forward(x, remember=True), theirs(torch.from_numpy(x)).detach(), **CLOSE)
    np.testing.assert_allclose(ours.running_mean, theirs.running_mean, **CLOSE)
    np.testing.assert_allclose(ours.running_variance, theirs.running_var, **CLOSE)
    theirs.train(training)
    x = rng.normal(size=(batch, 4))
    np.testing.assert_allclose(ours.forward(x, training), theirs(torch.from_numpy(x)).detach(), **CLOSE)


def test_batch_norm_in_evaluation_treats_each_row_alone_and_learns_no_statistics():
    rng = np.random.default_rng(0)
    layer = BatchNorm(3)
    layer.forward(rng.normal(1, 2, (8, 3)), remember=True)
    mean, variance = layer.running_mean.copy(), layer.running_variance.copy()
    x = rng.normal(size=(5, 3))
    rows = [layer.forward(row[None]) for row in x]
    assert np.array_equal(np.concatenate(rows), layer.forward(x))
    assert np.array_equal(layer.running_mean, mean)
    assert np.array_equal(layer.running_variance, variance)


@pytest.mark.parametrize("remember", [True, False])
def test_layer_norm_equals_torch_in_training_and_evaluation(remember):
    x = np.random.default_rng(0).normal(3, 2, (5, 7))
    theirs = torch.nn.LayerNorm(7, dtype=torch.float64)(torch.from_numpy(x)).detach()
    np.testing.assert_allclose(LayerNorm(7).forward(x, remember), theirs, **CLOSE)


@pytest.mark.parametrize(("layer", "axis"), [(BatchNorm(4), 0), (LayerNorm(4), 1)])
def test_scale_and_shift_become_the_deviation_and_the_mean_of_what_leaves(layer, axis):
    layer.scale[:], layer.shift[:] = 3, -1
    y = layer.forward(np.random.default_rng(0).normal(5, 20, (50, 4)), remember=True)
    np.testing.assert_allclose(y.mean(axis=axis), -1, atol=1e-12)
    np.testing.assert_allclose(y.std(axis=axis), 3, rtol=1e-4)  # EPSILON takes a little


def test_a_constant_input_is_normalized_to_zero():
    for layer in (BatchNorm(3), LayerNorm(3)):
        assert np.array_equal(layer.forward(np.full((4, 3), 7.0), remember=True), np.zeros((4, 3)))
        assert np.isfinite(layer.backward(np.arange(12.0).reshape(4, 3))).all()


def test_the_methods_have_names():
    kinds = [[type(layer) for layer in normalization_layers(method, 3)] for method in (None, "batch", "layer")]
    assert kinds == [[], [BatchNorm], [LayerNorm]]
