"""The two moons, and the limit that no classifier of them gets below."""

import numpy as np
import pytest

from common.data import bayes_limit, moons


def test_moons_without_noise_lie_on_half_circles():
    data = moons(20_000, 20_000, noise=0, seed=1)
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        x = (x + 1) / 2 * [3, 1.5] + [-1, -0.5]  # from [-1, 1] back to where the half circles touch
        upper, lower = x[y == 0], x[y == 1] - [1, 0.5]
        for moon, side in ((upper, 1), (lower, -1)):
            np.testing.assert_allclose(np.linalg.norm(moon, axis=1), 1, atol=1e-5)
            angles = np.arctan2(side * moon[:, 1], moon[:, 0])
            quarters = np.histogram(angles, 4, (-1e-5, np.pi + 1e-5))[0] / len(moon)
            np.testing.assert_allclose(quarters, 0.25, atol=0.02)  # five standard deviations


def test_the_noise_is_measured_where_a_moon_has_radius_one():
    data = moons(100_000, 2, noise=0.3)
    upper, lower = (data.x_train[data.y_train == label] for label in (0, 1))
    apart = np.array([1, 0.5 - 4 / np.pi])  # between the centres of mass, that of half a circle being 2/π above it
    scale = (lower.mean(axis=0) - upper.mean(axis=0)) / apart
    variance = np.array([1 / 2, 1 / 2 - 4 / np.pi**2])  # of cos and sin over half a circle
    for moon in (upper, lower):
        np.testing.assert_allclose(moon.var(axis=0) / scale**2 - variance, 0.3**2, atol=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_moons_of_the_same_size_are_scaled_by_the_train_split(seed):
    data = moons(101, 5000, 0.08, seed)
    assert np.bincount(data.y_train).tolist() == [51, 50]
    assert np.bincount(data.y_test).tolist() == [2500, 2500]
    np.testing.assert_allclose([data.x_train.min(axis=0), data.x_train.max(axis=0)], [[-1, -1], [1, 1]], rtol=1e-12)
    assert (data.x_test.min(axis=0) < -1).all()
    assert (data.x_test.max(axis=0) > 1).all()


def standardized(x):
    return (x - x.mean(axis=0)) / x.std(axis=0)


def test_the_splits_of_the_moons_come_from_streams_of_their_own():
    data, longer, wider = moons(300, 300, seed=1), moons(400, 300, seed=1), moons(300, 400, seed=1)
    assert np.abs(standardized(data.x_train) - standardized(data.x_test)).max() > 1
    np.testing.assert_allclose(standardized(longer.x_test), standardized(data.x_test), rtol=1e-9)
    assert np.array_equal(wider.x_train, data.x_train)
    assert not np.isin(moons(300, 300, seed=2).x_train, data.x_train).all(axis=1).any()


@pytest.mark.parametrize("arguments", [(1, 5), (5, 1), (5, 5, -0.1), (5, 5, np.nan), (5, 5, np.inf)], ids=str)
def test_moons_that_cannot_be_made_are_refused(arguments):
    with pytest.raises(ValueError, match="expected at least two points"):
        moons(*arguments)


@pytest.mark.parametrize("noise", [0.15, 0.3, 1.0])
def test_the_bayes_limit_is_that_of_bayes_theorem_on_points_of_a_moon_with_noise(noise):
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)  # of a standard normal distribution
    angle = (np.arange(200) + 0.5) * np.pi / 200
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # by symmetry the other moon has the same limit
    x = upper[:, None, None] + noise * np.stack(np.meshgrid(nodes, nodes), axis=-1)  # [200, 12, 12, 2]
    squares = [((x[..., None, :] - moon) ** 2).sum(axis=-1) for moon in (upper, [1, 0.5] - upper)]
    densities = [np.exp(-square / (2 * noise**2)).sum(axis=-1) for square in squares]
    right = densities[0] / sum(densities)
    share = np.outer(weights, weights) / (2 * np.pi * len(angle))
    loss, accuracy = bayes_limit(noise)
    assert loss == pytest.approx(-(share * np.log(right)).sum(), rel=2e-3)
    assert accuracy == pytest.approx(100 * (share * np.maximum(right, 1 - right)).sum(), abs=0.1)


@pytest.mark.parametrize(("noise", "loss", "accuracy"), [(0.02, 0, 100), (200, np.log(2), 50)])
def test_the_bayes_limit_reaches_from_certainty_to_a_guess(noise, loss, accuracy):
    assert bayes_limit(noise) == (pytest.approx(loss, abs=1e-3), pytest.approx(accuracy, abs=0.5))
