"""Batch and layer normalization are those of torch (their gradients are checked in test_network.py)."""

import numpy as np
import pytest
import torch

from common.normalization import BatchNorm, LayerNorm, normalization_layers


@pytest.mark.parametrize("batch", [2, 6])
@pytest.mark.parametrize(("method", "kind"), [("batch", torch.nn.BatchNorm1d), ("layer", torch.nn.LayerNorm)])
def test_each_method_equals_torch_in_training_and_evaluation_with_any_scale_and_shift(method, kind, batch):
    rng = np.random.default_rng(batch)
    (ours,), theirs = normalization_layers(method, 4), kind(4, dtype=torch.float64)
    for training in (False, True, True, False, False, True, False):
        x = rng.normal(3, 2, (batch, 4))
        expected = theirs.train(training)(torch.from_numpy(x)).detach()
        np.testing.assert_allclose(ours.forward(x, remember=training), expected, rtol=1e-12, atol=1e-12)
        ours.scale, ours.shift = rng.normal(size=(2, 4))
        parameters = {"weight": torch.from_numpy(ours.scale), "bias": torch.from_numpy(ours.shift)}
        theirs.load_state_dict(parameters, strict=False)


def test_without_a_method_there_is_no_layer_and_an_unknown_one_is_refused():
    assert normalization_layers(None, 3) == []
    with pytest.raises(ValueError, match="expected normalization None, 'batch' or 'layer', got 'group'"):
        normalization_layers("group", 3)


def test_batch_norm_refuses_a_batch_of_one_in_training_only():
    layer = BatchNorm(3)
    assert layer.forward(np.ones((1, 3))).shape == (1, 3)
    with pytest.raises(ValueError, match="at least two"):
        layer.forward(np.ones((1, 3)), remember=True)


@pytest.mark.parametrize("kind", [BatchNorm, LayerNorm])
def test_a_constant_input_is_normalized_to_zero_with_finite_gradients(kind):
    layer = kind(3)
    assert not layer.forward(np.full((4, 3), 7.0), remember=True).any()
    assert np.isfinite(layer.backward(np.arange(12.0).reshape(4, 3))).all()
