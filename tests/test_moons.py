"""The two moons."""

import numpy as np
import pytest
from scipy import stats

from common.data import moons, random_moons


def test_moons_without_noise_lie_on_half_circles():
    x, y = random_moons(20_001, 0, np.random.default_rng(1))
    assert np.bincount(y).tolist() == [10_001, 10_000]
    for moon, side in ((x[y == 0], 1), (x[y == 1] - [1, 0.5], -1)):
        angles = np.arctan2(side * moon[:, 1], moon[:, 0])
        quarters = np.histogram(angles, 4, (0, np.pi))[0] / len(moon)
        np.testing.assert_allclose(quarters, 0.25, atol=0.02)  # 4 deviations and more


def test_noise_is_normal_and_of_the_given_deviation():
    exact, _ = random_moons(20_000, 0, np.random.default_rng(1))
    x, _ = random_moons(20_000, 0.1, np.random.default_rng(1))
    noise = x - exact
    assert stats.kstest(noise.ravel() / 0.1, "norm").pvalue > 0.01


def test_both_splits_are_scaled_by_the_train_split():
    x_train, y_train, x_test, y_test = moons(20_000, 300, noise=0)
    for x, y in ((x_train, y_train), (x_test, y_test)):
        circles = (x + 1) / 2 * [3, 1.5] + [-1, -0.5]  # back to where the radius is one
        circles -= np.outer(y, [1, 0.5])
        np.testing.assert_allclose(np.linalg.norm(circles, axis=1), 1, atol=1e-5)


def test_the_splits_of_the_moons_come_from_streams_of_their_own():
    data = moons(300, 300, seed=1)
    wider = moons(300, 400, seed=1)
    other = moons(300, 300, seed=2)
    scaled = stats.zscore(data.x_train), stats.zscore(data.x_test)
    assert np.abs(np.subtract(*scaled)).max() > 1
    assert np.array_equal(wider.x_train, data.x_train)
    assert not np.isin(other.x_train, data.x_train).all(axis=1).any()


@pytest.mark.parametrize("arguments", [(1, 5), (5, 1), (5, 5, -0.1), (5, 5, np.inf)])
def test_moons_that_cannot_be_made_are_refused(arguments):
    with pytest.raises(ValueError, match="expected at least two points"):
        moons(*arguments)
