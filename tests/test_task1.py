"""The hand-written network: gradients, losses, data and training."""

import numpy as np
import pytest

from common.moons import moons
from task1 import MLP, CrossEntropyLoss, Linear, ReLU, Softmax, train


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("hidden_channels", [(), (30, 30)])
def test_closed_form_equals_the_chain_through_loss_and_softmax(hidden_channels, seed):
    rng = np.random.default_rng(seed)
    mlp = MLP(3, hidden_channels, 4, seed)
    x, y = rng.normal(size=(6, 3)), rng.integers(0, 4, 6)
    loss = mlp.loss(x, y)
    closed = mlp.backward()

    criterion = CrossEntropyLoss()
    assert criterion.forward(mlp.forward(x, remember=True), y) == pytest.approx(loss, rel=1e-12)
    chain = criterion.backward()
    for layer in reversed(mlp.layers):
        chain = layer.backward(chain)
    np.testing.assert_allclose(chain, closed, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("scale", [1e4, 1e300, 1.7e308])
def test_softmax_and_loss_are_finite_for_extreme_logits(scale):
    logits = scale * np.array([[1.0, -1.0], [-1.0, 1.0]])
    p = Softmax().forward(logits)
    assert np.array_equal(p, [[1, 0], [0, 1]])
    assert np.isfinite(CrossEntropyLoss().forward(p, np.array([1, 1])))
    mlp = MLP(2, (), 2)
    mlp.layers[0].weight[:] = np.eye(2)
    assert np.isfinite(mlp.loss(logits, np.array([1, 1])))
    assert np.isfinite(mlp.backward()).all()


def test_forward_without_remember_keeps_nothing():
    for layer in (Linear(2, 3, np.random.default_rng(0)), ReLU(), Softmax()):
        before = dict(vars(layer))
        layer.forward(np.ones((4, 2)))
        assert vars(layer) == before


@pytest.mark.parametrize("seed", range(3))
def test_moons_are_scaled_by_the_train_split_and_drawn_independently(seed):
    data = moons(400, 300, 0.08, seed)
    assert data.x_train.shape == (400, 2)
    assert data.x_test.shape == (300, 2)
    np.testing.assert_allclose(data.x_train.min(axis=0), -1)
    np.testing.assert_allclose(data.x_train.max(axis=0), 1)
    assert np.bincount(data.y_train).tolist() == [200, 200]
    assert not np.isin(data.x_test, data.x_train).any()


def test_training_separates_the_moons_and_repeats_itself():
    data = moons(1000, 500, 0.08, 0)
    histories = [train(MLP(seed=1), data, epochs=8, learning_rate=0.2, seed=2) for _ in range(2)]
    assert histories[0] == histories[1]
    assert len(histories[0]["train_loss"]) == len(histories[0]["test_loss"]) == 8
    assert histories[0]["test_loss"][-1] < 0.1 < histories[0]["test_loss"][0]


def test_divergence_is_named_with_epoch_and_step():
    with pytest.raises(ValueError, match=r"epoch \d+, step \d+.*smaller"):
        train(MLP(), moons(64, 64), learning_rate=1e200)
